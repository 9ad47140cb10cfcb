"""Tissue mask and options to the lattice of candidate tiles, each kept or dropped for a reason.

Integer geometry of one pyramid level over the areas of the mask; no pixel of the slide is read
here, so sharpness is measured elsewhere and only its verdict is applied.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import shapely

from wsi_pipeline.annotations.crossings import unite
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.geometry import ReadPlan, lattice_shape, plan_read
from wsi_pipeline.types import Area, TileGrid, TileReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsi_pipeline.config import TileConfig
    from wsi_pipeline.types import SlideInfo, TissueMask

MAX_CANDIDATES = 1 << 24
"""Most tiles that a slide is cut into; their shares and reasons take some 100 bytes each."""

SHARE_TOLERANCE = 1e-6
"""Rounding allowed when a share of a tile is compared with its limit.

Shares are sums of fractional pixels; without it a tile that is all tissue could miss
``min_tissue = 1`` by one unit in the last place."""


SPOILT = {
    Area.BLACK: TileReason.BLACK,
    Area.EDGE: TileReason.EDGE,
    Area.FOLD: TileReason.FOLD,
    Area.BLUR: TileReason.BLUR,
    Area.BUBBLE: TileReason.BUBBLE,
}
"""Areas that cost a tile whose tissue would have been enough, and the reason that is given."""


def lay_grid(
    info: SlideInfo,
    mask: TissueMask,
    config: TileConfig,
    roi: Sequence[shapely.Geometry] | None = None,
) -> TileGrid:
    """Lay the lattice of tiles over a slide and decide which of them are kept.

    Parameters
    ----------
    info : SlideInfo
        The slide.
    mask : TissueMask
        Its areas at low resolution.
    config : TileConfig
        Resolution, size and distance of the tiles, and the shares they must have.
    roi : sequence of shapely geometries or None
        Region of interest, polygons in level-0 px. A tile belongs to it when its centre lies
        inside one of them; an empty sequence holds no tile. ``None`` stands for the whole slide.

    Returns
    -------
    TileGrid
        Every tile that lies wholly inside the slide, with its reason. The lattice is empty,
        (0, 0) to (0, cols), where the slide is smaller than a tile. With ``cover_remainder`` one
        more row or column is shifted inwards to where the slide ends; without, what it would have
        kept is counted as ``remainder``.

    Raises
    ------
    ConfigError
        If there are more candidates than a slide is cut into.

    Notes
    -----
    Each candidate has one reason, the first that applies:

    1. ``OUTSIDE_ROI``: its centre is outside the region of interest.
    2. ``PEN``: more than ``max_pen`` of it is pen ink.
    3. ``KEPT``: at least ``min_tissue`` of it is tissue.
    4. ``BLACK``, ``EDGE``, ``FOLD``, ``BLUR``, ``BUBBLE``: it would have been kept if its pixels of
       these areas were tissue; named for the largest of them.
    5. ``GLASS``: it has no tissue at all.
    6. ``LITTLE_TISSUE``.

    Shares are exact at the resolution of the mask: a mask pixel that a tile covers in part
    counts with the covered part of its area.
    """
    plan = plan_read(info, config.mpp, config.patch_size)
    step_px = step_of(config, plan)
    size_wh = info.level_sizes_wh[plan.level]
    shape = lattice_shape(size_wh, plan.read_px, step_px, whole=True)
    _require_few(shape, config)
    corners = _corners(shape, plan, step_px, size_wh)
    shares = _area_shares(mask, plan, corners)
    reasons = _judge(shares, config)
    if roi is not None:
        reasons[~_centres_inside(roi, plan, corners)] = TileReason.OUTSIDE_ROI
    grid = TileGrid(
        level=plan.level,
        downsample=plan.downsample,
        read_px=plan.read_px,
        step_px=step_px,
        patch_px=config.patch_size,
        mpp=plan.mpp,
        reasons=reasons,
        tissue_fraction=shares[Area.TISSUE].astype(np.float32),
    )
    inside = lattice_shape(size_wh, plan.read_px, step_px)
    if config.cover_remainder:
        return grid if inside == shape else replace(grid, limit_wh=size_wh)
    return _cut(grid, inside)


def _cut(grid: TileGrid, shape: tuple[int, int]) -> TileGrid:
    """Leave out the rows and columns that do not fit in, and count what is lost."""
    rows, cols = shape
    cut = replace(
        grid,
        reasons=grid.reasons[:rows, :cols],
        tissue_fraction=grid.tissue_fraction[:rows, :cols],
    )
    return replace(cut, remainder=len(grid) - len(cut))


def _corners(
    shape: tuple[int, int], plan: ReadPlan, step_px: int, size_wh: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the y of each row and the x of each column, px of the level, the last shifted in."""
    y, x = (
        np.minimum(np.arange(count, dtype=np.int64) * step_px, side - plan.read_px)
        for count, side in zip(shape, reversed(size_wh), strict=True)
    )
    return y, x


def _require_few(shape: tuple[int, int], config: TileConfig) -> None:
    if shape[0] * shape[1] > MAX_CANDIDATES:
        raise ConfigError(
            f"{shape[0]} x {shape[1]} tiles of {config.patch_size} px at {config.mpp:g} um/px are "
            f"more than the {MAX_CANDIDATES} that a slide is cut into; raise --stride or --mpp"
        )


def judge_tiles(
    info: SlideInfo, mask: TissueMask, config: TileConfig, level_xy: NDArray[np.int64]
) -> TileGrid:
    """Decide which of some tiles, laid anywhere, are kept.

    Parameters
    ----------
    info : SlideInfo
        The slide.
    mask : TissueMask
        Its areas at low resolution.
    config : TileConfig
        Resolution and size of the tiles, and the shares they must have.
    level_xy : ndarray of shape (M, 2), int64
        Top-left corners, px of the level that
        :func:`~wsi_pipeline.slide.geometry.plan_read` chooses.

    Returns
    -------
    TileGrid
        One row of M candidates in the order given, with the reasons of :func:`lay_grid`.
    """
    plan = plan_read(info, config.mpp, config.patch_size)
    shares = {area: share[np.newaxis] for area, share in _shares_at(mask, plan, level_xy).items()}
    return TileGrid(
        level=plan.level,
        downsample=plan.downsample,
        read_px=plan.read_px,
        step_px=step_of(config, plan),
        patch_px=config.patch_size,
        mpp=plan.mpp,
        reasons=_judge(shares, config),
        tissue_fraction=shares[Area.TISSUE].astype(np.float32),
        corners=level_xy[np.newaxis],
    )


def step_of(config: TileConfig, plan: ReadPlan) -> int:
    """Return the distance between neighbouring tiles, px of the level that is read."""
    stride = config.stride if config.stride is not None else config.patch_size
    return max(1, round(stride * plan.read_px / config.patch_size))


def drop_blurred(grid: TileGrid, scores: NDArray[np.floating], min_sharpness: float) -> TileGrid:
    """Mark the kept tiles that are not sharp enough as ``BLUR``.

    Parameters
    ----------
    grid : TileGrid
        The lattice.
    scores : ndarray of shape (N,), float
        Sharpness of each kept tile, in the order of ``grid.rc``.
    min_sharpness : float
        Tiles below this are dropped; a score that is not a number counts as below.

    Returns
    -------
    TileGrid
        The same lattice with fewer kept tiles.

    Raises
    ------
    ValueError
        If there is not one score per kept tile.
    """
    if scores.shape != (len(grid),):
        raise ValueError(f"{len(grid)} kept tiles need as many scores, got shape {scores.shape}")
    blurred_rc = grid.rc[~(scores >= min_sharpness)]
    reasons = grid.reasons.copy()
    reasons[blurred_rc[:, 0], blurred_rc[:, 1]] = TileReason.BLUR
    return replace(grid, reasons=reasons)


def sample_tiles(grid: TileGrid, count: int, seed: int) -> NDArray[np.int64]:
    """Draw kept tiles at random, without repetition.

    Parameters
    ----------
    grid : TileGrid
        The lattice.
    count : int
        Tiles wanted; all kept tiles are returned where there are fewer.
    seed : int
        Seed of the draw; one seed gives one sample.

    Returns
    -------
    ndarray of shape (min(count, N),), int64
        Ascending indices into the kept tiles.

    Raises
    ------
    ValueError
        If ``count`` is negative.
    """
    if count < 0:
        raise ValueError(f"count must be >= 0, got {count}")
    drawn = np.random.default_rng(seed).permutation(len(grid))[:count]
    return np.sort(drawn).astype(np.int64)


def _area_shares(
    mask: TissueMask, plan: ReadPlan, corners: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> dict[Area, NDArray[np.float64]]:
    """Measure the share of each :class:`Area` in every candidate; each of lattice shape."""
    shape = (len(corners[0]), len(corners[1]))
    scale_x, scale_y = (plan.downsample / per_mask_px for per_mask_px in mask.downsample)
    height, width = mask.areas.shape
    y_from, y_to = _spans(corners[0], plan.read_px, scale_y, height)
    x_from, x_to = _spans(corners[1], plan.read_px, scale_x, width)
    covered = np.outer(y_to - y_from, x_to - x_from)
    shares = {}
    for area in Area:
        here = mask.areas == area
        if not here.any():
            shares[area] = np.zeros(shape)
            continue
        by_row = _sum_between(here, y_from, y_to)
        summed = _sum_between(by_row.T, x_from, x_to).T
        share = np.divide(summed, covered, out=np.zeros(shape), where=covered > 0)
        shares[area] = share.clip(0.0, 1.0)
    return shares


def _shares_at(
    mask: TissueMask, plan: ReadPlan, level_xy: NDArray[np.int64]
) -> dict[Area, NDArray[np.float64]]:
    """Measure the share of each :class:`Area` in tiles at any place; each of shape (M,)."""
    height, width = mask.areas.shape
    scale = np.divide(plan.downsample, mask.downsample)
    x0, y0 = (level_xy * scale).clip(0, (width, height)).T
    x1, y1 = ((level_xy + plan.read_px) * scale).clip(0, (width, height)).T
    covered = (x1 - x0) * (y1 - y0)
    shares = {}
    for area in Area:
        # sums over the mask are bilinear between its pixels, so these are exact too
        running = np.zeros((height + 1, width + 1))
        running[1:, 1:] = (mask.areas == area).cumsum(axis=0).cumsum(axis=1)
        summed = (
            _between(running, y1, x1)
            - _between(running, y0, x1)
            - _between(running, y1, x0)
            + _between(running, y0, x0)
        )
        share = np.divide(summed, covered, out=np.zeros(len(level_xy)), where=covered > 0)
        shares[area] = share.clip(0.0, 1.0)
    return shares


def _between(
    running: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate a running sum over both axes bilinearly at fractional places."""
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    bottom = np.minimum(top + 1, running.shape[0] - 1)
    right = np.minimum(left + 1, running.shape[1] - 1)
    down, along = y - top, x - left
    above = running[top, left] * (1 - along) + running[top, right] * along
    below = running[bottom, left] * (1 - along) + running[bottom, right] * along
    return np.asarray(above * (1 - down) + below * down)


def _spans(
    starts: NDArray[np.int64], read_px: int, scale: float, limit: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where each tile of an axis begins and ends, in mask px, cut at the mask's border."""
    return (starts * scale).clip(0, limit), ((starts + read_px) * scale).clip(0, limit)


def _sum_between(
    values: NDArray[np.bool_] | NDArray[np.float64],
    starts: NDArray[np.float64],
    stops: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Integrate pixels along axis 0 from ``starts`` to ``stops``; fractions of a pixel count.

    Tile by tile: a running sum over a mask of many megapixels would take eight times its memory.
    """
    sums = np.zeros((len(starts), values.shape[1]))
    for summed, start, stop in zip(sums, starts.tolist(), stops.tolist(), strict=True):
        if stop > start:
            first, last = int(start), min(int(stop), len(values) - 1)
            values[first:last].sum(axis=0, out=summed)
            summed += (stop - last) * values[last] - (start - first) * values[first]
    return sums


def _judge(shares: dict[Area, NDArray[np.float64]], config: TileConfig) -> NDArray[np.uint8]:
    """Give every candidate the first reason that applies, regions of interest aside."""
    tissue = shares[Area.TISSUE]
    spoilt = {reason: shares[area] for area, reason in SPOILT.items()}
    enough = config.min_tissue - SHARE_TOLERANCE
    amount = sum(spoilt.values())
    most = np.max(list(spoilt.values()), axis=0)
    lost = (amount > 0) & (tissue + amount >= enough)
    cases = {
        TileReason.PEN: shares[Area.PEN] > config.max_pen + SHARE_TOLERANCE,
        TileReason.KEPT: tissue >= enough,
        **{reason: lost & (share >= most) for reason, share in spoilt.items()},
        TileReason.GLASS: tissue <= SHARE_TOLERANCE,
    }
    chosen = np.select(list(cases.values()), list(cases), default=TileReason.LITTLE_TISSUE)
    return chosen.astype(np.uint8)


def _centres_inside(
    roi: Sequence[shapely.Geometry],
    plan: ReadPlan,
    corners: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.bool_]:
    """Tell which candidates have their centre inside a region of interest."""
    y, x = ((start + plan.read_px / 2) * plan.downsample for start in corners)
    region = unite([shapely.make_valid(part) for part in roi])
    shapely.prepare(region)
    return np.asarray(shapely.contains_xy(region, *np.meshgrid(x, y)))
