"""A slide with damaged parts -> what of it can be read, and where nothing can.

A reader gives up a whole rectangle for one damaged tile in it. Here the rectangle is cut into
stored tiles; what is damaged in a reduced level is made from a finer one, and the rest is white and
on record.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slide.readers.base import WHITE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.slide.readers import Reader

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, level-0 px."""


def read_salvaged(
    reader: Reader, level: int, xy: tuple[int, int], size_wh: tuple[int, int], lost: list[Box]
) -> NDArray[np.uint8]:
    """Read what can be read of a rectangle.

    Parameters
    ----------
    reader : Reader
        The open slide.
    level : int
        Level, 0 is the finest.
    xy, size_wh : tuple of int
        Top-left corner, and width and height, px of that level.
    lost : list of Box
        Is given what cannot be read at any level.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        RGB; white where it is lost.
    """
    try:
        return reader.read(level, xy, size_wh)
    except SlideReadError:
        pixels = np.empty((size_wh[1], size_wh[0], 3), dtype=np.uint8)
    tile_wh = reader.tile_wh(level)
    columns, rows = (_cut(*axis) for axis in zip(xy, size_wh, tile_wh, strict=True))
    for (left, right), (top, bottom) in product(columns, rows):
        part = _read_part(reader, level, (left, top), (right - left, bottom - top), lost)
        pixels[top - xy[1] : bottom - xy[1], left - xy[0] : right - xy[0]] = part
    return pixels


def _cut(start: int, length: int, step: int) -> list[tuple[int, int]]:
    """Cut a range where stored tiles meet."""
    inner = range((start // step + 1) * step, start + length, step)
    return list(pairwise([start, *inner, start + length]))


def _read_part(
    reader: Reader, level: int, xy: tuple[int, int], size_wh: tuple[int, int], lost: list[Box]
) -> NDArray[np.uint8]:
    """Read what lies in one stored tile."""
    try:
        return reader.read(level, xy, size_wh)
    except SlideReadError:
        if level > 0:
            return _read_finer(reader, level, xy, size_wh, lost)
    lost.append((xy[0], xy[1], xy[0] + size_wh[0], xy[1] + size_wh[1]))
    return np.full((size_wh[1], size_wh[0], 3), WHITE, dtype=np.uint8)


def _read_finer(
    reader: Reader, level: int, xy: tuple[int, int], size_wh: tuple[int, int], lost: list[Box]
) -> NDArray[np.uint8]:
    """Make a rectangle of a level from the next finer one."""
    sizes = zip(reader.level_sizes_wh[level - 1], reader.level_sizes_wh[level], strict=True)
    scales = [finer / coarse for finer, coarse in sizes]
    corner = int(xy[0] * scales[0]), int(xy[1] * scales[1])
    finer_wh = max(1, round(size_wh[0] * scales[0])), max(1, round(size_wh[1] * scales[1]))
    finer = read_salvaged(reader, level - 1, corner, finer_wh, lost)
    return np.asarray(cv2.resize(finer, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)
