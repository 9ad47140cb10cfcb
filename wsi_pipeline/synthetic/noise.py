"""Random values as functions of place: the same at a place whichever window asks for it.

Everything drawn on a synthetic slide takes its chance from here; nothing here knows of tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_PERIOD = 512


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels of an endless plane: top-left corner and size."""

    x: int
    y: int
    width: int
    height: int

    def grown(self, margin: int) -> Window:
        """Return the window with a margin on all sides."""
        return Window(
            self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin
        )


def span_cells(start: int, length: int, cell: float, margin: int) -> NDArray[np.int64]:
    """Return the indices of the lattice cells that a stretch of pixels meets, and some beyond."""
    first = int(np.floor(start / cell)) - margin
    last = int(np.floor((start + length - 1) / cell)) + margin
    return np.arange(first, last + 1)


def cell_uniform(
    columns: NDArray[np.int64], rows: NDArray[np.int64], seed: int, stream: int
) -> NDArray[np.float64]:
    """Hash lattice cells to uniform numbers in [0, 1), one per cell."""
    key = (columns.astype(np.uint64) << np.uint64(32)) ^ (
        rows.astype(np.uint64) & np.uint64(0xFFFFFFFF)
    )
    key = _mix(key ^ _mix(np.array([seed * 0x10001 + stream], dtype=np.uint64)))
    return np.asarray((key >> np.uint64(11)).astype(np.float64) / 2.0**53)


def _mix(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits (the finaliser of SplitMix64)."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


class NoiseField:
    """Smooth random values over the plane, of unit variance on the lattice they interpolate.

    Parameters
    ----------
    seed : int
        Two fields of one seed are equal.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x5EED])
        self._lattice = rng.standard_normal((_PERIOD, _PERIOD)).astype(np.float32)
        self._shifts = rng.integers(0, _PERIOD, (256, 2))

    def sample(self, window: Window, scale: int, stream: int) -> NDArray[np.float32]:
        """Return noise whose features are about ``scale`` px wide.

        Parameters
        ----------
        window : Window
            Pixels to fill.
        scale : int
            Distance of lattice points, px.
        stream : int
            Different streams are independent fields, 0 to 255.

        Returns
        -------
        ndarray of shape (window.height, window.width), float32
            Cubic interpolation between the lattice points.
        """
        shift_x, shift_y = self._shifts[stream]
        columns = span_cells(window.x, window.width, scale, 3)
        rows = span_cells(window.y, window.height, scale, 3)
        values = self._lattice[np.ix_((rows + shift_y) % _PERIOD, (columns + shift_x) % _PERIOD)]
        left = window.x - int(columns[0]) * scale
        top = window.y - int(rows[0]) * scale
        fine = cv2.resize(values, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        return np.asarray(fine[top : top + window.height, left : left + window.width])

    def fractal(
        self, window: Window, scale: int, stream: int, octaves: int = 3
    ) -> NDArray[np.float32]:
        """Return noise summed over halving scales with halving amplitude."""
        total = np.zeros((window.height, window.width), dtype=np.float32)
        for octave in range(octaves):
            total += self.sample(window, max(1, scale >> octave), stream + octave) * 0.5**octave
        return total

    def warped(
        self, u: NDArray[np.floating], v: NDArray[np.floating], stream: int
    ) -> NDArray[np.float32]:
        """Return the lattice's values at real coordinates (column ``u``, row ``v``)."""
        shift_x, shift_y = self._shifts[stream]
        lattice = np.pad(self._lattice, ((0, 1), (0, 1)), mode="wrap")
        return np.asarray(
            cv2.remap(
                lattice,
                np.mod(u + shift_x, _PERIOD).astype(np.float32),
                np.mod(v + shift_y, _PERIOD).astype(np.float32),
                cv2.INTER_LINEAR,
            )
        )
