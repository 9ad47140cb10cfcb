"""An open slide -> all that must be known before its first patch: mask, grid, stain, labels."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import DamagedTiles
from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.preprocess.damage import drop_damaged
from wsi_pipeline.slide.geometry import is_upsampled
from wsi_pipeline.slide.resampling import resize_square
from wsi_pipeline.stain import estimate_stain_matrix, unmix
from wsi_pipeline.store import StoreHeader
from wsi_pipeline.tiles.grid import drop_blurred, lay_grid, sample_tiles
from wsi_pipeline.tiles.labelled import label_tiles
from wsi_pipeline.tissue import (
    find_miscoding,
    make_segmenter,
    require_brightfield,
    segment_overview,
    sharpness,
    typical_nucleus_um2,
)
from wsi_pipeline.types import Area

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.preprocess.extraction import TileReader
    from wsi_pipeline.preprocess.given import Given
    from wsi_pipeline.slide.open import Slide
    from wsi_pipeline.slide.salvage import Box
    from wsi_pipeline.stopwatch import Stopwatch
    from wsi_pipeline.types import SlideInfo, StainEstimate, TileGrid, TissueMask

THUMBNAIL_PX = 1024
"""Longer side of the stored thumbnail, px."""

MOSTLY_PEN = 0.7
"""Share of a slide that no pen covers."""

STAIN_PIXELS = 1 << 18
"""About how many pixels the stain matrix rests on. Neighbours are alike: which tiles are sampled
moves the matrix a hundred times as far as leaving out three pixels of four."""


NUCLEI_MPP = 0.5
"""Resolution that nuclei are measured at, um/px."""

COARSEST_NUCLEI_MPP = 0.6
"""Resolution of patches, um/px, from which on nuclei are too few pixels to be measured."""

NUCLEI_TILES = 16
"""Tiles that nuclei are measured in."""


def survey_slide(
    tiles: TileReader,
    given: Given,
    config: PipelineConfig,
    pool: ThreadPoolExecutor,
    watch: Stopwatch,
) -> StoreHeader:
    """Find out all that must be known before the first patch is read.

    Parameters
    ----------
    tiles : TileReader
        Reads the open slide, and keeps the sampled tiles for whoever reads all tiles afterwards.
    given : Given
        What bounds and labels the tiles.
    config : PipelineConfig
        The configuration.
    pool : ThreadPoolExecutor
        Reads the overview and the tiles that the stain matrix rests on.
    watch : Stopwatch
        Is given the time of each stage.

    Returns
    -------
    StoreHeader
        Mask, grid, stain matrix, thumbnail and labels.

    Raises
    ------
    SlideError
        If the slide is not brightfield, coarser than the patches, or all pen.
    ConfigError, ModelOutputError
        If there is no such tissue segmenter, or it gives no areas.
    StainEstimationError
        If its pixels are not H&E.
    AnnotationError
        If no tile can be labelled as asked.
    """
    slide = tiles.slide
    _require_resolution(slide.info, config)
    lost: list[Box] | None = [] if config.tile.damaged_tiles is DamagedTiles.DROP else None
    with watch.stage("mask"):
        mask, thumbnail = _find_tissue(slide, given, config, pool, lost)
    with watch.stage("grid"):
        grid = lay_grid(slide.info, mask, config.tile, given.roi)
        grid = _without_spoilt(slide, grid, config, pool, lost)
    with watch.stage("stain"):
        # from all tissue, so that stores of labelled and of other tiles share one matrix;
        # tiles that labels may drop are not read ahead
        stain = _estimate_stain(tiles, grid, config, pool, ahead=given.areas is None)
    labelled = None
    if given.areas is not None:
        with watch.stage("labels"):
            labelled = label_tiles(
                slide.info, mask, given.areas, config.tile, config.label, given.roi
            )
            grid = _without_spoilt(slide, labelled.grid, config, pool, lost)
            labelled = replace(labelled, grid=grid)
    return StoreHeader(
        slide=slide.info,
        grid=grid,
        label=None if labelled is None else labelled.kept_labels,
        label_names=() if labelled is None else tuple(config.label.classes),
        group=None if given.group is None else (given.group,) * len(grid),
        stain=stain,
        mask=mask,
        thumbnail=thumbnail,
        config=given.recipe,
        fingerprint=slide.fingerprint(),
    )


def _require_resolution(info: SlideInfo, config: PipelineConfig) -> None:
    """Refuse a slide whose patches would be blurs, unless that is allowed."""
    if is_upsampled(info, config.tile.mpp) and not config.tile.allow_upsampling:
        raise UnsupportedSlideError(
            f"{info.slide_id} has {info.mpp:.4g} um/px ({info.mpp_source}), coarser than the "
            f"patches of {config.tile.mpp:g} um/px: they would be enlarged, and a model would see "
            "a blur. Give --slide-mpp if that is wrong, a coarser --mpp, or --allow-upsampling",
            slide=asdict(info),
        )


def _require_true_colours(mask: TissueMask, rgb: NDArray[np.uint8], info: SlideInfo) -> None:
    """Refuse a slide whose very glass has the colour of ink, or whose samples are no colours."""
    pen = float((mask.areas == Area.PEN).mean())
    wrong = find_miscoding(rgb)
    if wrong:
        raise UnsupportedSlideError(
            f"{pen:.0%} of {info.slide_id} would be pen, and none of it right: {wrong}",
            slide=asdict(info),
        )
    if pen > MOSTLY_PEN:
        raise UnsupportedSlideError(
            f"{pen:.0%} of {info.slide_id} would be pen: its colours are not those of H&E on "
            "glass. Export the slide anew, or pass --no-reject-pen if it is right as it is",
            slide=asdict(info),
        )


def _find_tissue(
    slide: Slide,
    given: Given,
    config: PipelineConfig,
    pool: ThreadPoolExecutor,
    lost: list[Box] | None,
) -> tuple[TissueMask, NDArray[np.uint8]]:
    """Return the mask and the thumbnail, both from one overview."""
    segmenter = make_segmenter(config.tissue)
    rgb, downsample = slide.overview(segmenter.mpp, pool, lost=lost)
    mpp = max(segmenter.mpp, slide.info.mpp)
    require_brightfield(rgb, slide.info.slide_id)
    mask = segment_overview(segmenter, rgb, mpp, downsample)
    if given.tissue is not None:
        mask = given.tissue.replace_in(mask)
    _require_true_colours(mask, rgb, slide.info)
    return mask, _thumbnail(slide, rgb, mpp, lost)


def _without_spoilt(
    slide: Slide,
    grid: TileGrid,
    config: PipelineConfig,
    pool: ThreadPoolExecutor,
    lost: list[Box] | None,
) -> TileGrid:
    """Drop the tiles that cannot be read or are not sharp, where that is asked for."""
    if lost is not None:
        grid = drop_damaged(slide, grid, lost, pool)
    if config.tile.min_sharpness is None:
        return grid
    scores = list(pool.map(lambda i: _tile_sharpness(slide, grid, i), range(len(grid))))
    return drop_blurred(grid, np.array(scores), config.tile.min_sharpness)


def _thumbnail(
    slide: Slide, overview: NDArray[np.uint8], overview_mpp: float, lost: list[Box] | None
) -> NDArray[np.uint8]:
    """Picture the whole slide; small slides are read again, for the mask's pixels are coarse."""
    longer = max(slide.info.size_wh)
    mpp = slide.info.mpp * max(1.0, longer / THUMBNAIL_PX)
    if mpp < overview_mpp:
        return slide.overview(mpp, oversampling=1, lost=lost)[0]
    height, width, _ = overview.shape
    scale = THUMBNAIL_PX / max(height, width)
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(overview, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _estimate_stain(
    tiles: TileReader,
    grid: TileGrid,
    config: PipelineConfig,
    pool: ThreadPoolExecutor,
    *,
    ahead: bool,
) -> StainEstimate:
    """Estimate the slide's matrix from the averaged pixels of a seeded sample of its tiles.

    The threads go on with the first tiles if they are to be read ``ahead``.
    """
    side = max(1, round(grid.patch_px * grid.mpp / max(config.stain.pixel_um, grid.mpp)))
    indices = sample_tiles(grid, config.stain.sample_tiles, config.stain.seed)
    step = max(1, math.ceil(math.sqrt(len(indices) * side**2 / STAIN_PIXELS)))

    def read(index: int) -> NDArray[np.uint8]:
        return tiles.sample(grid, index, side)[::step, ::step].reshape(-1, 3)

    sampled = pool.map(read, indices.tolist())
    if ahead:
        tiles.read_ahead(grid, pool, frozenset(indices.tolist()))
    pixels = np.concatenate([np.empty((0, 3), dtype=np.uint8), *sampled])
    stain = estimate_stain_matrix(pixels, config.stain)
    return replace(stain, nucleus_um2=_nucleus_um2(tiles, grid, stain, indices, pool))


def _nucleus_um2(
    tiles: TileReader,
    grid: TileGrid,
    stain: StainEstimate,
    indices: NDArray[np.int64],
    pool: ThreadPoolExecutor,
) -> float | None:
    """Measure nuclei in some of the sampled tiles, where patches are fine enough to show them."""
    if grid.mpp > COARSEST_NUCLEI_MPP:
        return None
    side = max(1, round(grid.patch_px * grid.mpp / NUCLEI_MPP))
    few = indices[:: max(1, len(indices) // NUCLEI_TILES)][:NUCLEI_TILES]

    def hematoxylin(index: int) -> NDArray[np.float32]:
        return np.asarray(unmix(resize_square(tiles.look(grid, index), side), stain.matrix)[0])

    return typical_nucleus_um2(pool.map(hematoxylin, few.tolist()), NUCLEI_MPP)


def _tile_sharpness(slide: Slide, grid: TileGrid, index: int) -> float:
    x, y = grid.level_xy[index].tolist()
    side = max(1, grid.patch_px // 2)
    return sharpness(slide.read_patch(grid.level, (x, y), grid.read_px, side))
