"""A slide's mask and its annotated areas -> labelled tiles, kept or dropped for a reason.

Puts the rules of the other modules to work as one configuration asks; reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from shapely import affinity

from wsi_pipeline.config import LabelConfig, LabelMode, LabelTiles, Overlaps, SmallPolygons
from wsi_pipeline.slide.geometry import plan_read
from wsi_pipeline.tiles.classes import UNLABELLED, ClassArea
from wsi_pipeline.tiles.grid import judge_tiles, lay_grid
from wsi_pipeline.tiles.places import (
    AreaTiles,
    is_annotated,
    label_by_centre,
    label_by_majority,
    lay_in_areas,
    outranked,
)
from wsi_pipeline.types import TileGrid, TileReason

if TYPE_CHECKING:
    import shapely

    from wsi_pipeline.config import TileConfig
    from wsi_pipeline.types import SlideInfo, TissueMask


@dataclass(frozen=True, kw_only=True)
class LabelledTiles:
    """The candidate tiles of a slide with their classes.

    Attributes
    ----------
    grid : TileGrid
        The candidates, each kept or dropped for a reason.
    labels : ndarray of shape (rows, cols), int16
        Class of every candidate, -1 for none.
    """

    grid: TileGrid
    labels: NDArray[np.int16]

    @property
    def kept_labels(self) -> NDArray[np.int16]:
        """Labels of the kept tiles, shape (N,)."""
        return np.asarray(self.labels[tuple(self.grid.rc.T)])


def label_tiles(
    info: SlideInfo,
    mask: TissueMask,
    areas: Sequence[ClassArea],
    tile: TileConfig,
    config: LabelConfig,
    roi: Sequence[shapely.Geometry] | None = None,
) -> LabelledTiles:
    """Choose the tiles of an annotated slide and give them their classes.

    Parameters
    ----------
    info : SlideInfo
        The slide.
    mask : TissueMask
        Its areas at low resolution.
    areas : sequence of ClassArea
        Annotated areas, level-0 px.
    tile : TileConfig
        Resolution, size and distance of the tiles, and the shares they must have.
    config : LabelConfig
        How tiles get their class, and which are kept.
    roi : sequence of shapely geometries or None
        Region of interest, level-0 px.

    Returns
    -------
    LabelledTiles
        With ``label_tiles`` ``outside`` every label is -1, and a tile whose centre lies in an
        area, also of no class, is ``ANNOTATED``; with ``labelled`` a tile of no class is
        ``UNLABELLED``. In the mode ``containment`` labelled tiles lie off the lattice.
    """
    lattice = lay_grid(info, mask, tile, roi)
    if config.label_tiles is LabelTiles.OUTSIDE:
        return _outside(lattice, areas)
    thorough = tile
    if config.min_tissue_labelled is not None:
        thorough = tile.model_copy(update={"min_tissue": config.min_tissue_labelled})
    if config.label_mode is LabelMode.CONTAINMENT:
        return _contained(info, mask, areas, thorough, config, roi)
    grid = lay_grid(info, mask, thorough, roi)
    labels = _lattice_labels(grid, areas, config)
    if config.label_tiles is LabelTiles.LABELLED:
        return LabelledTiles(
            grid=_drop(grid, labels == UNLABELLED, TileReason.UNLABELLED), labels=labels
        )
    reasons = np.where(labels == UNLABELLED, lattice.reasons, grid.reasons)
    return LabelledTiles(grid=replace(grid, reasons=reasons), labels=labels)


def _outside(grid: TileGrid, areas: Sequence[ClassArea]) -> LabelledTiles:
    annotated = is_annotated(areas, _corners(grid) + grid.extent / 2).reshape(grid.shape)
    return LabelledTiles(
        grid=_drop(grid, annotated, TileReason.ANNOTATED),
        labels=np.full(grid.shape, UNLABELLED, dtype=np.int16),
    )


def _lattice_labels(
    grid: TileGrid, areas: Sequence[ClassArea], config: LabelConfig
) -> NDArray[np.int16]:
    corners = _corners(grid)
    if config.label_mode is LabelMode.MAJORITY:
        labels = label_by_majority(areas, corners, grid.extent, config.min_label_share)
    else:
        labels = label_by_centre(areas, corners + grid.extent / 2)
    return labels.reshape(grid.shape)


def _contained(
    info: SlideInfo,
    mask: TissueMask,
    areas: Sequence[ClassArea],
    tile: TileConfig,
    config: LabelConfig,
    roi: Sequence[shapely.Geometry] | None,
) -> LabelledTiles:
    plan = plan_read(info, tile.mpp, tile.patch_size)
    laid = lay_contained_tiles(info, areas, tile, config)
    level_xy = np.rint(laid.xy * plan.read_px / tile.patch_size).astype(np.int64)
    level_wh = info.level_sizes_wh[plan.level]
    whole = ((level_xy >= 0) & (level_xy + plan.read_px <= level_wh)).all(axis=1)
    grid = judge_tiles(info, mask, tile, level_xy[whole])
    if roi is not None:
        bounds = [ClassArea(geometry=part, label=UNLABELLED, rank=0) for part in roi]
        inside = is_annotated(bounds, _corners(grid) + grid.extent / 2)
        grid = _drop(grid, ~inside.reshape(grid.shape), TileReason.OUTSIDE_ROI)
    return LabelledTiles(grid=grid, labels=laid.label[whole].reshape(grid.shape))


def lay_contained_tiles(
    info: SlideInfo, areas: Sequence[ClassArea], tile: TileConfig, config: LabelConfig
) -> AreaTiles:
    """Lay tiles in annotated areas, whatever the tissue in them.

    Parameters
    ----------
    info : SlideInfo
        The slide.
    areas : sequence of ClassArea
        Annotated areas, level-0 px.
    tile : TileConfig
        Resolution, size and distance of the tiles.
    config : LabelConfig
        What is done about small and about overlapping areas.

    Returns
    -------
    AreaTiles
        Corners are in px of the patches; tiles of small areas may protrude from the slide.
    """
    plan = plan_read(info, tile.mpp, tile.patch_size)
    scale = tile.patch_size / (plan.read_px * plan.downsample)
    scaled = [
        replace(area, geometry=affinity.scale(area.geometry, scale, scale, origin=(0, 0)))
        for area in areas
    ]
    side, stride = float(tile.patch_size), float(tile.stride or tile.patch_size)
    adaptive = config.small_polygons is SmallPolygons.ADAPTIVE
    width, height = info.size_wh
    laid = lay_in_areas(
        scaled, side, stride, adaptive=adaptive, within_wh=(width * scale, height * scale)
    )
    if config.overlaps is Overlaps.BOTH:
        return laid
    wins = ~outranked(scaled, laid, side)
    return AreaTiles(xy=laid.xy[wins], label=laid.label[wins], area=laid.area[wins])


def _drop(grid: TileGrid, which: NDArray[np.bool_], reason: TileReason) -> TileGrid:
    """Drop kept tiles for a reason; those dropped before keep theirs."""
    dropped = (grid.reasons == TileReason.KEPT) & which
    return replace(grid, reasons=np.where(dropped, np.uint8(reason), grid.reasons))


def _corners(grid: TileGrid) -> NDArray[np.float64]:
    """Top-left corners of all candidates, level-0 px, shape (rows * cols, 2)."""
    level_xy = grid.level_xy_of(np.indices(grid.shape).reshape(2, -1).T)
    return np.asarray(level_xy * grid.downsample, dtype=np.float64)
