"""A side in pixels -> a tiled JPEG slide of H&E-like tissue, quick to write at any size.

One square of tissue is drawn and compressed once; the slide repeats its compressed tiles, so
reading does all the work that a slide without repeats would give, while writing does almost none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.synthetic.scene import BLOCK_PX, SyntheticSlide

TILE_PX = 256
UNIT_PX = 4096
MPP = 0.5
PYRAMID = (1, 4, 16)
"""Factors of the levels; each divides the unit into whole tiles."""


@dataclass(frozen=True)
class Coding:
    """How tiles are compressed: JPEG quality, and how chroma is stored."""

    name: str
    quality: int
    subsampling: str

    @property
    def factors(self) -> tuple[int, int]:
        """Chroma subsampling as TIFF spells it."""
        return {"444": (1, 1), "422": (2, 1), "420": (2, 2)}[self.subsampling]


FINE = Coding("fine", 90, "444")
"""As :func:`wsi_pipeline.synthetic.write_synthetic_slide` compresses: full chroma."""

COARSE = Coding("coarse", 80, "420")
"""Half the chroma in both directions: the least work for a decoder, so the hardest to keep up with.
"""


def repeated_slide(
    folder: Path, side_px: int, factors: tuple[int, ...] = PYRAMID, coding: Coding = FINE
) -> Path:
    """Write a square slide, or find it where an earlier run left it.

    Parameters
    ----------
    folder : Path
        Where to write it.
    side_px : int
        Width and height, a multiple of 256 px.
    factors : tuple of int
        Downsamples of its levels.
    coding : Coding
        How its tiles are compressed.

    Returns
    -------
    Path
        The slide: 256-px tiles at 0.5 um/px.
    """
    path = folder / f"repeated-{side_px}-{'-'.join(map(str, factors))}-{coding.name}.tif"
    if path.exists():
        return path
    unit = _unit(folder)
    partial = path.with_suffix(".partial")
    with tifffile.TiffWriter(partial, bigtiff=side_px > 40_000) as tiff:
        for factor in factors:
            tiff.write(
                _repeat(_compressed(_shrunk(unit, factor), coding), side_px // factor),
                shape=(side_px // factor, side_px // factor, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="ycbcr",
                subsampling=coding.factors,
                compression="jpeg",
                resolution=(1e4 / (MPP * factor), 1e4 / (MPP * factor)),
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
                metadata=None,
            )
    partial.rename(path)
    return path


def _unit(folder: Path) -> NDArray[np.uint8]:
    """Draw the square that is repeated, or read it where an earlier run left it."""
    path = folder / f"unit-{UNIT_PX}.npy"
    if not path.exists():
        slide = SyntheticSlide((UNIT_PX, UNIT_PX), MPP)
        unit = np.empty((UNIT_PX, UNIT_PX, 3), dtype=np.uint8)
        for top in range(0, UNIT_PX, BLOCK_PX):
            for left in range(0, UNIT_PX, BLOCK_PX):
                _, rgb = slide.block(left // BLOCK_PX, top // BLOCK_PX)
                unit[top : top + BLOCK_PX, left : left + BLOCK_PX] = rgb
        np.save(path, unit)
    return np.asarray(np.load(path), dtype=np.uint8)


def _shrunk(unit: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    size = (UNIT_PX // factor, UNIT_PX // factor)
    return np.asarray(cv2.resize(unit, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _compressed(unit: NDArray[np.uint8], coding: Coding) -> list[list[bytes]]:
    """Compress each tile of a square, by row and column."""
    starts = range(0, len(unit), TILE_PX)
    return [
        [
            imagecodecs.jpeg8_encode(
                np.ascontiguousarray(unit[top : top + TILE_PX, left : left + TILE_PX]),
                level=coding.quality,
                subsampling=coding.subsampling,
            )
            for left in starts
        ]
        for top in starts
    ]


def _repeat(tiles: list[list[bytes]], side_px: int) -> Iterator[bytes]:
    """Yield the tiles of a level, row by row."""
    count, period = -(-side_px // TILE_PX), len(tiles)
    for row in range(count):
        for column in range(count):
            yield tiles[row % period][column % period]
