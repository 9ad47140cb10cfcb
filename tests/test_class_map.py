"""Classes of places, their areas and outlines, against oracles that look at every pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from tests.stores import make_predictions
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.results.class_map import (
    ClassMap,
    ClassRule,
    NoClass,
    lay_class_map,
    measure_areas,
    smooth,
)
from wsi_pipeline.results.heatmap import paint_heatmap
from wsi_pipeline.results.outlines import outline_regions
from wsi_pipeline.tissue.pieces import find_pieces, measure_tissue
from wsi_pipeline.types import Area, Heatmap, TissueMask

NAMES = ("tumour", "stroma", "fat, other")


def mask_of(tissue: NDArray[np.bool_], downsample: tuple[float, float] = (5.0, 5.0)) -> TissueMask:
    areas = np.where(tissue, Area.TISSUE, Area.GLASS).astype(np.uint8)
    return TissueMask(areas=areas, downsample=downsample)


def laid(seed: int, *, pitch: float = 8.0, rule: ClassRule | None = None) -> ClassMap:
    """Lay a map over 80 x 100 level-0 px: tiles of 8 px, tissue in pixels of 5."""
    tissue = np.random.default_rng(seed).random((16, 20)) < 0.6
    predictions = make_predictions((8, 10), 50, extent=8.0, pitch=pitch, seed=seed)
    pieces = find_pieces(mask_of(tissue), mpp=0.5, gap_um=0)
    return lay_class_map(paint_heatmap(predictions), pieces, 0.5, rule or ClassRule())


def drawn(class_map: ClassMap) -> NDArray[np.int16]:
    """Spread a map over one value per level-0 pixel."""
    rows = np.repeat(class_map.labels, np.diff(class_map.y_edges), axis=0)
    return np.repeat(rows, np.diff(class_map.x_edges), axis=1)


@pytest.mark.parametrize("seed", range(5))
def test_every_level_0_pixel_has_the_class_of_its_tile_where_there_is_tissue(seed: int) -> None:
    tissue = np.random.default_rng(seed).random((16, 20)) < 0.6
    predictions = make_predictions((8, 10), 50, seed=seed)
    expected = np.full((80, 100), NoClass.UNPREDICTED, dtype=np.int16)
    for (x, y), label in zip(predictions.xy, predictions.label, strict=True):
        expected[y : y + 8, x : x + 8] = label
    expected[~np.kron(tissue, np.ones((5, 5), dtype=np.bool_))] = NoClass.GLASS
    assert_array_equal(drawn(laid(seed)), expected)


@pytest.mark.parametrize("pitch", [8.0, 4.0, 10.0, 7.3])
def test_areas_are_those_of_the_pixels_and_of_the_outlines(pitch: float) -> None:
    class_map = laid(3, pitch=pitch)
    whole, *pieces = measure_areas(class_map, mpp=0.5)
    pixels = drawn(class_map)
    px_mm2 = (0.5 / 1000) ** 2
    assert whole.tissue_mm2 == pytest.approx((pixels != NoClass.GLASS).sum() * px_mm2)
    assert whole.unpredicted_mm2 == pytest.approx((pixels == -2).sum() * px_mm2)
    regions = outline_regions(class_map.labels, class_map.x_edges, class_map.y_edges, -1)
    for index, name in enumerate(NAMES):
        assert whole.class_mm2[name] == pytest.approx((pixels == index).sum() * px_mm2)
        outlined = sum(r.polygon.area for r in regions if r.label == index)
        assert whole.class_mm2[name] == pytest.approx(outlined * px_mm2)
        assert whole.class_mm2[name] == pytest.approx(sum(p.class_mm2[name] for p in pieces))
    assert whole.tissue_mm2 == pytest.approx(sum(p.tissue_mm2 for p in pieces))
    assert [p.piece for p in pieces] == list(range(1, len(pieces) + 1))


@pytest.mark.parametrize("downsample", [(5.0, 5.0), (4.3, 5.6)])
def test_the_tissue_of_the_records_is_that_of_the_areas(downsample: tuple[float, float]) -> None:
    mask = mask_of(np.random.default_rng(0).random((16, 20)) < 0.6, downsample)
    predictions = paint_heatmap(make_predictions((8, 10), 50))
    class_map = lay_class_map(predictions, find_pieces(mask, mpp=0.5), 0.5, ClassRule())
    whole, *_ = measure_areas(class_map, mpp=0.5)
    assert measure_tissue(mask, mpp=0.5) == pytest.approx(whole.tissue_mm2, rel=1e-12)


def test_a_slide_without_tiles_or_tissue_has_areas() -> None:
    heatmap = paint_heatmap(make_predictions((0, 0), 0))
    pieces = find_pieces(mask_of(np.ones((4, 4), dtype=np.bool_)), mpp=1.0)
    (whole, piece) = measure_areas(lay_class_map(heatmap, pieces, 1.0, ClassRule()), mpp=1.0)
    assert whole.tissue_mm2 == whole.unpredicted_mm2 == piece.tissue_mm2 == pytest.approx(4e-4)
    assert set(whole.class_mm2.values()) == {0.0}
    empty = find_pieces(mask_of(np.zeros((4, 4), dtype=np.bool_)), mpp=1.0)
    (whole,) = measure_areas(lay_class_map(heatmap, empty, 1.0, ClassRule()), mpp=1.0)
    assert whole.tissue_mm2 == 0


VALUES = np.array(
    [[[0.5, 0.3, 0.2], [0.2, 0.8, 0.0], [np.nan] * 3, [0.4, 0.2, 0.4]]], dtype=np.float32
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ClassRule(), [0, 1, -2, 0]),
        (ClassRule(threshold=0.8), [-1, 1, -2, -1]),
        (ClassRule(classes=("tumour",)), [0, -1, -2, 0]),
        (ClassRule(classes=("tumour",), threshold=0.2), [0, 0, -2, 0]),
        (ClassRule(classes=("stroma", "fat, other"), threshold=0.3), [1, 1, -2, 2]),
    ],
)
def test_rules_decide_as_they_say(rule: ClassRule, expected: list[int]) -> None:
    assert rule.decide(VALUES, NAMES)[0].tolist() == expected


def test_rules_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="threshold must be between 0 and 1, got 80"):
        ClassRule(threshold=80)
    with pytest.raises(ConfigError, match="no class 'tumor'; choose among tumour, stroma"):
        ClassRule(classes=("tumor",)).decide(VALUES, NAMES)


def test_smoothing_averages_what_is_known() -> None:
    values = np.full((9, 9, 2), np.nan, dtype=np.float32)
    values[2:7, 2:7] = (0.25, 0.75)
    smoothed = smooth(values, 1.5)
    assert_array_equal(np.isnan(smoothed), np.isnan(values))
    assert_allclose(smoothed[2:7, 2:7], values[2:7, 2:7], rtol=1e-5)
    values[4, 4] = (1, 0)
    lone = smooth(values, 1.5)
    assert 0.25 < lone[4, 3, 0] < lone[4, 4, 0] < 0.5
    assert smooth(values, 0) is values


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12), cols=st.integers(1, 12))
def test_outlines_are_the_unions_of_their_cells(seed: int, rows: int, cols: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 3, (rows, cols))
    x, y = (np.cumsum(np.r_[0, rng.integers(1, 5, n)]) for n in (cols, rows))
    regions = outline_regions(labels, x, y, -1)
    for label in range(3):
        own = [region.polygon for region in regions if region.label == label]
        cells = [
            shapely.box(x[col], y[row], x[col + 1], y[row + 1])
            for row, col in np.argwhere(labels == label)
        ]
        assert all(polygon.is_valid for polygon in own)
        assert shapely.union_all(own).equals(shapely.union_all(cells))
        assert sum(p.area for p in own) == sum(c.area for c in cells), "no overlap"
        count, _ = cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)
        assert len(own) == count - 1
    for region in regions:
        assert labels[region.cell_rc] == region.label


def test_pieces_are_numbered_as_one_reads_and_fragments_join() -> None:
    tissue = np.zeros((60, 90), dtype=np.bool_)
    tissue[5:20, 60:75] = tissue[8:25, 5:20] = tissue[2:15, 30:45] = True
    tissue[40:50, 50:60] = tissue[38:52, 10:24] = True
    tissue[40:50, 62:70] = True  # two mask pixels from its neighbour
    pieces = find_pieces(mask_of(tissue), mpp=1.0, gap_um=20)
    assert pieces.count == 5
    at = [(10, 10), (10, 35), (10, 65), (45, 15), (45, 55), (45, 65)]
    assert [int(pieces.labels[rc]) for rc in at] == [1, 2, 3, 4, 5, 5]
    assert_array_equal(pieces.labels > 0, tissue)


def test_tiles_belong_to_the_nearest_piece() -> None:
    tissue = np.zeros((20, 40), dtype=np.bool_)
    tissue[5:15, 2:12] = tissue[5:15, 25:35] = True
    tissue[8:12, 5:9] = False
    pieces = find_pieces(mask_of(tissue, (4.0, 4.0)), mpp=1.0, gap_um=10)
    places = np.array([[28.0, 40.0], [120.0, 40.0], [0.0, 0.0], [159.0, 79.0], [60.0, 40.0]])
    assert pieces.nearest(places).tolist() == [1, 2, 1, 2, 1]
    assert find_pieces(mask_of(tissue & False), mpp=1.0).nearest(places).tolist() == [0] * 5


def test_a_place_beside_the_slide_is_glass() -> None:
    class_map = laid(0)
    assert_array_equal(class_map.at(np.array([-1.0, 100.0, 1e9]), np.array([3.0])), [[-3] * 3])


def test_class_names_reach_the_areas_in_order() -> None:
    heatmap = Heatmap(
        values=np.full((1, 1, 2), 0.5, dtype=np.float32),
        cell_px=10.0,
        class_names=("b", "a"),
        class_colors=("#000000", "#ffffff"),
    )
    pieces = find_pieces(mask_of(np.ones((2, 2), dtype=np.bool_)), mpp=100.0)
    (whole, _) = measure_areas(lay_class_map(heatmap, pieces, 100.0, ClassRule()), mpp=100.0)
    assert whole.class_mm2 == {"b": pytest.approx(1.0), "a": 0.0}
