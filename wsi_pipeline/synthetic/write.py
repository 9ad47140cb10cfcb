"""A synthetic slide to a file: a tiled JPEG pyramid, strip by strip.

Memory holds one strip of blocks and the class map, whatever the height of the slide; the lower
levels wait as raw rows in temporary files beside the slide.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.synthetic.scene import BLOCK_PX, SyntheticSlide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsi_pipeline.synthetic.layout import Content
    from wsi_pipeline.synthetic.truth import SyntheticTruth
    from wsi_pipeline.types import StainMatrix

_TILE = 256
_LEVEL_FACTOR = 4
_SMALLEST_LEVEL = 256
_JPEG_QUALITY = 90
_BETA = 0.15
_BINS = np.linspace(0, 4, 4001)


def write_synthetic_slide(
    path: Path,
    size_wh: tuple[int, int] = (4096, 4096),
    mpp: float = 0.5,
    seed: int = 0,
    stains: StainMatrix | None = None,
    content: Content | None = None,
) -> SyntheticTruth:
    """Write a synthetic H&E slide as a pyramidal TIFF.

    Parameters
    ----------
    path : Path
        File to write; an existing one is replaced.
    size_wh : tuple of int
        Width and height, px; memory does not grow with the height.
    mpp : float
        Resolution, um/px, stated in the file's resolution tags.
    seed : int
        Decides everything drawn; equal arguments give equal files.
    stains : StainMatrix or None
        Vectors to stain with and light of the glass; the mean vectors of the 420 slides published
        with CLASS-M on glass of 247 if not given. Its maxima are not used: drawing decides them.
    content : Content or None
        Which classes it holds; all four in regions of equal size if not given.

    Returns
    -------
    SyntheticTruth
        Class map, mask, stains and resolution of what was drawn.
    """
    slide = SyntheticSlide(size_wh, mpp, seed, stains, content)
    counts = np.zeros((2, len(_BINS) - 1), dtype=np.int64)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent)))
        pyramid = _Pyramid(size_wh, folder)
        big = size_wh[0] * size_wh[1] > 2**31
        tiff = stack.enter_context(tifffile.TiffWriter(path, bigtiff=big))
        for factor in (1, *pyramid.factors):
            top = factor == 1
            strips = pyramid.keep(_strips(slide, counts)) if top else pyramid.strips(factor)
            tiff.write(
                _tiles(strips),
                shape=(size_wh[1] // factor, size_wh[0] // factor, 3),
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": _JPEG_QUALITY},
                resolution=(1e4 / (mpp * factor), 1e4 / (mpp * factor)),
                resolutionunit="CENTIMETER",
                subfiletype=0 if top else 1,
                software="wsi-pipeline synthetic slide",
                metadata=None,
            )
    return slide.truth(_maxima(counts))


class _Pyramid:
    """Lower levels of a slide, made from its strips and kept in raw files until they are due."""

    def __init__(self, size_wh: tuple[int, int], folder: Path) -> None:
        self._width = size_wh[0]
        self._folder = folder
        self.factors: list[int] = []
        factor = _LEVEL_FACTOR
        while max(size_wh) // factor >= _SMALLEST_LEVEL and min(size_wh) // factor > 0:
            self.factors.append(factor)
            factor *= _LEVEL_FACTOR

    def keep(self, strips: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
        """Pass strips on, keeping each at every lower resolution."""
        with ExitStack() as stack:
            files = {
                factor: stack.enter_context(self._file(factor).open("wb"))
                for factor in self.factors
            }
            for strip in strips:
                for factor, file in files.items():
                    file.write(_shrunk(strip, factor).tobytes())
                yield strip

    def strips(self, factor: int) -> Iterator[NDArray[np.uint8]]:
        """Yield a lower level, one row of tiles at a time."""
        width = self._width // factor
        with self._file(factor).open("rb") as file:
            while rows := file.read(_TILE * width * 3):
                yield np.frombuffer(rows, dtype=np.uint8).reshape(-1, width, 3)

    def _file(self, factor: int) -> Path:
        return self._folder / f"{factor}.raw"


def _strips(slide: SyntheticSlide, counts: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """Yield a slide one row of blocks at a time, counting the drawn concentrations."""
    width, height = slide.size_wh
    for top in range(0, height, BLOCK_PX):
        rows = min(BLOCK_PX, height - top)
        strip = np.empty((rows, width, 3), dtype=np.uint8)
        for left in range(0, width, BLOCK_PX):
            cols = min(BLOCK_PX, width - left)
            he, rgb = slide.block(left // BLOCK_PX, top // BLOCK_PX)
            for stain in range(2):
                counts[stain] += np.histogram(he[stain, ::4, ::4], _BINS)[0]
            strip[:, left : left + cols] = rgb[:rows, :cols]
        yield strip


def _shrunk(strip: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Average squares of pixels; those that fill no square are left out."""
    rows, cols = strip.shape[0] // factor, strip.shape[1] // factor
    if rows == 0:
        return np.empty((0, cols, 3), dtype=np.uint8)
    whole = strip[: rows * factor, : cols * factor]
    return np.asarray(cv2.resize(whole, (cols, rows), interpolation=cv2.INTER_AREA))


def _tiles(strips: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """Cut strips into tiles, row by row; those at the edges repeat their last pixels."""
    for strip in strips:
        height, width, _ = strip.shape
        for top in range(0, height, _TILE):
            for left in range(0, width, _TILE):
                tile = strip[top : top + _TILE, left : left + _TILE]
                short = (_TILE - tile.shape[0], _TILE - tile.shape[1])
                yield np.pad(tile, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge")


def _maxima(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """99th percentiles of the counted concentrations of at least beta; beta if there are none."""
    stained = np.where(_BINS[:-1] >= _BETA, counts, 0).cumsum(axis=1)
    ranks = [np.searchsorted(row, 0.99 * row[-1]) for row in stained]
    return np.asarray(np.maximum(_BINS[ranks], _BETA))
