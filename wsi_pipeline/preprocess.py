"""One slide -> its patch store: mask, grid, stain matrix, H/E patches.

Reads each tile once, keeps a few shards in memory whatever the slide's size, and goes on where an
interrupted run stopped. Pictures and folders of slides are the business of others.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.config import HeValues, PipelineConfig, StoreConfig, config_hash
from wsi_pipeline.errors import StoreExistsError
from wsi_pipeline.labelling import LabelledTiles, find_group, label_tiles, to_classes
from wsi_pipeline.slide import Slide, open_slide
from wsi_pipeline.stain import encode_he, encode_he_float16, estimate_stain_matrix
from wsi_pipeline.store import PatchStore, Shard, StoreHeader, StoreWriter, has_store
from wsi_pipeline.tiling import drop_blurred, lay_grid, sample_tiles
from wsi_pipeline.tissue import detect_tissue, require_brightfield, sharpness
from wsi_pipeline.types import (
    NoProgress,
    Progress,
    StainEstimate,
    StainMatrix,
    TileGrid,
    TissueMask,
)

if TYPE_CHECKING:
    import shapely

    from wsi_pipeline.inputs import SlideJob

THUMBNAIL_PX = 1024
"""Longer side of the stored thumbnail, px."""

BLOCK_PATCHES = 16
"""Patches one thread reads and unmixes in one go."""


class Stopwatch:
    """Adds up wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block as ``name``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


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
            header = _survey(slide, job, config, pool, watch)
            writer = StoreWriter.create_or_resume(path, header, config.store, overwrite=overwrite)
            with watch.stage("patches"):
                extraction = _Extraction(slide, header, config.store)
                extraction.fill(writer, pool, workers, progress or NoProgress())
    with watch.stage("seal"):
        store = writer.seal()
    return Preprocessed(store=store, seconds=watch.seconds)


def _recipe(job: SlideJob, config: PipelineConfig) -> dict[str, Any]:
    """Gather, as plain values, everything besides the slide's pixels that decides the store."""
    return {
        **config.preprocessing(),
        "table_mpp": job.mpp,
        "roi": _content_hash(job.roi),
        "labels": _content_hash(job.labels),
        "group": job.group,
    }


def _content_hash(file: Path | None) -> str | None:
    return None if file is None else hashlib.sha256(file.read_bytes()).hexdigest()


def _is_finished(path: Path, recipe: dict[str, Any], fingerprint: str, *, overwrite: bool) -> bool:
    """Whether the very store that is asked for is there; another one is an error or replaced."""
    try:
        return has_store(path, config_hash=config_hash(recipe), fingerprint=fingerprint)
    except StoreExistsError:
        if not overwrite:
            raise
        return False


def _survey(
    slide: Slide,
    job: SlideJob,
    config: PipelineConfig,
    pool: ThreadPoolExecutor,
    watch: Stopwatch,
) -> StoreHeader:
    """Find out all that must be known before the first patch is stored."""
    with watch.stage("mask"):
        rgb, downsample = slide.overview(config.tissue.mask_mpp)
        require_brightfield(rgb, slide.info.slide_id)
        mask = detect_tissue(rgb, config.tissue.mask_mpp, downsample, config.tissue)
        thumbnail = _thumbnail(slide, rgb, config.tissue.mask_mpp)
    with watch.stage("grid"):
        roi = None if job.roi is None else _polygons(slide, job.roi)
        grid = _without_blurred(slide, lay_grid(slide.info, mask, config.tile, roi), config, pool)
    with watch.stage("stain"):
        # from all tissue, so that stores of labelled and of other tiles share one matrix
        stain = _estimate_stain(slide, grid, config, pool)
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
    slide: Slide, grid: TileGrid, config: PipelineConfig, pool: ThreadPoolExecutor
) -> StainEstimate:
    """Estimate the slide's matrix from the averaged pixels of a seeded sample of its tiles."""
    side = max(1, round(grid.patch_px * grid.mpp / max(config.stain.pixel_um, grid.mpp)))
    indices = sample_tiles(grid, config.stain.sample_tiles, config.stain.seed)
    samples = pool.map(lambda i: _read(slide, grid, i, side).reshape(-1, 3), indices.tolist())
    pixels = np.concatenate([np.empty((0, 3), dtype=np.uint8), *samples])
    return estimate_stain_matrix(pixels, config.stain)


def _tile_sharpness(slide: Slide, grid: TileGrid, index: int) -> float:
    return sharpness(_read(slide, grid, index, max(1, grid.patch_px // 2)))


def _read(slide: Slide, grid: TileGrid, index: int, side_px: int) -> NDArray[np.uint8]:
    """Read one kept tile as a patch of ``side_px``, RGB."""
    x, y = (int(v) for v in grid.level_xy[index])
    return slide.read_patch(grid.level, (x, y), grid.read_px, side_px)


class _Extraction:
    """Reads, unmixes and writes the patches of one slide, with a few shards in memory."""

    def __init__(self, slide: Slide, header: StoreHeader, config: StoreConfig) -> None:
        self._slide = slide
        self._grid = header.grid
        self._stains: StainMatrix = header.stain.matrix
        self._half = config.he_values is HeValues.FLOAT16
        self._keep_rgb = config.keep_rgb

    def fill(
        self, writer: StoreWriter, pool: ThreadPoolExecutor, workers: int, progress: Progress
    ) -> None:
        """Write every pending shard; blocks of the next are read while one is compressed."""
        pending = [writer.shards[index] for index in writer.pending()]
        progress.start(
            f"{self._slide.info.slide_id}: patches", sum(s.stop - s.start for s in pending)
        )
        reading: deque[tuple[Shard, _Buffers, list[Future[None]]]] = deque()
        writing: deque[Future[None]] = deque()
        for shard in pending:
            buffers = self._allocate(shard)
            blocks = [
                pool.submit(self._fill_block, shard, buffers, start)
                for start in range(shard.start, shard.stop, BLOCK_PATCHES)
            ]
            reading.append((shard, buffers, blocks))
            if len(reading) > 1:
                writing.append(_write(writer, pool, progress, *reading.popleft()))
            if len(writing) > workers:
                writing.popleft().result()
        while reading:
            writing.append(_write(writer, pool, progress, *reading.popleft()))
        for written in writing:
            written.result()

    def _allocate(self, shard: Shard) -> _Buffers:
        n, side = shard.stop - shard.start, self._grid.patch_px
        return _Buffers(
            he=np.empty((n, 2, side, side), dtype=np.float16 if self._half else np.uint8),
            rgb=np.empty((n, side, side, 3), dtype=np.uint8) if self._keep_rgb else None,
        )

    def _fill_block(self, shard: Shard, buffers: _Buffers, start: int) -> None:
        encode = encode_he_float16 if self._half else encode_he
        for index in range(start, min(start + BLOCK_PATCHES, shard.stop)):
            patch = _read(self._slide, self._grid, index, self._grid.patch_px)
            buffers.he[index - shard.start] = encode(patch, self._stains)
            if buffers.rgb is not None:
                buffers.rgb[index - shard.start] = patch


@dataclass(frozen=True, slots=True)
class _Buffers:
    he: NDArray[Any]
    rgb: NDArray[np.uint8] | None


def _write(
    writer: StoreWriter,
    pool: ThreadPoolExecutor,
    progress: Progress,
    shard: Shard,
    buffers: _Buffers,
    blocks: list[Future[None]],
) -> Future[None]:
    """Wait for the blocks of a shard, then have it written."""
    for start, block in zip(range(shard.start, shard.stop, BLOCK_PATCHES), blocks, strict=True):
        block.result()
        progress.advance(min(BLOCK_PATCHES, shard.stop - start))
    return pool.submit(writer.write_shard, shard.index, buffers.he, buffers.rgb)
