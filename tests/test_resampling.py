"""Means over areas, against integrals taken pixel by pixel in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.slide.resampling import average_areas, resize_square

RGB = NDArray[np.uint8]


def exact_mean(pixels: RGB, rows: list[Fraction], columns: list[Fraction], channel: int) -> float:
    """Integrate a rectangle pixel by pixel."""
    (top, bottom), (left, right) = rows, columns
    total = Fraction(0)
    for y in range(pixels.shape[0]):
        high = max(Fraction(0), min(bottom, Fraction(y + 1)) - max(top, Fraction(y)))
        for x in range(pixels.shape[1]):
            wide = max(Fraction(0), min(right, Fraction(x + 1)) - max(left, Fraction(x)))
            total += high * wide * int(pixels[y, x, channel])
    return float(total / ((bottom - top) * (right - left)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    share=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    offset=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_means_are_integrals_over_the_area(
    seed: int, height: int, width: int, share: tuple[int, int], offset: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    y_edges, x_edges = (
        [Fraction(start, 8) + (side - Fraction(start, 8)) * i / count for i in range(count + 1)]
        for side, count, start in zip((height, width), share, offset, strict=True)
    )

    means = average_areas(pixels, np.array(y_edges, float), np.array(x_edges, float))

    assert means.shape == (share[0], share[1], 3)
    for i, j, channel in np.ndindex(means.shape):
        exact = exact_mean(pixels, y_edges[i : i + 2], x_edges[j : j + 2], channel)
        assert abs(int(means[i, j, channel]) - exact) <= 0.5 + 1e-6


def test_edges_between_all_pixels_change_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)

    assert np.array_equal(average_areas(pixels, np.arange(6.0), np.arange(8.0)), pixels)


def test_strided_pixels_are_read_as_they_look() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)[::2, ::-2]

    means = average_areas(pixels, np.array([0.0, 6.0]), np.array([0.0, 8.0]))

    assert np.abs(means[0, 0] - pixels.mean(axis=(0, 1))).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("side", [1, 3, 8, 16])
def test_a_square_keeps_its_mean_whatever_its_size(side: int) -> None:
    ramp = np.add.outer(np.arange(8), np.arange(8)) * 12
    pixels = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)

    resized = resize_square(pixels, side)

    assert resized.shape == (side, side, 3)
    assert abs(resized.mean() - pixels.mean()) <= 1.0
