"""Known pixels -> small slide files in the containers and compressions that scanners write.

Writes files only; what a reader makes of them is tested elsewhere.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

MPP = 0.499
TILE = 64
APERIO = "Aperio Image Library v11.2.1 \r\n{w}x{h} [0,0 {w}x{h}] ({tile}x{tile}) {codec}|{fields}"
_PER_CM: dict[str, Any] = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
_JPEG_TABLES_TAG, _UNDEFINED_TYPE = 347, 7

_JPEG: dict[str, Any] = {
    "compression": "jpeg",
    "compressionargs": {"level": 92},
    "subsampling": (1, 1),
}

RGB = NDArray[np.uint8]


def picture(width: int = 300, height: int = 200, seed: int = 0) -> RGB:
    """Draw smooth colours with fine texture, so that shifts show and JPEG keeps them."""
    rows, cols = np.mgrid[0:height, 0:width]
    waves = [
        120 + 60 * np.sin(cols / (9 + 4 * band)) * np.cos(rows / (7 + 3 * band))
        for band in range(3)
    ]
    noise = np.random.default_rng(seed).integers(-6, 7, size=(height, width, 1))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


def halved(pixels: RGB) -> RGB:
    """Shrink by two, as scanners do: means of 2 x 2 pixels, an odd last row or column dropped."""
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
    blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, -1)
    return np.asarray(blocks.mean(axis=(1, 3)).round(), dtype=np.uint8)


@dataclass(frozen=True)
class Container:
    """A way to write a slide.

    ``write(path, pixels)`` writes it; ``tolerance`` is the loss of its compression in counts.
    """

    name: str
    suffix: str
    write: Callable[[Path, RGB], None]
    tolerance: int = 0

    def __str__(self) -> str:
        return self.name


def write_pyramid(path: Path, pixels: RGB, levels: int = 3, **options: object) -> None:
    """Write a generic pyramid: a page per level, the smaller ones marked as reduced."""
    given: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", **_PER_CM, **options}
    is_planar = given.get("planarconfig") == "separate"
    with tifffile.TiffWriter(path, byteorder=given.pop("byteorder", "<")) as tif:
        for level in range(levels):
            planes = np.moveaxis(pixels, -1, 0) if is_planar else pixels
            tif.write(planes, subfiletype=int(level > 0), metadata=None, **given)
            pixels = halved(pixels)


def write_svs(
    path: Path,
    pixels: RGB,
    fields: str = f"AppMag = 20|MPP = {MPP}",
    tile: int = TILE,
    **options: object,
) -> None:
    """Write an Aperio slide: base, untiled thumbnail, one reduced level, label and macro."""
    height, width = pixels.shape[:2]
    about = APERIO.format(w=width, h=height, tile=tile, codec="JPEG/RGB Q=70", fields=fields)
    common: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    tiled: dict[str, Any] = {**common, "tile": (tile, tile), **options}
    thumbnail = np.ascontiguousarray(pixels[::3, ::3])
    with tifffile.TiffWriter(path) as tif:
        tif.write(pixels, description=about, **tiled)
        tif.write(thumbnail, description=about, **common)
        tif.write(halved(pixels), description=about, **tiled)
        label = np.zeros((40, 30, 3), np.uint8)
        tif.write(label, description=about + "\r\nlabel 30x40", subfiletype=1, **common)
        tif.write(label, description=about + "\r\nmacro 30x40", subfiletype=9, **common)


def write_ome(path: Path, pixels: RGB, levels: int = 3, **options: object) -> None:
    """Write an OME-TIFF whose smaller levels are SubIFDs."""
    given: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", **options}
    metadata = {
        "axes": "CYX" if given.get("planarconfig") == "separate" else "YXS",
        "PhysicalSizeX": MPP / 1000,
        "PhysicalSizeXUnit": "mm",
        "PhysicalSizeY": MPP * 1000,
        "PhysicalSizeYUnit": "nm",
    }
    with tifffile.TiffWriter(path, ome=True) as tif:
        for level in range(levels):
            planes = np.moveaxis(pixels, -1, 0) if metadata["axes"] == "CYX" else pixels
            if level == 0:
                tif.write(planes, subifds=levels - 1, metadata=metadata, **given)
            else:
                tif.write(planes, subfiletype=1, metadata=None, **given)
            pixels = halved(pixels)


def tiles_of(pixels: RGB, tile: int = TILE) -> Iterator[RGB]:
    """Cut into whole tiles, row by row, repeating the edge where they stick out."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield np.ascontiguousarray(padded[top : top + tile, left : left + tile])


def write_sparse_svs(path: Path, pixels: RGB, missing: set[int]) -> None:
    """Write an Aperio slide of one level in which some tiles, by index, were never scanned."""
    height, width = pixels.shape[:2]
    tiles = (
        b"" if index in missing else zlib.compress(tile.tobytes())
        for index, tile in enumerate(tiles_of(pixels))
    )
    tifffile.imwrite(
        path,
        tiles,
        shape=pixels.shape,
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="deflate",
        metadata=None,
        description=APERIO.format(
            w=width, h=height, tile=TILE, codec="RAW", fields=f"AppMag = 20|MPP = {MPP}"
        ),
    )


def write_jpeg_with_tables(path: Path, pixels: RGB) -> None:
    """Write JPEG tiles whose tables stand once, in the page, as libtiff and Aperio do."""

    def encode(tile: RGB, streamtype: int) -> bytes:
        buffer = BytesIO()
        Image.fromarray(tile).save(buffer, "JPEG", quality=92, subsampling=0, streamtype=streamtype)
        return buffer.getvalue()

    tables = encode(next(tiles_of(pixels)), 1)
    tifffile.imwrite(
        path,
        (encode(tile, 2) for tile in tiles_of(pixels)),
        shape=pixels.shape,
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="ycbcr",
        compression="jpeg",
        subsampling=(1, 1),
        metadata=None,
        extratags=[(_JPEG_TABLES_TAG, _UNDEFINED_TYPE, len(tables), tables, True)],
        **_PER_CM,
    )


JPEG_LOSS = 24
"""Largest loss of quality-92 JPEG on :func:`picture`, whose noise is hard to compress."""

BOTH_READERS = (
    Container("plain pyramid", ".tif", write_pyramid),
    Container("single level", ".tif", partial(write_pyramid, levels=1)),
    Container("240-px tiles", ".tif", partial(write_pyramid, tile=(240, 240), compression="lzw")),
    Container(
        "deflate pyramid", ".tif", partial(write_pyramid, compression="deflate", predictor=True)
    ),
    Container("lzw pyramid", ".tif", partial(write_pyramid, compression="lzw")),
    Container("jpeg with tables", ".tif", write_jpeg_with_tables, JPEG_LOSS),
    Container(
        "planar", ".tif", partial(write_pyramid, planarconfig="separate", compression="deflate")
    ),
    Container("svs raw", ".svs", write_svs),
    Container("svs jpeg", ".svs", partial(write_svs, **_JPEG), JPEG_LOSS),
    Container("svs jpeg 2000", ".svs", partial(write_svs, compression="aperio_jp2000_rgb")),
    Container("svs 240-px tiles", ".svs", partial(write_svs, tile=240, compression="deflate")),
)
"""Containers that OpenSlide opens too."""

TIFF_ONLY = (
    Container("zstd pyramid", ".tif", partial(write_pyramid, compression="zstd")),
    Container(
        "webp",
        ".tif",
        partial(write_pyramid, compression="webp", compressionargs={"lossless": True}),
    ),
    Container("big-endian", ".tif", partial(write_pyramid, compression="deflate", byteorder=">")),
    Container("lzma", ".tif", partial(write_pyramid, compression="lzma")),
    Container("ome subifds", ".ome.tif", partial(write_ome, compression="deflate")),
    Container("ome jpeg", ".ome.tif", partial(write_ome, **_JPEG), JPEG_LOSS),
    Container(
        "ome planar", ".ome.tif", partial(write_ome, compression="deflate", planarconfig="separate")
    ),
    Container(
        "strips", ".tif", partial(write_pyramid, tile=None, rowsperstrip=16, compression="deflate")
    ),
    Container("one raw strip", ".tif", partial(write_pyramid, tile=None, levels=1)),
)
"""Containers that OpenSlide refuses, or whose smaller levels it does not see."""
