"""Heatmaps against a naive painter that looks at every cell and every tile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from tests.stores import make_predictions
from wsi_pipeline.results.heatmap import one_per_place, paint_heatmap

if TYPE_CHECKING:
    from wsi_pipeline.types import Heatmap, Predictions


def painted_naively(predictions: Predictions, heatmap: Heatmap) -> NDArray[np.float64]:
    """Give each cell the mean of the tiles that its centre lies in."""
    rows, cols, k = heatmap.values.shape
    values = np.full((rows, cols, k), np.nan)
    corners = predictions.rc[:, ::-1] * predictions.pitch
    for row in range(rows):
        for col in range(cols):
            centre = (np.array([col, row]) + 0.5) * heatmap.cell_px
            covers = ((corners <= centre) & (centre < corners + predictions.extent)).all(axis=1)
            if covers.any():
                values[row, col] = predictions.prob[covers].astype(np.float64).mean(axis=0)
    return values


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    share=st.floats(0, 1),
    ratio=st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 1), (4, 3), (3, 2), (1, 2), (1, 4), (7, 4)]),
    cell=st.sampled_from([64.0, 100.5, 33.25]),
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_naive_painter(
    shape: tuple[int, int], share: float, ratio: tuple[int, int], cell: float, seed: int
) -> None:
    tile, pitch = ratio
    n = round(share * shape[0] * shape[1])
    predictions = make_predictions(shape, n, extent=tile * cell, pitch=pitch * cell, seed=seed)
    heatmap = paint_heatmap(predictions)
    assert heatmap.cell_px == pytest.approx(cell)
    assert heatmap.values.shape[:2] == tuple((side - 1) * pitch + tile for side in shape)
    assert_allclose(heatmap.values, painted_naively(predictions, heatmap), atol=1e-6)


def test_tiles_side_by_side_give_one_cell_each() -> None:
    predictions = make_predictions((4, 5), 13)
    heatmap = paint_heatmap(predictions)
    assert heatmap.values.shape == (4, 5, 3)
    rows, cols = predictions.rc.T
    assert_array_equal(heatmap.values[rows, cols], predictions.prob)
    assert np.isnan(heatmap.values).all(axis=-1).sum() == 20 - 13
    assert heatmap.class_names == predictions.class_names
    assert heatmap.class_colors == predictions.class_colors


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0), (0, 0)])
def test_without_tiles_nothing_is_painted(shape: tuple[int, int]) -> None:
    heatmap = paint_heatmap(make_predictions(shape, 0))
    assert heatmap.values.shape == (*shape, 3)
    assert np.isnan(heatmap.values).all()


def test_painted_cells_are_probabilities() -> None:
    values = paint_heatmap(make_predictions((9, 9), 50, extent=24.0)).values
    painted = values[~np.isnan(values[..., 0])]
    assert_allclose(painted.sum(axis=-1), 1, atol=1e-5)


def test_odd_strides_do_not_make_millions_of_cells() -> None:
    heatmap = paint_heatmap(make_predictions((10, 10), extent=256.0, pitch=255.0))
    assert heatmap.values.shape == (10, 10, 3)
    assert heatmap.cell_px == 255.0


def test_a_level_downsample_does_not_shift_cells() -> None:
    downsample = 4.000_317
    heatmap = paint_heatmap(
        make_predictions((5, 5), extent=256 * downsample, pitch=128 * downsample)
    )
    assert heatmap.cell_px == 128 * downsample
    assert heatmap.values.shape == (6, 6, 3)


@pytest.mark.parametrize(("extent", "pitch"), [(24.0, 8.0), (200.0, 100.0), (256.0, 192.0)])
def test_overlapping_tiles_become_cells_with_one_value_each(extent: float, pitch: float) -> None:
    predictions = make_predictions((7, 5), 21, extent=extent, pitch=pitch)

    cells = one_per_place(predictions)

    assert cells.extent == cells.pitch
    heatmap = paint_heatmap(predictions)
    assert len(cells) == (~np.isnan(heatmap.values[..., 0])).sum()
    assert_array_equal(cells.prob, heatmap.values[tuple(cells.rc.T)])
    assert_array_equal(cells.xy, np.rint(cells.rc[:, ::-1] * heatmap.cell_px))
    boxes = shapely.box(*np.hstack([cells.xy, cells.xy + cells.extent]).T)
    assert shapely.union_all(boxes).area == pytest.approx(shapely.area(boxes).sum())
    tiles = shapely.box(*np.hstack([predictions.xy, predictions.xy + extent]).T)
    assert shapely.union_all(tiles).area == pytest.approx(shapely.area(boxes).sum(), rel=1e-6)


def test_tiles_side_by_side_are_left_as_they_are() -> None:
    predictions = make_predictions((4, 5), 13)
    assert one_per_place(predictions) is predictions
    nothing = make_predictions((4, 5), 0, extent=24.0, pitch=8.0)
    assert one_per_place(nothing) is nothing


def test_cells_end_with_the_slide_where_the_last_tiles_were_shifted_inwards() -> None:
    predictions = make_predictions((1, 3), 3, extent=100.0, pitch=50.0)
    shifted = replace(predictions, xy=np.array([[0, 0], [50, 0], [80, 0]]))  # 180 px wide
    assert one_per_place(shifted).xy.tolist() == [
        [0, 0], [50, 0], [100, 0], [150, 0],
        [0, 50], [50, 50], [100, 50], [150, 50],
    ]  # fmt: skip
