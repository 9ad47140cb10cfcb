"""Rasters -> the coarser levels of an image pyramid.

Every level has half as many pixels a side as the one before, rounded up, and one pixel of it covers
exactly 2 x 2 of that one, so that scales are powers of two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def mean_levels(values: NDArray[np.float32], smallest_px: int) -> list[NDArray[np.float32]]:
    """Halve a raster again and again, by means over what is known.

    Parameters
    ----------
    values : ndarray of shape (rows, cols, K), float32
        NaN where nothing is known.
    smallest_px : int
        Levels are added until the longer side is at most this.

    Returns
    -------
    list of ndarray
        The raster, at least one cell large, and its reductions.
    """
    if not values.size:
        values = np.full((1, 1, values.shape[-1]), np.nan, dtype=np.float32)
    levels = [values]
    while max(levels[-1].shape[:2]) > smallest_px:
        levels.append(halve_known(levels[-1]))
    return levels


def halve_known(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average 2 x 2 cells, NaN not counted; shape (rows, cols, K) float32."""
    blocks = _blocks(values, np.nan)
    known = ~np.isnan(blocks)
    total = np.where(known, blocks, 0).sum(axis=(1, 3))
    count = known.sum(axis=(1, 3))
    halved = np.full(total.shape, np.nan, dtype=np.float32)
    np.divide(total, count, out=halved, where=count > 0)
    return halved


def halve_bytes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average 2 x 2 pixels, rounded; shape (rows, cols, K) uint8. What lies beyond counts as 0."""
    sums = _blocks(pixels, 0).sum(axis=(1, 3), dtype=np.uint16)
    return np.asarray((sums + 2) // 4, dtype=np.uint8)


def halve_labels(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Keep every second label of every second row; shape (rows, cols)."""
    return labels[::2, ::2]


def _blocks(values: NDArray[Any], beyond: float) -> NDArray[Any]:
    """Divide a raster into 2 x 2 cells, shape (rows / 2, 2, cols / 2, 2, K)."""
    rows, cols, k = values.shape
    padded = np.pad(
        values, ((0, rows % 2), (0, cols % 2), (0, 0)), constant_values=values.dtype.type(beyond)
    )
    return padded.reshape((rows + 1) // 2, 2, (cols + 1) // 2, 2, k)
