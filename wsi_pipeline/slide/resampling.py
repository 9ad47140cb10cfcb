"""Pixels and the edges of larger pixels -> their means, with parts of pixels counted as parts.

Knows neither slides nor resolutions.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.compiled import compiled


def average_areas(
    pixels: NDArray[np.uint8], y_edges: NDArray[np.float64], x_edges: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Average the rectangles between consecutive edges.

    Parameters
    ----------
    pixels : ndarray of shape (h, w, 3), uint8
        Source.
    y_edges : ndarray of shape (m + 1,), float64
        Ascending edges within [0, h], in rows.
    x_edges : ndarray of shape (n + 1,), float64
        Ascending edges within [0, w], in columns.

    Returns
    -------
    ndarray of shape (m, n, 3), uint8
        Means over the area, rounded to nearest.
    """
    height, width, _ = pixels.shape
    means = np.empty((len(y_edges) - 1, len(x_edges) - 1, 3), dtype=np.uint8)
    rows = np.ascontiguousarray(pixels).reshape(height, 3 * width)
    _average(rows, y_edges, x_edges, means)
    return means


def resize_square(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Resize a square picture (n, n, 3): by area if it shrinks, linear in between if it grows."""
    if len(pixels) == side_px:
        return pixels
    method = cv2.INTER_AREA if len(pixels) > side_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side_px, side_px), interpolation=method), dtype=np.uint8)


@compiled
def _average(
    rows: NDArray[np.uint8],
    y_edges: NDArray[np.float64],
    x_edges: NDArray[np.float64],
    means: NDArray[np.uint8],
) -> None:
    height, values = rows.shape
    summed = np.empty(values, dtype=np.float64)
    for i in range(len(y_edges) - 1):
        top, bottom = y_edges[i], y_edges[i + 1]
        summed[:] = 0.0
        for y in range(int(top), min(math.ceil(bottom), height)):
            share = min(y + 1.0, bottom) - max(float(y), top)
            for k in range(values):
                summed[k] += share * rows[y, k]
        for j in range(len(x_edges) - 1):
            left, right = x_edges[j], x_edges[j + 1]
            area = (bottom - top) * (right - left)
            for channel in range(3):
                total = 0.0
                for x in range(int(left), min(math.ceil(right), values // 3)):
                    total += (min(x + 1.0, right) - max(float(x), left)) * summed[3 * x + channel]
                means[i, j, channel] = np.uint8(np.rint(total / area))
