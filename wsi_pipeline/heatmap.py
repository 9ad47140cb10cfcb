"""Predictions of tiles -> a raster of class probability on the tile lattice.

Paints numbers, not colours; pictures are made elsewhere.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import Heatmap, Predictions

MAX_CELLS_PER_PITCH = 4
"""Finest division of the lattice. Overlaps of a half, a third or a quarter are painted exactly,
others to the nearest cell, so that a stride of 255 in tiles of 256 px does not make 65,025 cells
of every tile."""


def paint_heatmap(predictions: Predictions) -> Heatmap:
    """Paint predictions on cells of which tile and pitch are whole multiples.

    Parameters
    ----------
    predictions : Predictions
        Of one slide; N = 0 is legal.

    Returns
    -------
    Heatmap
        Every cell holds the mean of the tiles that cover it, NaN where there is none. Tiles that
        neither overlap nor leave gaps give one cell each.
    """
    tile, pitch = _cells(predictions.extent, predictions.pitch)
    rows, cols = predictions.shape
    k = len(predictions.class_names)
    # the last channel counts tiles
    corners = np.zeros((_span(rows, pitch), _span(cols, pitch), k + 1))
    corners[predictions.rc[:, 0] * pitch, predictions.rc[:, 1] * pitch, :k] = predictions.prob
    corners[predictions.rc[:, 0] * pitch, predictions.rc[:, 1] * pitch, k] = 1
    sums = _spread(_spread(corners, tile, axis=0), tile, axis=1)
    count = sums[..., k:]
    values = np.full((*sums.shape[:2], k), np.nan)
    np.divide(sums[..., :k], count, out=values, where=count > 0)
    return Heatmap(
        values=values.astype(np.float32),
        cell_px=predictions.pitch / pitch,
        class_names=predictions.class_names,
        class_colors=predictions.class_colors,
    )


def _cells(extent: float, pitch: float) -> tuple[int, int]:
    """Return the sides of a tile and of a lattice step in cells."""
    ratio = Fraction(extent / pitch).limit_denominator(MAX_CELLS_PER_PITCH)
    return max(1, ratio.numerator), ratio.denominator


def _span(count: int, pitch: int) -> int:
    """Return the distance from the first to the last corner, both included, in cells."""
    return (count - 1) * pitch + 1 if count else 0


def _spread(values: NDArray[np.float64], length: int, axis: int) -> NDArray[np.float64]:
    """Add to each cell the ``length - 1`` cells before it along ``axis``, which grows by them."""
    source = np.moveaxis(values, axis, 0)
    n = len(source)
    total = np.zeros((n + length - 1 if n else 0, *source.shape[1:]))
    for shift in range(length if n else 0):
        total[shift : shift + n] += source
    return np.moveaxis(total, 0, axis)
