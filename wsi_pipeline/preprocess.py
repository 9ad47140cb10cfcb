"""One slide -> its patch store: mask, grid, stain matrix, H/E patches.

Reads each tile once, keeps a few shards in memory whatever the slide's size, and goes on where an
interrupted run stopped. Pictures and folders of slides are the business of others.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.annotations import read_polygons
from wsi_pipeline.config import HeValues, PipelineConfig, TileConfig
from wsi_pipeline.inputs import SlideJob
from wsi_pipeline.slide import Slide, open_slide
from wsi_pipeline.stain import encode_he, encode_he_float16, estimate_stain_matrix
from wsi_pipeline.store import PatchStore, StoreHeader, StoreWriter
from wsi_pipeline.tiling import drop_blurred, lay_grid, sample_tiles
from wsi_pipeline.tissue import detect_tissue, require_brightfield, sharpness
from wsi_pipeline.types import NoProgress, Progress, StainEstimate, StainMatrix, TileGrid

_log = logging.getLogger(__name__)

THUMBNAIL_PX = 1024
"""Longer side of the stored thumbnail, px."""


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
        The slide, with the resolution and region of interest given for it, if any.
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
        If the region of interest is malformed.
    StoreExistsError
        If another store has this name and ``overwrite`` is off.
    """
    watch = Stopwatch()
    progress = progress or NoProgress()
    recipe = _recipe(job, config)
    with open_slide(job.path, config.read, job.mpp, slide_id=job.slide_id) as slide:
        fingerprint = slide.fingerprint()
        writer = StoreWriter.claim(
            path, recipe, fingerprint, config=config.store, overwrite=overwrite
        )
        if isinstance(writer, PatchStore):
            return Preprocessed(store=writer)
        with watch.stage("tissue and grid"):
            header = _survey(slide, job, config)
        with watch.stage("stain matrix"):
            pass
        _fill(slide, writer, progress)
        return Preprocessed(store=writer.seal(), seconds=watch.seconds)
