"""Areas of classes and places of tiles -> the class of each tile, or the tiles of each area.

Pure geometry in whatever unit areas and tiles share; neither slides nor configuration are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.annotations.crossings import unite
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tiles.classes import UNLABELLED, ClassArea

MAX_LAID = 4_000_000
"""Most places that are tried in the areas of a slide; each is a box of some 300 bytes."""

_SHARE_DECIMALS = 9
"""Shares that differ by less are equal, so that rounding decides no class."""


def label_by_centre(
    areas: Sequence[ClassArea], centres_xy: NDArray[np.float64]
) -> NDArray[np.int16]:
    """Give each tile the class of the area that holds its centre.

    Parameters
    ----------
    areas : sequence of ClassArea
        The areas.
    centres_xy : ndarray of shape (N, 2), float64
        Centres of the tiles.

    Returns
    -------
    ndarray of shape (N,), int16
        Labels, that of the lowest rank where areas overlap, -1 in no area of a class. A centre
        on an outline is outside.
    """
    labels = np.full(len(centres_xy), UNLABELLED, dtype=np.int16)
    classed = [area for area in areas if area.label != UNLABELLED]
    classed.sort(key=lambda area: area.rank, reverse=True)
    for area, held in zip(classed, _held(classed, centres_xy), strict=True):
        labels[held] = area.label
    return labels


def is_annotated(areas: Sequence[ClassArea], centres_xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which tiles have their centre in any area, of a class or not; shape (N,)."""
    inside = np.zeros(len(centres_xy), dtype=np.bool_)
    for held in _held(areas, centres_xy):
        inside[held] = True
    return inside


def label_by_majority(
    areas: Sequence[ClassArea], xy: NDArray[np.float64], extent: float, min_share: float
) -> NDArray[np.int16]:
    """Give each tile the class whose areas cover most of it.

    Parameters
    ----------
    areas : sequence of ClassArea
        The areas.
    xy : ndarray of shape (N, 2), float64
        Top-left corners of the tiles.
    extent : float
        Side of a tile.
    min_share : float
        Smallest share of a tile that its class must cover.

    Returns
    -------
    ndarray of shape (N,), int16
        Labels, that of the lowest rank where classes cover equal shares, -1 where none covers
        enough. What two areas of one class cover together counts once.
    """
    boxes = shapely.box(xy[:, 0], xy[:, 1], xy[:, 0] + extent, xy[:, 1] + extent)
    labels = np.full(len(xy), UNLABELLED, dtype=np.int16)
    best = np.zeros(len(xy))
    for rank in sorted({area.rank for area in areas if area.label != UNLABELLED}):
        own = [area for area in areas if area.rank == rank]
        share = _covered(boxes, own) / extent**2
        share = share.round(_SHARE_DECIMALS)
        wins = (share >= round(min_share, _SHARE_DECIMALS)) & (share > best)
        labels[wins], best[wins] = own[0].label, share[wins]
    return labels


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaTiles:
    """Tiles that were laid in areas, not on a lattice.

    Attributes
    ----------
    xy : ndarray of shape (M, 2), float64
        Top-left corners.
    label : ndarray of shape (M,), int16
        Class of the area each was laid in.
    area : ndarray of shape (M,), int64
        Index of that area.
    """

    xy: NDArray[np.float64]
    label: NDArray[np.int16]
    area: NDArray[np.int64]


def lay_in_areas(
    areas: Sequence[ClassArea],
    tile: float,
    stride: float,
    *,
    adaptive: bool,
    within_wh: tuple[float, float] = (math.inf, math.inf),
) -> AreaTiles:
    """Lay tiles in each area from its own corner, and keep those that lie wholly inside it.

    Parameters
    ----------
    areas : sequence of ClassArea
        The areas; those of no class get no tiles. Parts of a multipolygon count as areas.
    tile : float
        Side of a tile.
    stride : float
        Distance between tiles in areas of ordinary size.
    adaptive : bool
        Lay tiles more closely in small areas, and let them protrude: see Notes.
    within_wh : tuple of float
        Width and height of the slide: tiles that have no part in it are not laid.

    Returns
    -------
    AreaTiles
        Areas in their order; within one, by columns from the left, each from the top. Areas that
        overlap give tiles at the same place.

    Notes
    -----
    The first tile has its corner at the whole pixels below the corner of the area's bounding
    box. A tile is kept when its verification box and the outline do not touch and the box is
    inside. Nominally the box is the tile. With ``adaptive``, for a bounding box of w x h tiles:

    - w < 2 and h < 2: the stride is a quarter of a tile; else, (w < 3 and h < 4) or the
      transpose: half a tile;
    - w < 1.5 and h < 1.5: the verification box is the inner half of the tile; else, (w < 4 and
      h < 6) or the transpose: the inner three fifths.

    A hole inside the box rejects the tile; the published polygons have none.

    Raises
    ------
    ConfigError
        If more places must be tried than can be in a slide.

    References
    ----------
    .. [1] B. Zhang et al., "CLASS-M", Medical Image Analysis 105, 2025; released code, step 1.
    """
    laid = []
    left = MAX_LAID
    for index, area in enumerate(areas):
        if area.label == UNLABELLED:
            continue
        for part in shapely.get_parts(area.geometry):
            lattice = _lattice_of(part, tile, stride, within_wh, adaptive=adaptive)
            left -= lattice.count
            if left < 0:
                raise ConfigError(
                    f"tiles {stride:g} px apart would be laid at more than {MAX_LAID} places in "
                    f"the annotated areas; raise --stride, or --mpp"
                )
            laid.append((index, _lay_in_part(part, tile, lattice)))
    of_area = np.repeat(
        np.array([index for index, _ in laid], dtype=np.int64), [len(places) for _, places in laid]
    )
    labels = np.array([area.label for area in areas], dtype=np.int16)
    return AreaTiles(
        xy=np.concatenate([np.empty((0, 2)), *(places for _, places in laid)]),
        label=labels[of_area] if len(areas) else np.empty(0, dtype=np.int16),
        area=of_area,
    )


def outranked(areas: Sequence[ClassArea], tiles: AreaTiles, tile: float) -> NDArray[np.bool_]:
    """Tell which tiles have their centre in an area of a class of higher priority than theirs.

    Parameters
    ----------
    areas : sequence of ClassArea
        The areas that the tiles were laid in.
    tiles : AreaTiles
        The tiles.
    tile : float
        Side of a tile.

    Returns
    -------
    ndarray of shape (M,), bool
        True where another class wins.
    """
    rank_of = {UNLABELLED: len(areas)} | {area.label: area.rank for area in areas}
    winner = label_by_centre(areas, tiles.xy + tile / 2)
    own = np.array([rank_of[label] for label in tiles.label.tolist()], dtype=np.int64)
    best = np.array([rank_of[label] for label in winner.tolist()], dtype=np.int64)
    return np.asarray((winner != UNLABELLED) & (best < own))


@dataclass(frozen=True, slots=True)
class _Lattice:
    """Where tiles may begin in one polygon, and how much of each is looked at."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    inset: float

    @property
    def count(self) -> int:
        return len(self.x) * len(self.y)


def _lattice_of(
    part: shapely.Polygon,
    tile: float,
    stride: float,
    within_wh: tuple[float, float],
    *,
    adaptive: bool,
) -> _Lattice:
    x0, y0, x1, y1 = part.bounds
    step, inset = stride, 0.0
    if adaptive:
        step = _adaptive_step((x1 - x0) / tile, (y1 - y0) / tile, tile, stride)
        inset = _adaptive_inset((x1 - x0) / tile, (y1 - y0) / tile) * tile
    width, height = within_wh
    return _Lattice(
        x=_starts(x0, min(x1, width), step, tile), y=_starts(y0, min(y1, height), step, tile),
        inset=inset,
    )  # fmt: skip


def _lay_in_part(part: shapely.Polygon, tile: float, lattice: _Lattice) -> NDArray[np.float64]:
    """Lay tiles in one polygon; corners of shape (n, 2)."""
    columns, rows = np.meshgrid(lattice.x, lattice.y, indexing="ij")
    x, y = columns.ravel(), rows.ravel()
    inset = lattice.inset
    boxes = shapely.box(x + inset, y + inset, x + tile - inset, y + tile - inset)
    shapely.prepare(part)
    inside = shapely.contains_properly(part, boxes)
    return np.stack([x[inside], y[inside]], axis=1)


def _starts(low: float, high: float, step: float, tile: float) -> NDArray[np.float64]:
    """Return where tiles begin along an axis, from the whole pixel below ``low``.

    Those that end before the slide begins are left out; the others stay where they are.
    """
    first = math.floor(low)
    skipped = max(0, math.ceil((-tile - first) / step))
    count = max(0, math.ceil((high - first) / step)) - skipped
    if count > MAX_LAID:
        # an array of them alone would be too much; the caller refuses their number
        count = MAX_LAID + 1
    return first + step * np.arange(skipped, skipped + max(0, count), dtype=np.float64)


def _adaptive_step(w: float, h: float, tile: float, stride: float) -> float:
    if w < 2 and h < 2:
        return tile / 4
    if (w < 3 and h < 4) or (h < 3 and w < 4):
        return tile / 2
    return stride


def _adaptive_inset(w: float, h: float) -> float:
    """Distance of the verification box from the border of its tile, in tiles."""
    if w < 1.5 and h < 1.5:
        return 1 / 4
    if (w < 4 and h < 6) or (h < 4 and w < 6):
        return 1 / 5
    return 0.0


def _held(areas: Sequence[ClassArea], xy: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Yield, for each area, the indices of the places inside it.

    Places are sorted once, so that of a million small areas each looks at its neighbourhood alone.
    """
    order = np.argsort(xy[:, 0], kind="stable")
    sorted_x = xy[order, 0]
    for area in areas:
        x0, y0, x1, y1 = area.geometry.bounds
        first, last = np.searchsorted(sorted_x, x0, "left"), np.searchsorted(sorted_x, x1, "right")
        near = order[first:last]
        near = near[(xy[near, 1] >= y0) & (xy[near, 1] <= y1)]
        shapely.prepare(area.geometry)
        yield near[shapely.contains_xy(area.geometry, xy[near, 0], xy[near, 1])]


def _covered(boxes: NDArray[np.object_], areas: Sequence[ClassArea]) -> NDArray[np.float64]:
    """Measure how much of each box the areas cover together."""
    union = unite([area.geometry for area in areas])
    shapely.prepare(union)
    touched = shapely.intersects(union, boxes)
    covered = np.zeros(len(boxes))
    covered[touched] = shapely.area(shapely.intersection(boxes[touched], union))
    return covered
