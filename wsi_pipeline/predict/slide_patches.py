"""An open slide -> its tiles as a store would hold them, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.preprocess.extraction import TileReader
from wsi_pipeline.preprocess.given import read_given, recipe_of
from wsi_pipeline.preprocess.survey import survey_slide
from wsi_pipeline.slide.memory import room_for
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.stain import HeEncoder
from wsi_pipeline.types import OnGrid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.slide.job import SlideJob
    from wsi_pipeline.stopwatch import Stopwatch
    from wsi_pipeline.store import StoreHeader
    from wsi_pipeline.types import SlideInfo, StainEstimate, TileGrid, TissueMask


@contextmanager
def surveyed(
    job: SlideJob, config: PipelineConfig, workers: int, watch: Stopwatch
) -> Iterator[SlidePatches]:
    """Open a slide, find out what must be known of it, and lend its tiles.

    Parameters
    ----------
    job : SlideJob
        The slide.
    config : PipelineConfig
        The configuration.
    workers : int
        Threads that read.
    watch : Stopwatch
        Is given the time of each stage.

    Yields
    ------
    SlidePatches
        Its tiles, which can be read until the block ends.

    Raises
    ------
    SlideError, StainEstimationError, AnnotationError
        As :func:`wsi_pipeline.preprocess.slide_store.preprocess_slide`.
    """
    named = job.redaction is None
    with open_slide(job.path, config.read, job.mpp, slide_id=job.slide_id, named=named) as slide:
        tiles = TileReader(slide)
        given = read_given(job, slide.info, config, recipe_of(job, config))
        with ThreadPoolExecutor(workers) as pool:
            header = survey_slide(tiles, given, config, pool, watch)
        yield SlidePatches(tiles, header)


class SlidePatches(OnGrid):
    """The tiles of an open slide as a store would hold them, read when they are asked for.

    Reading from several threads is safe. The records stay when the slide is closed.

    Parameters
    ----------
    tiles : TileReader
        Reads the pixels.
    header : StoreHeader
        What a survey of the slide found: its tiles and its stains.

    Attributes
    ----------
    slide : SlideInfo
        The slide.
    stain : StainEstimate
        Its stain matrix and the evidence for it.
    mask : TissueMask
        Tissue and artefacts.
    thumbnail : ndarray of shape (h, w, 3), uint8
        The whole slide, RGB.
    header : StoreHeader
        All of this, as a store holds it.
    label_names : tuple of str
        Classes of annotated areas; empty without.
    fingerprint, config_hash : str
        Of the slide file, and of what decided the patches.
    """

    has_rgb = True

    def __init__(self, tiles: TileReader, header: StoreHeader) -> None:
        self.slide: SlideInfo = header.slide
        self.stain: StainEstimate = header.stain
        self.stain_convention = header.stain.convention
        self.mask: TissueMask = header.mask
        self.thumbnail: NDArray[np.uint8] = header.thumbnail
        self.label_names = header.label_names
        self.fingerprint = header.fingerprint
        self.config_hash = header.config_hash
        self._tiles = tiles
        self.header = header
        self._encoder = HeEncoder(header.stain.matrix)

    @property
    def grid(self) -> TileGrid:
        """Its candidate tiles."""
        return self.header.grid

    @property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners, level-0 px, shape (N, 2)."""
        return self.grid.xy

    @property
    def rc(self) -> NDArray[np.int32]:
        """Lattice indices, shape (N, 2)."""
        return self.grid.rc

    @property
    def label(self) -> NDArray[np.int16]:
        """Index into ``label_names``, shape (N,); -1 is unknown."""
        if self.header.label is None:
            return np.full(len(self), -1, dtype=np.int16)
        return self.header.label

    @property
    def group(self) -> tuple[str, ...]:
        """Patient of each tile; the slide itself where none is known."""
        return self.header.group or (self.slide.slide_id,) * len(self)

    @property
    def tissue_fraction(self) -> NDArray[np.float32]:
        """Share of each tile that is tissue, shape (N,)."""
        return np.asarray(self.grid.tissue_fraction[tuple(self.grid.rc.T)])

    @property
    def areas(self) -> NDArray[np.uint8]:
        """:class:`~wsi_pipeline.types.Area` of each mask pixel, shape (h, w)."""
        return self.mask.areas

    def read_rgb(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the tiles ``start`` to ``stop``, shape (stop - start, P, P, 3)."""
        side = self.grid.patch_px
        patches = room_for((stop - start, side, side, 3))
        for index in range(start, stop):
            self._tiles.patch(self.grid, index, patches[index - start])
        return patches

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read and unmix the tiles ``start`` to ``stop``, shape (stop - start, 2, P, P)."""
        side = self.grid.patch_px
        planes = np.empty((stop - start, 2, side, side), dtype=np.uint8)
        rgb = room_for((side, side, 3))
        for index in range(start, stop):
            self._encoder.encode(self._tiles.patch(self.grid, index, rgb), planes[index - start])
        return planes
