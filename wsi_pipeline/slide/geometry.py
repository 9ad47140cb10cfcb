"""Level-0 pixels, level pixels, micrometres and lattice cells: the only place where they meet.

Plain arithmetic over :class:`~wsi_pipeline.types.SlideInfo`; nothing here reads pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsi_pipeline.types import SlideInfo

NATIVE_TOLERANCE = 0.02
"""Relative difference of resolutions below which stored pixels serve as they are.

Scanners state the same nominal resolution as 0.499, 0.5015 or 0.5; resampling by half a percent
would blur every patch and gain nothing a network could notice."""


UPSAMPLING_TOLERANCE = 0.1
"""Relative enlargement of a slide's pixels that is not worth a word: scanners differ as much."""

OBJECTIVE_MPP = 10.0
"""mpp times nominal magnification of the common scanners: 0.25 um/px at 40x, 0.5 at 20x."""

OBJECTIVE_FACTOR = 1.7
"""Factor by which a scanner's camera may depart from :data:`OBJECTIVE_MPP`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """How a square patch is read: which level, how many of its pixels, at what true resolution.

    Attributes
    ----------
    level : int
        Pyramid level to read.
    downsample : float
        Level-0 px per px of that level.
    read_px : int
        Side of the region, px of that level. Equal to the patch side where no resampling is due.
    mpp : float
        Resolution of the resampled patch, um/px.
    """

    level: int
    downsample: float
    read_px: int
    mpp: float


def is_upsampled(info: SlideInfo, mpp: float) -> bool:
    """Tell whether patches of ``mpp`` would be enlarged from a coarser slide."""
    return info.mpp > mpp * (1 + UPSAMPLING_TOLERANCE)


def contradicts_objective(info: SlideInfo) -> str | None:
    """Say how the resolution of a slide and its magnification contradict each other, if they do."""
    if info.objective_power is None:
        return None
    usual = OBJECTIVE_MPP / info.objective_power
    if usual / OBJECTIVE_FACTOR <= info.mpp <= usual * OBJECTIVE_FACTOR:
        return None
    return (
        f"{info.mpp:.4g} um/px ({info.mpp_source}) contradicts the {info.objective_power:g}x "
        f"objective, which makes about {usual:.3g}: if it is wrong, so is the size of everything; "
        "give the right one with --slide-mpp"
    )


def level_for_mpp(info: SlideInfo, mpp: float) -> int:
    """Choose the coarsest level that still has at least the wanted resolution.

    Parameters
    ----------
    info : SlideInfo
        The slide.
    mpp : float
        Wanted resolution, um/px.

    Returns
    -------
    int
        Level index; 0 when the wanted resolution is finer than the slide's.
    """
    fitting = [
        level
        for level, downsample in enumerate(info.level_downsamples)
        if info.mpp * downsample <= mpp * (1 + NATIVE_TOLERANCE)
    ]
    return fitting[-1] if fitting else 0


def plan_read(info: SlideInfo, mpp: float, patch_px: int) -> ReadPlan:
    """Plan reading square patches of ``patch_px`` at ``mpp``.

    The side read is a whole number of level pixels, so the resolution obtained differs from the
    one asked for by at most :data:`NATIVE_TOLERANCE`, or half a pixel in ``patch_px``.

    Parameters
    ----------
    info : SlideInfo
        The slide.
    mpp : float
        Wanted resolution, um/px.
    patch_px : int
        Side of the patch, px at ``mpp``.

    Returns
    -------
    ReadPlan
        The plan; its ``mpp`` is the resolution obtained.
    """
    level = level_for_mpp(info, mpp)
    downsample = info.level_downsamples[level]
    level_mpp = info.mpp * downsample
    ratio = mpp / level_mpp
    if abs(ratio - 1) <= NATIVE_TOLERANCE:
        return ReadPlan(level=level, downsample=downsample, read_px=patch_px, mpp=level_mpp)
    read_px = max(1, round(patch_px * ratio))
    return ReadPlan(
        level=level, downsample=downsample, read_px=read_px, mpp=level_mpp * read_px / patch_px
    )


def lattice_shape(
    size_wh: tuple[int, int], tile_px: int, step_px: int, *, whole: bool = False
) -> tuple[int, int]:
    """Count the rows and columns of tiles that lie wholly inside an area.

    Parameters
    ----------
    size_wh : tuple of int
        Width and height of the area.
    tile_px, step_px : int
        Side of a tile and distance between tiles, in the same pixels.
    whole : bool
        Count one more row or column where the last one does not reach the end of the area; its
        tiles lie inside once they are shifted.

    Returns
    -------
    tuple of int
        Rows and columns; 0 where the area is smaller than a tile.
    """

    def count(length: int) -> int:
        steps, rest = divmod(length - tile_px, step_px)
        return steps + 1 + (whole and rest > 0) if length >= tile_px else 0

    width, height = size_wh
    return count(height), count(width)
