"""One slide -> its patch store: mask, grid, stain matrix, H/E patches.

Reads each tile once for its patch, and goes on where an interrupted run stopped. Pictures and
folders of slides are the business of others.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import StoreError
from wsi_pipeline.preprocess.extraction import Extraction, TileReader
from wsi_pipeline.preprocess.given import read_given, recipe_of
from wsi_pipeline.preprocess.survey import survey_slide
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.stain import require_he
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.store import PatchStore, StoreWriter, has_store
from wsi_pipeline.types import NoProgress, Progress

if TYPE_CHECKING:
    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.slide.job import SlideJob


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
        Replace a store that was made with another configuration or from another slide, or that
        is damaged.
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
    recipe = recipe_of(job, config)
    named = job.redaction is None
    with open_slide(job.path, config.read, job.mpp, slide_id=job.slide_id, named=named) as slide:
        if _is_finished(path, recipe, slide.fingerprint(), overwrite=overwrite):
            store = PatchStore.open(path)
            require_he(store.stain, config.stain)
            return Preprocessed(store=store)
        given = read_given(job, slide.info, config, recipe)
        with ThreadPoolExecutor(workers) as pool:
            tiles = TileReader(slide)
            header = survey_slide(tiles, given, config, pool, watch)
            writer = StoreWriter.create_or_resume(path, header, config.store, overwrite=overwrite)
            with watch.divided() as work:
                extraction = Extraction(tiles, header, config.store)
                work |= extraction.fill(writer, pool, progress or NoProgress())
    with watch.stage("seal"):
        store = writer.seal()
    return Preprocessed(store=store, seconds=watch.seconds)


def _is_finished(path: Path, recipe: dict[str, Any], fingerprint: str, *, overwrite: bool) -> bool:
    """Whether the very store that is asked for is there; another one is an error or replaced."""
    try:
        found = has_store(path, recipe=recipe, fingerprint=fingerprint)
        if found and overwrite:
            # what is advised where a store is damaged must find the damage
            PatchStore.open(path).verify()
    except StoreError:
        if not overwrite:
            raise
        return False
    return found
