"""Two pictures at different scales -> whether they show the same thing.

Compares a few places, by mean colour and by what is light and dark there. Knows no file format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError

MAX_COLOUR_DIFFERENCE = 25.0
"""Largest difference of mean colour between two levels at one place, counts. Downsampling moves
means by a few counts; YCbCr taken for RGB turns white to (255, 128, 128)."""

MIN_CORRELATION = 0.75
"""Smallest correlation of the brightness of cells. Levels of one scan have more than 0.9, or 0.8
where they lie a pixel apart; pictures of other things about 0, or 0.6 where both are dark in the
middle, as a label and a section can be."""

MAX_CELL_DIFFERENCE = 0.4
"""Largest mean difference of cells, as a share of the contrast between them. Levels of one scan
have less than 0.3, other pictures more than 0.8, and a label that is dark where the section is
0.5."""

LEAST_CELL_DIFFERENCE = 10.0
"""Mean difference of cells, counts, that writers of pyramids make by their filters alone."""

MIN_CONTRAST = 6.0
"""Standard deviation of brightness, counts, below which cells are glass and say nothing."""

SPREAD = ((0.5, 0.5), (0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8), (1.0, 1.0))
"""Places looked at where nothing is known of a picture, as shares of its width and height. The last
corner finds files that were cut short."""

_PROBE_PX = 64
_CELL_PX = 8
_MAX_CELLS = 32
_MAX_READ_PX = 2048
_MAX_WHOLE_PX = 768

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that can be read in part.

    Attributes
    ----------
    size_wh : tuple of int
        Width and height, px.
    read : callable
        Takes a top-left corner and a size, px, and returns RGB of shape (h, w, 3), uint8.
    """

    size_wh: tuple[int, int]
    read: Callable[[tuple[int, int], tuple[int, int]], NDArray[np.uint8]]


def difference(
    fine: Picture, coarse: Picture, places: Sequence[tuple[float, float]] = SPREAD
) -> str:
    """Say how two pictures of one scene differ.

    Parameters
    ----------
    fine, coarse : Picture
        The same scene, the second smaller.
    places : sequence of tuple of float
        Where to look, as shares of width and height; best where there is something to see. Small
        pictures are compared whole.

    Returns
    -------
    str
        Empty where they agree, or where nothing can be told: glass is the same on every slide, and
        what cannot be decoded is found out by those who read it.
    """
    found = [
        verdict
        for box in _boxes(fine, coarse, places)
        if (verdict := _compare(fine, coarse, box)) is not None
    ]
    faults = [fault for fault in found if fault]
    return faults[0] if 2 * len(faults) >= max(1, len(found)) else ""


def _boxes(fine: Picture, coarse: Picture, places: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """Yield places, px of the coarse picture: left, top, width and height."""
    width, height = coarse.size_wh
    if max(fine.size_wh) <= _MAX_WHOLE_PX:
        yield 0, 0, width, height
        return
    side = min(_PROBE_PX, max(1, int(_MAX_READ_PX * width / fine.size_wh[0])))
    wide, high = min(side, width), min(side, height)
    for x, y in places:
        # on a grid, so that a box is part of one stored tile, and seldom of four
        left, top = (int(share * full) // side * side for share, full in ((x, width), (y, height)))
        yield min(left, width - wide), min(top, height - high), wide, high


def _compare(fine: Picture, coarse: Picture, box: Box) -> str | None:
    """Say how one place differs; empty where it agrees, None where it says nothing."""
    left, top, width, height = box
    scale = fine.size_wh[0] / coarse.size_wh[0], fine.size_wh[1] / coarse.size_wh[1]
    corner = round(left * scale[0]), round(top * scale[1])
    size = max(1, round(width * scale[0])), max(1, round(height * scale[1]))
    cells = _cells(width), _cells(height)
    try:
        one = _shrink(coarse.read((left, top), (width, height)), cells)
        other = _shrink(fine.read(corner, size), cells)
    except SlideReadError:
        return None
    colours = float(np.abs(one.mean(axis=(0, 1)) - other.mean(axis=(0, 1))).max())
    if colours > MAX_COLOUR_DIFFERENCE:
        return f"its colours differ from those of the finer level by {colours:.0f} counts"
    bright, brightness = one.mean(axis=2).ravel(), other.mean(axis=2).ravel()
    contrast = float(max(bright.std(), brightness.std()))
    if contrast < MIN_CONTRAST:
        return None
    apart = float(np.abs(one - other).mean())
    if apart > max(LEAST_CELL_DIFFERENCE, MAX_CELL_DIFFERENCE * contrast):
        return f"it shows something else (colours differ by {apart:.0f} counts from place to place)"
    spread = bright.std() * brightness.std()
    moment = float(((bright - bright.mean()) * (brightness - brightness.mean())).mean())
    correlation = moment / spread if spread else 0.0
    if correlation < MIN_CORRELATION:
        return f"it shows something else (correlation {correlation:.2f})"
    return ""


def _cells(side: int) -> int:
    return min(_MAX_CELLS, max(1, side // _CELL_PX))


def _shrink(pixels: NDArray[np.uint8], cells_wh: tuple[int, int]) -> NDArray[np.float64]:
    return np.asarray(cv2.resize(pixels, cells_wh, interpolation=cv2.INTER_AREA), np.float64)
