"""Pieces of tissue -> the names of cores on a tissue microarray, where they form the grid of one.

Rows are letters and columns numbers, ``A-1`` at the top left, as QuPath names them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wsi_pipeline.tissue.pieces import Pieces

LARGEST_UM = 3_500.0
"""Greatest diameter of a core; needles of arrays take out 0.6 to 3 mm."""

FEWEST = 6
"""Fewest cores of an array: fewer pieces are sections that happen to lie in rows."""

LIKE_MEDIAN = (0.5, 1.6)
"""Sides of a core's box in those of the median; what is smaller is a crumb."""

ODD = 0.2
"""Largest share of pieces that are larger than cores, or share a place of the grid."""

FULL = 0.5
"""Least share of the places of the grid that hold a core."""


def name_cores(pieces: Pieces, mpp: float) -> tuple[str, ...]:
    """Name the pieces that are cores of a tissue microarray.

    Parameters
    ----------
    pieces : Pieces
        The pieces of tissue.
    mpp : float
        Resolution at level 0, um/px.

    Returns
    -------
    tuple of str
        One per piece, in order of their numbers; empty for a piece that is no core, and all empty
        if the slide is no array.
    """
    nobody = ("",) * pieces.count
    boxes = piece_boxes(pieces)
    if len(boxes) < FEWEST:
        return nobody
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    median = float(np.median(sides[sides > 0.3 * sides.max()]))
    core = (sides >= LIKE_MEDIAN[0] * median) & (sides <= LIKE_MEDIAN[1] * median)
    odd = int((sides > LIKE_MEDIAN[1] * median).sum())
    if core.sum() < FEWEST or median * mpp > LARGEST_UM or odd > ODD * core.sum():
        return nobody
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    col, row = (_lines(middles[core, axis], median / 2) for axis in (0, 1))
    places = set(zip(row.tolist(), col.tolist(), strict=True))
    rows, cols = int(row.max()) + 1, int(col.max()) + 1
    shared = int(core.sum()) - len(places)
    if min(rows, cols) < 2 or len(places) < FULL * rows * cols or shared > ODD * core.sum():
        return nobody
    names = np.array(nobody, dtype=object)
    names[core] = [f"{_letters(r)}-{c + 1}" for r, c in zip(row, col, strict=True)]
    return tuple(names.tolist())


def piece_boxes(pieces: Pieces) -> NDArray[np.float64]:
    """Return x0, y0, x1, y1 of the box around each piece, level-0 px, shape (count, 4)."""
    boxes = np.empty((pieces.count, 4))
    rows, cols = np.nonzero(pieces.labels)
    index = pieces.labels[rows, cols] - 1
    for axis, (low, high, values) in enumerate(((0, 2, cols), (1, 3, rows))):
        scale = pieces.downsample[axis]
        first = np.full(pieces.count, np.iinfo(np.int64).max)
        last = np.full(pieces.count, -1)
        np.minimum.at(first, index, values)
        np.maximum.at(last, index, values)
        boxes[:, low], boxes[:, high] = first * scale, (last + 1) * scale
    return boxes


def _lines(places: NDArray[np.float64], apart: float) -> NDArray[np.int64]:
    """Give each place the number of its row or column; gaps divide them."""
    order = np.argsort(places, kind="stable")
    lines = np.empty(len(places), dtype=np.int64)
    lines[order] = np.concatenate([[0], np.cumsum(np.diff(places[order]) > apart)])
    return lines


def _letters(row: int) -> str:
    """Name a row as spreadsheets name columns: A to Z, then AA."""
    name = ""
    row += 1
    while row:
        row, letter = divmod(row - 1, 26)
        name = chr(ord("A") + letter) + name
    return name
