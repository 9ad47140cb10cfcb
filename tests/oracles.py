"""Slow, literal versions of what the library computes fast, each written from its definition."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def density_oracle(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Optical density, one pixel and channel at a time."""
    od = np.empty(rgb.shape, dtype=np.float64)
    for index in np.ndindex(rgb.shape):
        od[index] = math.log10(255 / max(int(rgb[index]), 1))
    return od


def network_input_oracle(
    rgb: NDArray[np.uint8], vectors: NDArray[np.float64], maxima: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Least-squares concentrations scaled to [0, 1], one pixel at a time, shape (2, H, W)."""
    height, width, _ = rgb.shape
    od = density_oracle(rgb)
    values = np.empty((2, height, width))
    for row in range(height):
        for col in range(width):
            c, *_ = np.linalg.lstsq(vectors.T, od[row, col], rcond=None)
            values[:, row, col] = np.clip(c / (2 * maxima), 0, 1)
    return values


def macenko_oracle(
    pixels: NDArray[np.uint8], *, centred: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Stain vectors (2, 3) and maxima (2,) by sorting, with the covariance from its definition.

    ``centred`` subtracts the mean before projecting: the classic mistake, kept to show its cost.
    """
    od = density_oracle(pixels)
    mean = od.mean(axis=0)
    covariance = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            covariance[i, j] = np.mean((od[:, i] - mean[i]) * (od[:, j] - mean[j]))
    eigenvalues, columns = np.linalg.eigh(covariance)
    order = np.argsort(eigenvalues)[::-1]
    v1, v2 = columns[:, order[0]], columns[:, order[1]]
    v1 = -v1 if v1[0] < 0 else v1
    v2 = -v2 if v2[0] > 0 else v2
    points = od - mean if centred else od
    x, y = points @ v1, points @ v2
    angles = np.sort(np.arctan2(y, x)[x * x + y * y >= 0.15**2])
    outside = round(0.01 * len(angles))
    rays = angles[outside], angles[len(angles) - 1 - outside]
    vectors = np.array([math.cos(ray) * v1 + math.sin(ray) * v2 for ray in rays])
    third = np.cross(v1, v2)
    concentrations = od @ np.linalg.inv(np.column_stack([*vectors, third])).T
    maxima = []
    for stain in range(2):
        values = np.sort(concentrations[concentrations[:, stain] >= 0.15, stain])
        maxima.append(values[math.floor(0.99 * len(values))])
    return vectors, np.array(maxima)
