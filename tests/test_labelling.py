"""Annotated areas -> labelled tiles: every rule against a naive reading of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, box

from wsi_pipeline.annotations import Annotation
from wsi_pipeline.config import LabelConfig, TileConfig, load_config
from wsi_pipeline.errors import AnnotationError, ConfigError
from wsi_pipeline.tiles.classes import UNLABELLED, ClassArea, find_group, to_classes
from wsi_pipeline.tiles.labelled import label_tiles
from wsi_pipeline.tiles.places import (
    is_annotated,
    label_by_centre,
    label_by_majority,
    lay_in_areas,
    outranked,
)
from wsi_pipeline.types import Area, MppSource, SlideInfo, TileReason, TissueMask

TILE = 40.0
FILE = Path("a.geojson")
CLASSES: dict[str, tuple[str, ...]] = {"normal": ("Normal", "Fat"), "tumour": ("EN", "SN")}


def config(**values: Any) -> LabelConfig:
    return load_config(overrides={"label": {"classes": CLASSES, **values}}).label


def area(shape: Polygon | MultiPolygon, label: int = 0, rank: int | None = None) -> ClassArea:
    return ClassArea(geometry=shape, label=label, rank=label if rank is None else rank)


def named(*names: str) -> list[Annotation]:
    return [Annotation(geometry=box(0, 0, 9, 9), name=name) for name in names]


def star(radii: Sequence[float], centre: tuple[float, float], stretch: float = 1.0) -> Polygon:
    """Draw a polygon around a centre with the given radii: simple, of any concave shape."""
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    x = centre[0] + np.array(radii) * np.cos(angles) * stretch
    y = centre[1] + np.array(radii) * np.sin(angles)
    return Polygon(np.stack([x, y], axis=1))


stars = st.builds(
    star,
    st.lists(st.floats(4, 160), min_size=5, max_size=12),
    st.tuples(st.floats(250, 500), st.floats(250, 500)),
    st.floats(0.3, 1.5),
)


class TestNames:
    def test_names_become_classes_in_the_order_of_the_map(self) -> None:
        found = to_classes(named("SN", "Fat", "Normal", "Ink"), config(ignored=["Ink"]), FILE)
        assert [area.label for area in found] == [1, 0, 0, UNLABELLED]
        assert [area.rank for area in found] == [1, 0, 0, 2]

    def test_priority_is_the_order_of_classes_unless_given(self) -> None:
        found = to_classes(named("SN", "Fat"), config(priority=["tumour", "normal"]), FILE)
        assert [area.rank for area in found] == [0, 1]

    def test_unknown_names_are_named_or_ignored(self) -> None:
        areas = named("Ink", "SN", "Ink", "Dust")
        with pytest.raises(AnnotationError, match=r"a\.geojson .*'Ink' \(2\), 'Dust' \(1\)"):
            to_classes(areas, config(), FILE)
        found = to_classes(areas, config(unmapped="ignore"), FILE)
        assert [area.label for area in found] == [-1, 1, -1, -1]

    def test_without_a_map_the_names_are_shown(self) -> None:
        with pytest.raises(ConfigError, match=r"'EN' \(2\).*--label-map"):
            to_classes(named("EN", "EN"), LabelConfig(), FILE)

    def test_for_tiles_outside_names_do_not_matter(self) -> None:
        found = to_classes(named("EN", "?"), config(label_tiles="outside", classes={}), FILE)
        assert [area.label for area in found] == [-1, -1]

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"classes": {"a": ["x"], "b": ["x"]}}, "'x' stands for more than one class"),
            ({"ignored": ["EN"]}, "'EN' stands for more than one class"),
            ({"priority": ["tumour"]}, "priority must list every class once"),
            ({"label_mode": "containment", "label_tiles": "all"}, "in annotated areas only"),
            ({"group": "("}, "is no regular expression"),
            ({"classes": {"a": "x"}}, "label.classes.a"),
        ],
    )
    def test_a_wrong_map_is_refused(self, values: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match="label") as raised:
            config(**values)
        assert said in str(raised.value)

    @pytest.mark.parametrize(
        ("pattern", "patient"),
        [("TCGA-..-....", "TCGA-B0-5710"), ("TCGA-(..)", "B0"), (r"^(.*?)-01Z", "TCGA-B0-5710")],
    )
    def test_the_patient_is_found_in_the_name(self, pattern: str, patient: str) -> None:
        assert find_group("TCGA-B0-5710-01Z-00-DX1", pattern) == patient

    @pytest.mark.parametrize("pattern", ["CPTAC-....", "()TCGA"])
    def test_a_name_without_patient_is_refused(self, pattern: str) -> None:
        with pytest.raises(ConfigError, match="finds no group in TCGA-B0"):
            find_group("TCGA-B0", pattern)


def contained(polygon: Polygon, x: float, y: float, side: float) -> bool:
    """The published test: no side of the box meets a side of the polygon, and probes are inside."""
    corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side), (x, y)]
    outline = [LineString(pair) for pair in pairwise(polygon.exterior.coords)]
    for side_of_box in (LineString(pair) for pair in pairwise(corners)):
        if any(side_of_box.intersects(segment) for segment in outline):
            return False
    probes = [bool(polygon.contains(Point(x + d, y + d))) for d in (0.919, 1.919, 2.919)]
    return sum(probes) >= 2


def published_tiles(polygon: Polygon, stride: float) -> list[tuple[float, float]]:
    """Lay tiles as the release does, one by one."""
    x0, y0, x1, y1 = polygon.bounds
    w, h = (x1 - x0) / TILE, (y1 - y0) / TILE
    if w < 2 and h < 2:
        stride = TILE / 4
    elif (w < 3 and h < 4) or (h < 3 and w < 4):
        stride = TILE / 2
    offset, side = 0.0, TILE
    if w < 1.5 and h < 1.5:
        offset, side = TILE / 4, TILE / 2
    elif (w < 4 and h < 6) or (h < 4 and w < 6):
        offset, side = TILE / 5, 3 * TILE / 5
    found = []
    x = float(int(x0))
    while x < x1:
        y = float(int(y0))
        while y < y1:
            if contained(polygon, x + offset, y + offset, side):
                found.append((x, y))
            y += stride
        x += stride
    return found


class TestContainment:
    @settings(max_examples=60, deadline=None)
    @given(polygon=stars, halved=st.booleans())
    def test_tiles_are_those_of_the_published_rule(self, polygon: Polygon, halved: bool) -> None:
        stride = TILE / 2 if halved else TILE
        laid = lay_in_areas([area(polygon)], TILE, stride, adaptive=True)
        assert laid.xy.tolist() == [list(xy) for xy in published_tiles(polygon, stride)]

    @settings(max_examples=60, deadline=None)
    @given(polygon=stars)
    def test_strict_tiles_lie_wholly_inside_on_one_lattice(self, polygon: Polygon) -> None:
        laid = lay_in_areas([area(polygon)], TILE, TILE, adaptive=False)
        x0, y0, _, _ = polygon.bounds
        for x, y in laid.xy:
            assert polygon.contains(box(x, y, x + TILE, y + TILE))
            assert (x - math.floor(x0)) % TILE == 0
            assert (y - math.floor(y0)) % TILE == 0

    def test_a_large_square_is_filled_but_for_its_rim(self) -> None:
        # the tiles on the outline touch it
        laid = lay_in_areas([area(box(0.5, 0.5, 400.5, 400.5))], TILE, TILE, adaptive=True)
        assert len(laid.xy) == 9 * 9

    def test_a_small_area_gets_protruding_tiles_only_if_adaptive(self) -> None:
        small = [area(box(0, 0, 55, 55))]
        protruding = lay_in_areas(small, TILE, TILE, adaptive=True).xy
        assert len(protruding)
        assert protruding.max() + TILE > 55
        assert not len(lay_in_areas([area(box(0, 0, 39, 39))], TILE, TILE, adaptive=False).xy)

    def test_a_hole_rejects_the_tiles_it_touches(self) -> None:
        whole = box(0.5, 0.5, 400.5, 400.5)
        holed = whole.difference(box(100, 100, 110, 110))
        count = [len(lay_in_areas([area(s)], TILE, TILE, adaptive=True).xy) for s in (whole, holed)]
        assert count == [81, 80]

    def test_areas_that_leave_the_slide_lay_the_same_tiles_on_it(self) -> None:
        slide, beyond = box(0, 0, 1000, 800), box(-1e8 + 3, -1e8 + 5, 1e8, 1e8)
        small = lay_in_areas([area(box(-77, -35, 1000, 800))], TILE, TILE, adaptive=False).xy
        cut = lay_in_areas(
            [area(box(-77, -35, 1e8, 1e8))], TILE, TILE, adaptive=False, within_wh=(1000, 800)
        ).xy
        on_it = [xy for xy in cut.tolist() if slide.contains(box(*xy, xy[0] + TILE, xy[1] + TILE))]
        assert [xy for xy in small.tolist() if min(xy) >= 0] == on_it
        assert len(lay_in_areas([area(beyond)], TILE, TILE, adaptive=False, within_wh=(99, 99)).xy)

    def test_more_tiles_than_a_slide_can_have_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="raise --stride"):
            lay_in_areas([area(box(0, 0, 1e8, 1e8))], TILE, TILE, adaptive=False)

    def test_areas_keep_their_order_label_and_parts(self) -> None:
        parts = MultiPolygon([box(0, 0, 200, 200), box(1000, 0, 1200, 200)])
        areas = [area(parts, 1), area(box(0, 500, 200, 700), UNLABELLED, 9), area(parts, 0)]
        laid = lay_in_areas(areas, TILE, TILE, adaptive=False)
        half = len(laid.xy) // 2
        assert laid.label.tolist() == [1] * half + [0] * half
        assert laid.area.tolist() == [0] * half + [2] * half
        assert laid.xy.dtype == np.float64
        assert (laid.xy[:half] == laid.xy[half:]).all()

    def test_of_overlapping_areas_the_lower_rank_wins(self) -> None:
        areas = [area(box(0, 0, 400, 400), 0), area(box(0, 0, 400, 400), 1), area(box(0, 0, 9, 9))]
        laid = lay_in_areas(areas, TILE, TILE, adaptive=False)
        assert (outranked(areas, laid, TILE) == (laid.label == 1)).all()

    @pytest.mark.parametrize("areas", [[], [area(box(0, 0, 1, 1))], [area(box(0, 0, 9, 9), -1)]])
    def test_no_tile_is_a_normal_result(self, areas: list[ClassArea]) -> None:
        laid = lay_in_areas(areas, TILE, TILE, adaptive=False)
        assert laid.xy.shape == (0, 2)
        assert laid.label.shape == laid.area.shape == (0,)
        assert outranked(areas, laid, TILE).shape == (0,)


labelled_stars = st.lists(st.tuples(stars, st.integers(-1, 2)), max_size=4)


class TestLattice:
    @settings(max_examples=40, deadline=None)
    @given(drawn=labelled_stars)
    def test_the_centre_decides_as_in_a_loop(self, drawn: list[tuple[Polygon, int]]) -> None:
        areas = [area(shape, label, rank=(2 - label)) for shape, label in drawn]
        centres = np.random.default_rng(0).uniform(0, 600, (80, 2))
        found = label_by_centre(areas, centres)
        for (x, y), label in zip(centres, found, strict=True):
            holding = [a for a in areas if a.geometry.contains(Point(x, y)) and a.label >= 0]
            best = min(holding, key=lambda a: a.rank).label if holding else UNLABELLED
            assert label == best
        inside = [any(a.geometry.contains(Point(xy)) for a in areas) for xy in centres]
        assert is_annotated(areas, centres).tolist() == inside

    @settings(max_examples=40, deadline=None)
    @given(drawn=labelled_stars, min_share=st.sampled_from([0.1, 0.5, 1.0]))
    def test_the_majority_decides_as_in_a_loop(
        self, drawn: list[tuple[Polygon, int]], min_share: float
    ) -> None:
        areas = [area(shape, label, rank=(2 - label)) for shape, label in drawn]
        xy = np.random.default_rng(0).uniform(0, 600, (40, 2))
        found = label_by_majority(areas, xy, TILE, min_share)
        for (x, y), label in zip(xy, found, strict=True):
            tile = box(x, y, x + TILE, y + TILE)
            shares = {
                k: shapely.union_all([a.geometry for a in areas if a.label == k])
                .intersection(tile)
                .area
                / TILE**2
                for k in range(3)
            }
            best = max(shares, key=lambda k: (round(shares[k], 9), k))
            assert label == (best if shares[best] >= min_share - 1e-9 else UNLABELLED)

    def test_two_areas_of_a_class_count_together_and_once(self) -> None:
        halves = [area(box(0, 0, 20, 40)), area(box(20, 0, 40, 40)), area(box(0, 0, 40, 39), 1)]
        assert label_by_majority(halves, np.zeros((1, 2)), TILE, 0.99).tolist() == [0]
        twice = [area(box(0, 0, 16, 40)), area(box(0, 0, 16, 40))]
        assert label_by_majority(twice, np.zeros((1, 2)), TILE, 0.5).tolist() == [-1]


SLIDE = SlideInfo(
    slide_id="s",
    size_wh=(1600, 1200),
    mpp=0.25,
    mpp_source=MppSource.VENDOR,
    level_sizes_wh=((1600, 1200),),
    level_downsamples=(1.0,),
    reader="tiff",
    vendor="aperio",
)
TILES = TileConfig(mpp=0.5, patch_size=40)


def mask(glass: Polygon | None = None) -> TissueMask:
    """Tissue everywhere but in a polygon, at 20 level-0 px per mask px."""
    areas = np.full((60, 80), Area.TISSUE, dtype=np.uint8)
    if glass is not None:
        x0, y0, x1, y1 = (round(side / 20) for side in glass.bounds)
        areas[y0:y1, x0:x1] = Area.GLASS
    return TissueMask(areas=areas, downsample=(20.0, 20.0))


REGION = box(101, 101, 901, 901)


class TestTiles:
    def test_labelled_tiles_have_the_class_of_their_centre(self) -> None:
        tiles = label_tiles(SLIDE, mask(), [area(REGION, 1)], TILES, config())
        centres = tiles.grid.xy + tiles.grid.extent / 2
        assert len(tiles.grid) == 100
        assert all(REGION.contains(Point(xy)) for xy in centres)
        assert (tiles.kept_labels == 1).all()
        assert tiles.grid.funnel() == {"kept": 100, "unlabelled": 20 * 15 - 100}

    def test_inside_outside_and_all_complete_each_other(self) -> None:
        areas = [area(REGION, 1), area(box(1200, 0, 1600, 1200), UNLABELLED, 2)]
        inside, outside, every = (
            label_tiles(SLIDE, mask(), areas, TILES, config(label_tiles=which)).grid
            for which in ("labelled", "outside", "all")
        )
        assert (len(inside), len(outside), len(every)) == (100, 300 - 100 - 5 * 15, 300)
        assert outside.funnel()["annotated"] == 175

    @pytest.mark.parametrize("mode", ["centre", "majority", "containment"])
    def test_glass_is_dropped_unless_the_annotation_is_trusted(self, mode: str) -> None:
        values = {"label_mode": mode, "min_label_share": 0.9}
        glass = mask(box(100, 100, 500, 900))
        strict = label_tiles(SLIDE, glass, [area(REGION)], TILES, config(**values))
        trusting = config(min_tissue_labelled=0.0, **values)
        every = label_tiles(SLIDE, glass, [area(REGION)], TILES, trusting)
        assert 0 < len(strict.grid) < len(every.grid)
        assert strict.grid.funnel()["glass"] > 0

    def test_all_tiles_trust_the_annotation_in_the_areas_only(self) -> None:
        trusting = config(label_tiles="all", min_tissue_labelled=0.0)
        tiles = label_tiles(SLIDE, mask(box(0, 0, 1600, 1200)), [area(REGION)], TILES, trusting)
        assert len(tiles.grid) == (tiles.labels >= 0).sum() == 100

    def test_contained_tiles_lie_off_the_lattice_where_they_were_laid(self) -> None:
        tiles = label_tiles(
            SLIDE, mask(), [area(REGION, 1)], TILES, config(label_mode="containment")
        )
        grid = tiles.grid
        # the corner (101, 101) is 50 px at 0.5 um/px; the first column and row touch the outline
        assert grid.xy.min(axis=0).tolist() == [180, 180]
        assert len(grid) == 81
        assert grid.read_px == 80
        assert grid.corners is not None
        assert (grid.level_xy == grid.xy).all()
        assert all(REGION.contains(box(x, y, x + grid.extent, y + grid.extent)) for x, y in grid.xy)
        assert (tiles.kept_labels == 1).all()

    def test_tiles_that_leave_the_slide_are_not_laid(self) -> None:
        corner = [area(box(1500, 1100, 1600, 1200))]
        tiles = label_tiles(SLIDE, mask(), corner, TILES, config(label_mode="containment"))
        assert len(tiles.grid)
        assert (tiles.grid.xy + tiles.grid.extent <= SLIDE.size_wh).all()

    def test_the_region_of_interest_bounds_contained_tiles_too(self) -> None:
        roi = [box(0, 0, 500, 1200)]
        tiles = label_tiles(
            SLIDE, mask(), [area(REGION)], TILES, config(label_mode="containment"), roi
        )
        assert 0 < len(tiles.grid) < 81
        assert (tiles.grid.xy[:, 0] + tiles.grid.extent / 2 < 500).all()
        assert tiles.grid.reasons[tiles.labels == 0].max() == TileReason.OUTSIDE_ROI

    def test_both_classes_or_the_one_of_priority(self) -> None:
        areas = [area(REGION, 0), area(REGION, 1)]
        counts = [
            len(
                label_tiles(
                    SLIDE, mask(), areas, TILES, config(label_mode="containment", overlaps=which)
                ).grid
            )
            for which in ("both", "priority")
        ]
        assert counts == [162, 81]

    @pytest.mark.parametrize("mode", ["centre", "majority", "containment"])
    def test_a_slide_without_areas_is_a_normal_result(self, mode: str) -> None:
        tiles = label_tiles(SLIDE, mask(), [], TILES, config(label_mode=mode))
        assert len(tiles.grid) == 0
        assert tiles.kept_labels.shape == (0,)
        assert tiles.grid.xy.shape == tiles.grid.level_xy.shape == (0, 2)

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 1000))
    def test_tissue_in_tiles_at_any_place_is_measured_exactly(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        areas = rng.integers(0, 2, (60, 80)).astype(np.uint8)
        tiles = label_tiles(
            SLIDE,
            TissueMask(areas=areas, downsample=(20.0, 20.0)),
            [area(star(rng.uniform(100, 500, 9).tolist(), (800, 600)))],
            TILES.model_copy(update={"min_tissue": 0.0}),
            config(label_mode="containment"),
        )
        full = np.kron(areas, np.ones((20, 20)))
        for (x, y), (row, col) in zip(tiles.grid.level_xy, tiles.grid.rc, strict=True):
            share = (full[y : y + 80, x : x + 80] == Area.TISSUE).mean()
            assert tiles.grid.tissue_fraction[row, col] == pytest.approx(share, abs=1e-6)
