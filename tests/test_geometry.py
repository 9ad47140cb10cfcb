"""Levels, micrometres and lattices under properties."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wsi_pipeline.slide.geometry import NATIVE_TOLERANCE, lattice_shape, level_for_mpp, plan_read
from wsi_pipeline.types import MppSource, SlideInfo


def slide(mpp: float, downsamples: tuple[float, ...]) -> SlideInfo:
    sizes = tuple(
        (max(1, int(40_000 / factor)), max(1, int(30_000 / factor))) for factor in downsamples
    )
    return SlideInfo(
        slide_id="case-12", size_wh=sizes[0], mpp=mpp, mpp_source=MppSource.VENDOR,
        level_sizes_wh=sizes, level_downsamples=downsamples, reader="tiff", vendor="generic-tiff",
    )  # fmt: skip


@st.composite
def slides(draw: st.DrawFn) -> SlideInfo:
    ratios = draw(st.lists(st.floats(1.5, 4.5), max_size=5))
    downsamples = [1.0]
    for ratio in ratios:
        downsamples.append(downsamples[-1] * ratio)
    return slide(draw(st.floats(0.1, 2.0)), tuple(downsamples))


@given(info=slides(), mpp=st.floats(0.05, 64))
def test_the_level_is_the_coarsest_that_is_fine_enough(info: SlideInfo, mpp: float) -> None:
    level = level_for_mpp(info, mpp)
    allowed = mpp * (1 + NATIVE_TOLERANCE)
    resolutions = [info.mpp * factor for factor in info.level_downsamples]
    assert resolutions[level] <= allowed or level == 0
    assert all(coarser > allowed for coarser in resolutions[level + 1 :])


@given(info=slides(), finer=st.floats(0.05, 64), coarser=st.floats(0.05, 64))
def test_coarser_requests_never_read_finer_levels(
    info: SlideInfo, finer: float, coarser: float
) -> None:
    assume(finer <= coarser)
    assert level_for_mpp(info, finer) <= level_for_mpp(info, coarser)


@pytest.mark.parametrize(
    ("mpp", "level", "read_px"),
    [
        (0.5, 1, 256),  # level 1 has 0.504 um/px: as good as native
        (0.252, 0, 256),
        (0.25, 0, 256),
        (0.8, 1, 406),
        (0.125, 0, 127),  # finer than the slide
        (8.0, 2, 2032),
    ],
)
def test_known_plans(mpp: float, level: int, read_px: int) -> None:
    plan = plan_read(slide(0.252, (1.0, 2.0, 4.0)), mpp, 256)
    assert (plan.level, plan.read_px) == (level, read_px)


@given(info=slides(), mpp=st.floats(0.05, 64), patch_px=st.integers(8, 4096))
def test_a_plan_keeps_its_promise(info: SlideInfo, mpp: float, patch_px: int) -> None:
    plan = plan_read(info, mpp, patch_px)
    level_mpp = info.mpp * plan.downsample
    assert plan.downsample == info.level_downsamples[plan.level]
    assert plan.read_px >= 1
    # what a patch spans is the same before and after resampling
    assert plan.mpp * patch_px == pytest.approx(level_mpp * plan.read_px)
    if plan.read_px > 1:
        half_pixel = 0.5 / patch_px * level_mpp
        assert abs(plan.mpp - mpp) <= max(NATIVE_TOLERANCE * level_mpp, half_pixel) * (1 + 1e-9)


@given(info=slides(), patch_px=st.integers(8, 4096), level=st.integers(0, 5))
def test_the_resolution_of_a_level_is_read_without_resampling(
    info: SlideInfo, patch_px: int, level: int
) -> None:
    level = min(level, len(info.level_downsamples) - 1)
    plan = plan_read(info, info.mpp * info.level_downsamples[level], patch_px)
    assert (plan.level, plan.read_px) == (level, patch_px)


@given(
    size=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    tile=st.integers(1, 200),
    step=st.integers(1, 200),
)
def test_the_lattice_holds_every_tile_that_fits_and_no_other(
    size: tuple[int, int], tile: int, step: int
) -> None:
    def fitting(side: int) -> int:
        return sum(1 for start in range(0, side, step) if start + tile <= side)

    assert lattice_shape(size, tile, step) == (fitting(size[1]), fitting(size[0]))
