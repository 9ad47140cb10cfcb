"""The compiled unmixing against float64 arithmetic, on any matrix and at every corner of colour."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.stain import HeEncoder, encode_he, fixed_stain_matrix, unpack_counts
from wsi_pipeline.stain.kernel import fixed_point_table
from wsi_pipeline.types import StainMatrix

CORNERS = np.array(list(product((0, 1, 2, 127, 128, 254, 255), repeat=3)), dtype=np.uint8)


def exact_counts(rgb: NDArray[np.uint8], stains: StainMatrix) -> NDArray[np.float64]:
    """255 c / (2 max) of pixels (N, 3), before rounding, straight from the definition."""
    od = np.log10(stains.background / np.maximum(rgb.astype(np.float64), 1.0))
    concentrations = np.linalg.lstsq(stains.vectors.T, od.T, rcond=None)[0]
    return np.asarray(255 * concentrations / (2 * stains.max_concentration[:, None]))


@st.composite
def matrices(draw: st.DrawFn) -> StainMatrix:
    """Two stains at least 10 degrees apart, with any maxima an estimate can have."""
    first = np.array([draw(st.floats(0.2, 1.0)) for _ in range(3)])
    across = np.cross(first, [draw(st.floats(0.1, 1.0)), -0.3, 0.2])
    angle = np.radians(draw(st.floats(10.0, 70.0)))
    first, across = first / np.linalg.norm(first), across / np.linalg.norm(across)
    second = np.cos(angle) * first + np.sin(angle) * across
    return StainMatrix(
        vectors=np.stack([first, second]),
        max_concentration=np.array([draw(st.floats(0.15, 3.0)) for _ in range(2)]),
        background=np.array([draw(st.floats(200.0, 255.0)) for _ in range(3)]),
    )


@settings(max_examples=60, deadline=None)
@given(stains=matrices(), seed=st.integers(0, 2**32 - 1))
def test_planes_are_the_rounded_concentrations(stains: StainMatrix, seed: int) -> None:
    random = np.random.default_rng(seed).integers(0, 256, (400, 3), dtype=np.uint8)
    pixels = np.concatenate([CORNERS, random])

    planes = encode_he(pixels[None], stains)[:, 0]

    assert np.abs(planes - exact_counts(pixels, stains).clip(0, 255)).max() <= 0.5 + 2e-3


@pytest.mark.parametrize("shape", [(1, 1), (1, 1023), (31, 33), (2, 1024), (50, 61)])
def test_runs_of_pixels_give_the_integers_of_single_pixels(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    table = HeEncoder(fixed_stain_matrix()).table

    planes = encode_he(rgb, fixed_stain_matrix())

    both = table[0][rgb[..., 0]] + table[1][rgb[..., 1]] + table[2][rgb[..., 2]]
    assert np.array_equal(planes, np.clip(unpack_counts(both), 0, 255))


def test_planes_are_written_where_they_are_wanted() -> None:
    stains = fixed_stain_matrix()
    rgb = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    batch = np.full((3, 2, 6, 7), 9, dtype=np.uint8)

    HeEncoder(stains).encode(rgb, batch[1])

    assert np.array_equal(batch[1], encode_he(rgb, stains))
    assert (batch[[0, 2]] == 9).all()


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        (np.empty((2, 7, 6), np.uint8), r"must be \(2, 6, 7\) uint8"),
        (np.empty((2, 6, 7), np.float32), "got .* float32"),
        (np.empty((2, 6, 14), np.uint8)[..., ::2], "contiguous"),
    ],
)
def test_planes_that_do_not_fit_are_refused(planes: NDArray[np.uint8], message: str) -> None:
    stains = fixed_stain_matrix()
    with pytest.raises(ValueError, match=message):
        HeEncoder(stains).encode(np.zeros((6, 7, 3), np.uint8), planes)


@given(counts=st.lists(st.floats(-1e9, 1e9), min_size=6, max_size=6))
@example(counts=[40_000.0, 0.0, 1e-9, 0.0, 0.0, -1.0])
def test_sums_of_any_table_keep_the_planes_apart(counts: list[float]) -> None:
    per_channel = np.repeat(np.array(counts).reshape(2, 3, 1), 256, axis=2)

    hematoxylin, eosin = unpack_counts(fixed_point_table(per_channel)[:, :1].sum(axis=0))

    bounded = per_channel[..., 0].clip(-40_000, 40_000).sum(axis=1)
    assert abs(hematoxylin[0] - bounded[0]) <= 1
    assert abs(eosin[0] - bounded[1]) <= 1
