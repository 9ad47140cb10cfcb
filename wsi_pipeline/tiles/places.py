"""Areas of classes and places of tiles -> the class of each tile, or the tiles of each area.

Pure geometry in whatever unit areas and tiles share; neither slides nor configuration are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.tiles.classes import UNLABELLED, ClassArea

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
    for area in sorted(classed, key=lambda area: area.rank, reverse=True):
        labels[_holds(area, centres_xy)] = area.label
    return labels


def is_annotated(areas: Sequence[ClassArea], centres_xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which tiles have their centre in any area, of a class or not; shape (N,)."""
    inside = np.zeros(len(centres_xy), dtype=np.bool_)
    for area in areas:
        inside |= _holds(area, centres_xy)
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
    areas: Sequence[ClassArea], tile: float, stride: float, *, adaptive: bool
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

    References
    ----------
    .. [1] B. Zhang et al., "CLASS-M", Medical Image Analysis 105, 2025; released code, step 1.
    """
    laid = [
        (index, places)
        for index, area in enumerate(areas)
        if area.label != UNLABELLED
        for part in shapely.get_parts(area.geometry)
        for places in [_lay_in_part(part, tile, stride, adaptive=adaptive)]
    ]
    area = np.repeat(
        np.array([index for index, _ in laid], dtype=np.int64), [len(places) for _, places in laid]
    )
    labels = np.array([area.label for area in areas], dtype=np.int16)
    return AreaTiles(
        xy=np.concatenate([np.empty((0, 2)), *(places for _, places in laid)]),
        label=labels[area] if len(areas) else np.empty(0, dtype=np.int16),
        area=area,
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


def _lay_in_part(
    part: shapely.Polygon, tile: float, stride: float, *, adaptive: bool
) -> NDArray[np.float64]:
    """Lay tiles in one polygon; corners of shape (n, 2)."""
    x0, y0, x1, y1 = part.bounds
    step, inset = stride, 0.0
    if adaptive:
        step = _adaptive_step((x1 - x0) / tile, (y1 - y0) / tile, tile, stride)
        inset = _adaptive_inset((x1 - x0) / tile, (y1 - y0) / tile) * tile
    columns, rows = np.meshgrid(_starts(x0, x1, step), _starts(y0, y1, step), indexing="ij")
    x, y = columns.ravel(), rows.ravel()
    boxes = shapely.box(x + inset, y + inset, x + tile - inset, y + tile - inset)
    shapely.prepare(part)
    inside = shapely.contains_properly(part, boxes)
    return np.stack([x[inside], y[inside]], axis=1)


def _starts(low: float, high: float, step: float) -> NDArray[np.float64]:
    """Return where tiles begin along an axis, from the whole pixel below ``low``."""
    return np.arange(math.floor(low), high, step, dtype=np.float64)


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


def _holds(area: ClassArea, xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    shapely.prepare(area.geometry)
    return np.asarray(shapely.contains_xy(area.geometry, xy[:, 0], xy[:, 1]))


def _covered(boxes: NDArray[np.object_], areas: Sequence[ClassArea]) -> NDArray[np.float64]:
    """Measure how much of each box the areas cover together."""
    union = shapely.union_all([area.geometry for area in areas])
    shapely.prepare(union)
    touched = shapely.intersects(union, boxes)
    covered = np.zeros(len(boxes))
    covered[touched] = shapely.area(shapely.intersection(boxes[touched], union))
    return covered
