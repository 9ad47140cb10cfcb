"""One slide -> its patch store: mask, grid, stain matrix, H/E patches.

Reads each tile once for its patch, and goes on where an interrupted run stopped. Pictures and
folders of slides are the business of others.
"""

from __future__ import annotations

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.errors import StoreExistsError
from wsi_pipeline.preprocess.extraction import Extraction, TileReader
from wsi_pipeline.slide.open import Slide, open_slide
from wsi_pipeline.stain import estimate_stain_matrix
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.store import PatchStore, StoreHeader, StoreWriter, has_store
from wsi_pipeline.store.identity import recipe_hash
from wsi_pipeline.tiles.classes import find_group, to_classes
from wsi_pipeline.tiles.grid import drop_blurred, lay_grid, sample_tiles
from wsi_pipeline.tiles.labelled import LabelledTiles, label_tiles
from wsi_pipeline.tissue import (
    make_segmenter,
    require_brightfield,
    segment_overview,
    sharpness,
)
from wsi_pipeline.types import (
    NoProgress,
    Progress,
    StainEstimate,
    TileGrid,
    TissueMask,
)

if TYPE_CHECKING:
    import shapely

    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.slide.inputs import SlideJob

THUMBNAIL_PX = 1024
"""Longer side of the stored thumbnail, px."""

STAIN_PIXELS = 1 << 18
"""About how many pixels the stain matrix rests on. Neighbours are alike: which tiles are sampled
moves the matrix a hundred times as far as leaving out three pixels of four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessed:
    """A finished patch store and what it took.

    Attributes
    ----------
    store : PatchStore
        The store, complete and open.
    seconds : dict of str to float
        Wall time by stage; empty when an earlier run had made the store.
    """

    store: PatchStore
    seconds: dict[str, float] = field(default_factory=dict)


def preprocess_slide(
    job: SlideJob,
    path: Path,
    config: PipelineConfig,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Preprocessed:
    """Turn one slide into a patch store.

    Parameters
    ----------
    job : SlideJob
        The slide, with what is given for it: resolution, region of interest, annotated areas
        that label its tiles, patient.
    path : Path
        Name of the store, ending in ``.zarr``. A complete store that was made from this slide
        with this configuration is returned as it is; an unfinished one is gone on with.
    config : PipelineConfig
        The configuration; its ``predict`` part is not used.
    workers : int
        Threads that read and unmix.
    overwrite : bool
        Replace a store that was made with another configuration or from another slide.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    Preprocessed
        The store and the time each stage took.

    Raises
    ------
    SlideError
        If the slide cannot be read, states no resolution or is not brightfield.
    StainEstimationError
        If its pixels are not H&E.
    AnnotationError
        If the region of interest or the annotations are malformed.
    ConfigError
        If annotations have no label map, or the slide's name shows no patient.
    StoreExistsError
        If another store has this name and ``overwrite`` is off.
    """
    watch = Stopwatch()
    recipe = _recipe(job, config)
    with open_slide(job.path, config.read, job.mpp, slide_id=job.slide_id) as slide:
        if _is_finished(path, recipe, slide.fingerprint(), overwrite=overwrite):
            return Preprocessed(store=PatchStore.open(path))
        with ThreadPoolExecutor(workers) as pool:
            tiles = TileReader(slide)
            header = survey_slide(slide, job, config, pool, watch, tiles)
            writer = StoreWriter.create_or_resume(path, header, config.store, overwrite=overwrite)
            with watch.divided() as work:
                extraction = Extraction(tiles, header, config.store)
                work |= extraction.fill(writer, pool, progress or NoProgress())
    with watch.stage("seal"):
        store = writer.seal()
    return Preprocessed(store=store, seconds=watch.seconds)


def identify_store(job: SlideJob, config: PipelineConfig) -> dict[str, str]:
    """Tell what the patch store of a slide would be known by, without making it.

    Parameters
    ----------
    job : SlideJob
        The slide.
    config : PipelineConfig
        The configuration.

    Returns
    -------
    dict of str to str
        ``config_hash`` and ``fingerprint``, as the store has them.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    recipe = _recipe(job, config)
    with open_slide(job.path, config.read, job.mpp, slide_id=job.slide_id) as slide:
        return {"config_hash": recipe_hash(recipe), "fingerprint": slide.fingerprint()}


def _recipe(job: SlideJob, config: PipelineConfig) -> dict[str, Any]:
    """Gather, as plain values, everything besides the slide's pixels that decides the store."""
    recipe = {
        **config.preprocessing(),
        "table_mpp": job.mpp,
        "roi": _content_hash(job.roi),
        "labels": _content_hash(job.labels),
        "group": job.group,
    }
    version = make_segmenter(config.tissue).version
    # stores that do not state it are of the first
    return recipe if version == "1" else {**recipe, "segmenter_version": version}


def _content_hash(file: Path | None) -> str | None:
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def _is_finished(path: Path, recipe: dict[str, Any], fingerprint: str, *, overwrite: bool) -> bool:
    """Whether the very store that is asked for is there; another one is an error or replaced."""
    try:
        return has_store(path, recipe=recipe, fingerprint=fingerprint)
    except StoreExistsError:
        if not overwrite:
            raise
        return False


def survey_slide(
    slide: Slide,
    job: SlideJob,
    config: PipelineConfig,
    pool: ThreadPoolExecutor,
    watch: Stopwatch,
    tiles: TileReader | None = None,
) -> StoreHeader:
    """Find out all that must be known before the first patch is read.

    Parameters
    ----------
    slide : Slide
        The open slide.
    job : SlideJob
        What is given for it.
    config : PipelineConfig
        The configuration.
    pool : ThreadPoolExecutor
        Reads the overview and the tiles that the stain matrix rests on.
    watch : Stopwatch
        Is given the time of each stage.
    tiles : TileReader or None
        Reads the sampled tiles, and keeps them for whoever reads all tiles with it afterwards.

    Returns
    -------
    StoreHeader
        Mask, grid, stain matrix, thumbnail and labels.

    Raises
    ------
    SlideError, StainEstimationError, AnnotationError
        As :func:`preprocess_slide`.
    """
    tiles = tiles or TileReader(slide, max_bytes=0)
    with watch.stage("mask"):
        segmenter = make_segmenter(config.tissue)
        rgb, downsample = slide.overview(segmenter.mpp, pool)
        overview_mpp = max(segmenter.mpp, slide.info.mpp)
        require_brightfield(rgb, slide.info.slide_id)
        mask = segment_overview(segmenter, rgb, overview_mpp, downsample)
        thumbnail = _thumbnail(slide, rgb, overview_mpp)
    with watch.stage("grid"):
        roi = None if job.roi is None else _polygons(slide, job.roi)
        grid = _without_blurred(slide, lay_grid(slide.info, mask, config.tile, roi), config, pool)
    with watch.stage("stain"):
        # from all tissue, so that stores of labelled and of other tiles share one matrix
        # tiles that labels may drop are not read ahead
        stain = _estimate_stain(tiles, grid, config, pool, ahead=job.labels is None)
    labelled = None
    if job.labels is not None:
        with watch.stage("labels"):
            labelled = _label(slide, mask, job.labels, config, roi)
            grid = _without_blurred(slide, labelled.grid, config, pool)
            labelled = replace(labelled, grid=grid)
    return StoreHeader(
        slide=slide.info,
        grid=grid,
        label=None if labelled is None else labelled.kept_labels,
        label_names=() if labelled is None else tuple(config.label.classes),
        group=_groups(job, config, len(grid)),
        stain=stain,
        mask=mask,
        thumbnail=thumbnail,
        config=_recipe(job, config),
        fingerprint=slide.fingerprint(),
    )


def _polygons(slide: Slide, file: Path) -> list[shapely.Geometry]:
    return [area.geometry for area in read_annotations(file, slide.info.size_wh)]


def _label(
    slide: Slide,
    mask: TissueMask,
    file: Path,
    config: PipelineConfig,
    roi: list[shapely.Geometry] | None,
) -> LabelledTiles:
    """Choose and label the tiles of an annotated slide."""
    annotations = read_annotations(file, slide.info.size_wh)
    areas = to_classes(annotations, config.label, file)
    return label_tiles(slide.info, mask, areas, config.tile, config.label, roi)


def _groups(job: SlideJob, config: PipelineConfig, count: int) -> tuple[str, ...] | None:
    """Repeat the patient of a slide for each of its patches; None where it is not known."""
    group = job.group
    if group is None and config.label.group is not None:
        group = find_group(job.slide_id, config.label.group)
    return None if group is None else (group,) * count


def _without_blurred(
    slide: Slide, grid: TileGrid, config: PipelineConfig, pool: ThreadPoolExecutor
) -> TileGrid:
    if config.tile.min_sharpness is None:
        return grid
    scores = list(pool.map(lambda i: _tile_sharpness(slide, grid, i), range(len(grid))))
    return drop_blurred(grid, np.array(scores), config.tile.min_sharpness)


def _thumbnail(slide: Slide, overview: NDArray[np.uint8], overview_mpp: float) -> NDArray[np.uint8]:
    """Picture the whole slide; small slides are read again, for the mask's pixels are coarse."""
    longer = max(slide.info.size_wh)
    mpp = slide.info.mpp * max(1.0, longer / THUMBNAIL_PX)
    if mpp < overview_mpp:
        return slide.overview(mpp, oversampling=1)[0]
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
    return estimate_stain_matrix(pixels, config.stain)


def _tile_sharpness(slide: Slide, grid: TileGrid, index: int) -> float:
    x, y = grid.level_xy[index].tolist()
    side = max(1, grid.patch_px // 2)
    return sharpness(slide.read_patch(grid.level, (x, y), grid.read_px, side))
