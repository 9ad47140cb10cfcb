"""A MIRAX slide of one level, written by hand: the format whose scanned part has room around it."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

VERSION = b"01.02"
SLIDE = "f" * 32
TILE_PX = 256

_INI = """[GENERAL]
SLIDE_VERSION = {version}
SLIDE_ID = {slide}
IMAGENUMBER_X = {across}
IMAGENUMBER_Y = {down}
OBJECTIVE_MAGNIFICATION = 20
CameraImageDivisionsPerSide = 1
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = Index.dat
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_VAL_0 = ZoomLevel_0
HIER_0_VAL_0_SECTION = LEVEL_0
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
[LEVEL_0]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = {mpp}
MICROMETER_PER_PIXEL_Y = {mpp}
IMAGE_FORMAT = JPEG
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = {tile}
DIGITIZER_HEIGHT = {tile}
IMAGE_CONCAT_FACTOR = 0
"""


def write_mirax(
    path: Path, rgb: NDArray[np.uint8], first_tile: tuple[int, int], mpp: float = 0.5
) -> None:
    """Write a picture of whole tiles that begins at a tile (column, row) of the slide."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    rows, columns = rgb.shape[0] // TILE_PX, rgb.shape[1] // TILE_PX
    across, down = first_tile[0] + columns, first_tile[1] + rows
    values = {"version": VERSION.decode(), "slide": SLIDE, "across": across, "down": down}
    (folder / "Slidedat.ini").write_text(_INI.format(**values, mpp=mpp, tile=TILE_PX))
    head = VERSION + SLIDE.encode()
    data, records = bytearray(head), []
    for row, column in np.ndindex(rows, columns):
        y, x = row * TILE_PX, column * TILE_PX
        jpeg = _jpeg(rgb[y : y + TILE_PX, x : x + TILE_PX])
        number = (row + first_tile[1]) * across + column + first_tile[0]
        records.append((number, len(data), len(jpeg), 0))
        data += jpeg
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_index(head, records))
    path.write_bytes(_jpeg(rgb[::4, ::4]))


def _index(head: bytes, records: list[tuple[int, int, int, int]]) -> bytes:
    """Point from the root to the one level, from there to its one page of records."""
    root, page = len(head) + 8, len(head) + 12
    pointers = struct.pack("<3i", root, 0, page) + struct.pack("<4i", 0, page + 8, len(records), 0)
    return head + pointers + b"".join(struct.pack("<4i", *record) for record in records)


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]))[1])
