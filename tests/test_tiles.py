"""The lattice of tiles: where tiles lie, what share of each is tissue, why each is kept or not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.config import TileConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tiles.grid import drop_blurred, lay_grid, sample_tiles
from wsi_pipeline.types import Area, MppSource, SlideInfo, TileGrid, TileReason, TissueMask


def slide(
    size_wh: tuple[int, int], mpp: float = 0.5, downsamples: tuple[float, ...] = (1.0,)
) -> SlideInfo:
    width, height = size_wh
    return SlideInfo(
        slide_id="case-1",
        size_wh=size_wh,
        mpp=mpp,
        mpp_source=MppSource.FLAG,
        level_sizes_wh=tuple((int(width / d), int(height / d)) for d in downsamples),
        level_downsamples=downsamples,
        reader="none",
        vendor="none",
    )


def mask_over(info: SlideInfo, areas: NDArray[np.uint8]) -> TissueMask:
    height, width = areas.shape
    downsample = (info.size_wh[0] / width, info.size_wh[1] / height)
    return TissueMask(areas=areas, downsample=downsample)


def filled(info: SlideInfo, area: Area) -> TissueMask:
    return mask_over(info, np.full((7, 9), area, dtype=np.uint8))


def all_corners(grid: TileGrid) -> NDArray[np.int64]:
    """Top-left corners of all candidates, kept or not, px of the level, shape (rows * cols, 2)."""
    rows, cols = grid.shape
    return np.array(
        [(c * grid.step_px, r * grid.step_px) for r, c in np.ndindex(rows, cols)], dtype=np.int64
    ).reshape(-1, 2)


@st.composite
def cases(draw: st.DrawFn) -> tuple[SlideInfo, TissueMask, TileConfig]:
    downsamples = (1.0, *draw(st.sampled_from([(), (4.0,), (2.003, 4.017), (3.9974, 16.0103)])))
    size_wh = (draw(st.integers(1, 3000)), draw(st.integers(1, 3000)))
    assume(min(size_wh) / downsamples[-1] >= 1)
    info = slide(size_wh, draw(st.sampled_from([0.2327, 0.25, 0.499, 1.0])), downsamples)
    areas = np.array(
        draw(
            st.lists(
                st.lists(st.integers(0, max(Area)), min_size=6, max_size=6), min_size=1, max_size=5
            )
        ),
        dtype=np.uint8,
    )
    config = TileConfig(
        mpp=draw(st.sampled_from([0.1, 0.25, 0.5, 0.7, 1.9])),
        patch_size=draw(st.sampled_from([64, 100, 256])),
        stride=draw(st.none() | st.integers(20, 400)),
        min_tissue=draw(st.floats(0, 1)),
        max_pen=draw(st.floats(0, 1)),
    )
    return info, mask_over(info, areas), config


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_tiles_lie_inside_and_none_twice(case: tuple[SlideInfo, TissueMask, TileConfig]) -> None:
    info, mask, config = case
    grid = lay_grid(info, mask, config)
    corners = all_corners(grid)
    assert len({tuple(corner) for corner in corners.tolist()}) == len(corners)
    width, height = info.level_sizes_wh[grid.level]
    assert (corners >= 0).all()
    assert (corners + grid.read_px <= (width, height)).all()


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_tiles_cover_all_but_a_margin(case: tuple[SlideInfo, TissueMask, TileConfig]) -> None:
    info, mask, config = case
    grid = lay_grid(info, mask, config)
    for size, count in zip(info.level_sizes_wh[grid.level], reversed(grid.shape), strict=True):
        if size < grid.read_px:
            assert count == 0
        else:
            reached = (count - 1) * grid.step_px + grid.read_px
            assert 0 <= size - reached < grid.step_px


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_tiles_without_stride_meet_without_seam(
    case: tuple[SlideInfo, TissueMask, TileConfig],
) -> None:
    info, mask, config = case
    grid = lay_grid(info, mask, config.model_copy(update={"stride": None}))
    covered = np.zeros(info.level_sizes_wh[grid.level][::-1], dtype=np.int64)
    for x, y in all_corners(grid):
        covered[y : y + grid.read_px, x : x + grid.read_px] += 1
    rows, cols = grid.shape
    assert (covered[: rows * grid.read_px, : cols * grid.read_px] == 1).all()
    assert covered.sum() == rows * cols * grid.read_px**2


@settings(max_examples=150, deadline=None)
@given(case=cases())
def test_reasons_share_out_the_candidates(case: tuple[SlideInfo, TissueMask, TileConfig]) -> None:
    grid = lay_grid(*case)
    rows, cols = grid.shape
    assert sum(grid.funnel().values()) == rows * cols + grid.remainder
    assert grid.funnel()["kept"] == len(grid)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_grid_states_the_resolution_it_has(
    case: tuple[SlideInfo, TissueMask, TileConfig],
) -> None:
    info, mask, config = case
    grid = lay_grid(info, mask, config)
    assert grid.extent * info.mpp == pytest.approx(grid.patch_px * grid.mpp)
    stride = config.stride or config.patch_size
    off_by_half_a_pixel = 0.5 * grid.downsample
    assert abs(grid.pitch - stride * grid.extent / grid.patch_px) <= max(
        off_by_half_a_pixel, grid.downsample - stride * grid.extent / grid.patch_px
    ) * (1 + 1e-9)


def covered_share(mask: TissueMask, area: Area, box: tuple[float, float, float, float]) -> float:
    """Share of a box (x0, y0, x1, y1 in mask px) that is an area, one mask pixel at a time."""
    x0, y0, x1, y1 = box
    summed, whole = 0.0, 0.0
    for (row, col), code in np.ndenumerate(mask.areas):
        wide = max(0.0, min(x1, col + 1) - max(x0, col))
        high = max(0.0, min(y1, row + 1) - max(y0, row))
        whole += wide * high
        summed += wide * high * (code == area)
    return summed / whole


@settings(max_examples=40, deadline=None)
@given(case=cases())
def test_tissue_fraction_equals_a_count_of_pixels(
    case: tuple[SlideInfo, TissueMask, TileConfig],
) -> None:
    info, mask, config = case
    grid = lay_grid(info, mask, config)
    rows, cols = grid.shape
    scale_x, scale_y = (grid.downsample / d for d in mask.downsample)
    for row, col in itertools.islice(np.ndindex(rows, cols), 12):
        x, y = col * grid.step_px, row * grid.step_px
        box = (
            x * scale_x,
            y * scale_y,
            (x + grid.read_px) * scale_x,
            (y + grid.read_px) * scale_y,
        )
        shares = {area: covered_share(mask, area, box) for area in Area}
        assert grid.tissue_fraction[row, col] == pytest.approx(shares[Area.TISSUE], abs=1e-6)
        assert TileReason(int(grid.reasons[row, col])) in allowed_reasons(shares, config)


SPOILT = {Area[name]: TileReason[name] for name in ("BLACK", "EDGE", "FOLD", "BLUR", "BUBBLE")}


def allowed_reasons(shares: dict[Area, float], config: TileConfig) -> set[TileReason]:
    """The documented order of reasons, as a chain; two reasons where a limit is within rounding."""

    def first(nudge: float) -> TileReason:
        tissue = shares[Area.TISSUE] + nudge
        artefact = sum(shares[area] for area in SPOILT)
        if shares[Area.PEN] > config.max_pen + nudge:
            return TileReason.PEN
        if tissue >= config.min_tissue:
            return TileReason.KEPT
        if artefact > 0 and tissue + artefact >= config.min_tissue:
            *earlier, (_, last) = SPOILT.items()
            for index, (area, reason) in enumerate(earlier):
                if shares[area] >= max(shares[a] for a in list(SPOILT)[index + 1 :]) - nudge:
                    return reason
            return last
        return TileReason.GLASS if tissue <= abs(nudge) else TileReason.LITTLE_TISSUE

    return {first(nudge) for nudge in (-3e-6, 0.0, 1e-6, 3e-6)}


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_covering_the_remainder_adds_what_was_counted_and_reaches_the_end(
    case: tuple[SlideInfo, TissueMask, TileConfig],
) -> None:
    info, mask, config = case
    left_out = lay_grid(info, mask, config)
    covering = lay_grid(info, mask, config.model_copy(update={"cover_remainder": True}))
    rows, cols = left_out.shape
    width, height = info.level_sizes_wh[covering.level]

    assert len(covering) == len(left_out) + left_out.remainder
    assert (covering.reasons[:rows, :cols] == left_out.reasons).all()
    corners = covering.level_xy_of(np.argwhere(np.ones(covering.shape, dtype=np.bool_)))
    if len(corners):
        assert (corners.max(axis=0) + covering.read_px == (width, height)).all() or (
            covering.step_px > covering.read_px
        )
        assert (corners.max(axis=0) + covering.read_px <= (width, height)).all()


def test_the_remainder_is_a_reason_unless_it_is_covered() -> None:
    info = slide((1000, 640))
    config = TileConfig(patch_size=256)
    left_out = lay_grid(info, filled(info, Area.TISSUE), config)
    covering = lay_grid(
        info, filled(info, Area.TISSUE), config.model_copy(update={"cover_remainder": True})
    )

    assert left_out.funnel() == {"kept": 6, "remainder": 6}
    assert covering.funnel() == {"kept": 12}
    assert covering.xy[[3, 8, 11]].tolist() == [[744, 0], [0, 384], [744, 384]]
    glass = lay_grid(info, filled(info, Area.GLASS), config)
    assert glass.funnel() == {"kept": 0, "glass": 6}, "nothing is lost where there is no tissue"


def test_a_region_of_interest_bounds_the_remainder_too() -> None:
    info = slide((1000, 640))
    roi = [shapely.box(0, 0, 1000, 250)]
    grid = lay_grid(info, filled(info, Area.TISSUE), TileConfig(patch_size=256), roi=roi)
    assert grid.funnel() == {"kept": 3, "outside_roi": 3, "remainder": 1}


@pytest.mark.parametrize(
    ("size_wh", "shape"), [((255, 900), (3, 0)), ((900, 255), (0, 3)), ((10, 10), (0, 0))]
)
def test_slide_smaller_than_a_tile_has_an_empty_lattice(
    size_wh: tuple[int, int], shape: tuple[int, int]
) -> None:
    info = slide(size_wh)
    grid = lay_grid(info, filled(info, Area.TISSUE), TileConfig(), roi=[shapely.box(0, 0, 9, 9)])
    assert grid.shape == shape
    assert len(grid) == 0
    assert grid.xy.shape == (0, 2)
    assert grid.funnel() == {"kept": 0}
    assert len(drop_blurred(grid, np.zeros(0), 1.0)) == 0
    assert sample_tiles(grid, 5, seed=0).shape == (0,)


@pytest.mark.parametrize(
    ("area", "reason"),
    [
        (Area.TISSUE, TileReason.KEPT),
        (Area.GLASS, TileReason.GLASS),
        (Area.PEN, TileReason.PEN),
        (Area.BLACK, TileReason.BLACK),
        (Area.EDGE, TileReason.EDGE),
        (Area.FOLD, TileReason.FOLD),
        (Area.BLUR, TileReason.BLUR),
        (Area.BUBBLE, TileReason.BUBBLE),
    ],
)
@pytest.mark.parametrize("min_tissue", [0.01, 0.5, 1.0])
def test_pure_tiles_are_named_for_their_area(
    area: Area, reason: TileReason, min_tissue: float
) -> None:
    info = slide((1003, 777), mpp=0.25)
    grid = lay_grid(info, filled(info, area), TileConfig(min_tissue=min_tissue, patch_size=50))
    assert grid.shape == (7, 10)
    assert (grid.reasons == reason).all()


def test_reasons_come_in_the_documented_order() -> None:
    # Six tiles of 10 x 1 mask px, each with its own mix; ROI leaves out the last.
    mixes = ["TTTTTTTTTP", "TTTTTGGGGG", "TTTTBBBEEG", "TTTTEEEBBG", "TGGGGGGGGG", "TTTTTTTTTT"]
    codes = {"T": Area.TISSUE, "P": Area.PEN, "G": Area.GLASS, "B": Area.BLACK, "E": Area.EDGE}
    info = slide((600, 100))
    areas = np.array([[codes[letter] for letter in "".join(mixes)]], dtype=np.uint8)
    config = TileConfig(patch_size=100, min_tissue=0.5, max_pen=0.05)
    grid = lay_grid(info, mask_over(info, areas), config, roi=[shapely.box(0, 0, 500, 100)])
    assert grid.reasons.tolist() == [
        [
            TileReason.PEN,
            TileReason.KEPT,
            TileReason.BLACK,
            TileReason.EDGE,
            TileReason.LITTLE_TISSUE,
            TileReason.OUTSIDE_ROI,
        ]
    ]
    assert grid.tissue_fraction.tolist() == [pytest.approx([0.9, 0.5, 0.4, 0.4, 0.1, 1.0])]


def test_mpp_chooses_level_and_side() -> None:
    info = slide((8000, 6000), mpp=0.25, downsamples=(1.0, 4.0, 16.0))
    grid = lay_grid(info, filled(info, Area.TISSUE), TileConfig(mpp=2.0, patch_size=100, stride=50))
    assert (grid.level, grid.downsample) == (1, 4.0)
    assert (grid.read_px, grid.step_px, grid.patch_px) == (200, 100, 100)
    assert (grid.mpp, grid.extent, grid.pitch) == (2.0, 800.0, 400.0)
    assert grid.shape == (14, 19)
    assert grid.xy[20].tolist() == [400, 400]


def test_stride_below_a_pixel_of_the_level_becomes_one() -> None:
    info = slide((40, 40), mpp=4.0)
    grid = lay_grid(info, filled(info, Area.TISSUE), TileConfig(mpp=0.5, patch_size=64, stride=1))
    assert (grid.read_px, grid.step_px) == (8, 1)
    assert grid.shape == (33, 33)


def test_region_of_interest_decides_by_the_centre() -> None:
    info = slide((1000, 1000))
    config = TileConfig(patch_size=100)
    triangle = shapely.Polygon([(0, 0), (1000, 0), (0, 1000)])
    grid = lay_grid(info, filled(info, Area.TISSUE), config, roi=[triangle])
    row, col = np.indices(grid.shape)
    inside = (row + 0.5) + (col + 0.5) < 10
    assert ((grid.reasons == TileReason.KEPT) == inside).all()
    assert grid.funnel() == {"kept": 45, "outside_roi": 55}


def test_regions_of_interest_add_up_and_may_have_holes() -> None:
    info = slide((1000, 1000))
    whole, hole = shapely.box(0, 0, 500, 1000), shapely.box(100, 100, 300, 300)
    bow_tie = shapely.Polygon([(600, 0), (1000, 400), (1000, 0), (600, 400)])
    config = TileConfig(patch_size=100)
    grid = lay_grid(info, filled(info, Area.TISSUE), config, roi=[whole.difference(hole), bow_tie])
    kept = grid.reasons == TileReason.KEPT
    assert kept[:, :5].sum() == 50 - 4
    assert not kept[1:3, 1:3].any()
    assert kept[1, 9]
    assert not kept[0, 8]


@pytest.mark.parametrize(
    ("roi", "kept"), [(None, 16), ([shapely.box(0, 0, 400, 400)], 16), ([], 0)]
)
def test_region_of_interest_may_be_all_or_nothing(
    roi: list[shapely.Geometry] | None, kept: int
) -> None:
    info = slide((400, 400))
    grid = lay_grid(info, filled(info, Area.TISSUE), TileConfig(patch_size=100), roi=roi)
    assert len(grid) == kept


def four_tiles() -> TileGrid:
    info = slide((400, 100))
    return lay_grid(info, filled(info, Area.TISSUE), TileConfig(patch_size=100))


def test_blurred_tiles_are_dropped_and_named() -> None:
    grid = four_tiles()
    sharp = drop_blurred(grid, np.array([5.0, 1.0, np.nan, 3.0]), 3.0)
    expected = [TileReason.KEPT, TileReason.BLUR, TileReason.BLUR, TileReason.KEPT]
    assert sharp.reasons.tolist() == [expected]
    assert sharp.xy.tolist() == [[0, 0], [300, 0]]
    assert len(grid) == 4
    assert drop_blurred(sharp, np.array([9.0, 9.0]), 3.0).reasons.tolist() == [expected]


def test_blur_needs_a_score_per_tile() -> None:
    with pytest.raises(ValueError, match=r"4 kept tiles need as many scores, got shape \(3,\)"):
        drop_blurred(four_tiles(), np.zeros(3), 1.0)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_samples_are_distinct_sorted_and_repeatable(count: int, seed: int) -> None:
    info = slide((700, 500))
    grid = lay_grid(info, filled(info, Area.TISSUE), TileConfig(patch_size=100))
    drawn = sample_tiles(grid, count, seed)
    assert drawn.dtype == np.int64
    assert len(drawn) == min(count, 35)
    assert (np.diff(drawn) > 0).all()
    assert ((drawn >= 0) & (drawn < 35)).all()
    assert (drawn == sample_tiles(grid, count, seed)).all()


def test_samples_differ_by_seed_and_favour_no_tile() -> None:
    info = slide((700, 500))
    grid = lay_grid(info, filled(info, Area.TISSUE), TileConfig(patch_size=100))
    hits = np.zeros(35)
    for seed in range(2000):
        hits[sample_tiles(grid, 7, seed)] += 1
    assert np.abs(hits / 2000 - 0.2).max() < 0.045  # five standard deviations


def test_a_negative_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="count must be >= 0, got -1"):
        sample_tiles(four_tiles(), -1, seed=0)


def test_more_tiles_than_memory_holds_are_refused_before_any_is_laid() -> None:
    info = slide((100_000, 100_000))
    with pytest.raises(ConfigError, match="raise --stride or --mpp"):
        lay_grid(info, filled(info, Area.TISSUE), TileConfig(mpp=info.mpp, stride=1))
