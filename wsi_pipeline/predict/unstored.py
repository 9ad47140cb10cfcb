"""One slide and a model -> predictions, with no patch store in between.

Patches are read, judged and forgotten, a few blocks at a time. Writes nothing; the same tiles give
the same predictions as by way of a store.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.inference import Feed, choose_devices, he_feed, rgb_feed, unmixing_feed
from wsi_pipeline.predict.patches import predict_feed, require_match
from wsi_pipeline.preprocess.extraction import TileReader
from wsi_pipeline.preprocess.given import read_given, recipe_of
from wsi_pipeline.preprocess.survey import survey_slide
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.stain import HeEncoder
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.types import STAIN_CONVENTION

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.slide.inputs import SlideJob
    from wsi_pipeline.store import StoreHeader
    from wsi_pipeline.types import (
        ModelSpec,
        Predictions,
        Progress,
        SlideInfo,
        StainEstimate,
        TissueMask,
    )


class SlidePatches:
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
    label_names : tuple of str
        Classes of annotated areas; empty without.
    fingerprint, config_hash : str
        Of the slide file, and of what decided the patches.
    """

    has_rgb = True
    stain_convention = STAIN_CONVENTION

    def __init__(self, tiles: TileReader, header: StoreHeader) -> None:
        self.slide: SlideInfo = header.slide
        self.stain: StainEstimate = header.stain
        self.mask: TissueMask = header.mask
        self.thumbnail: NDArray[np.uint8] = header.thumbnail
        self.label_names = header.label_names
        self.fingerprint = header.fingerprint
        self.config_hash = header.config_hash
        self._tiles = tiles
        self._grid = header.grid
        self._header = header
        self._encoder = HeEncoder(header.stain.matrix)

    def __len__(self) -> int:
        return len(self._grid)

    @property
    def patch_px(self) -> int:
        """Side of a patch, px."""
        return self._grid.patch_px

    @property
    def mpp(self) -> float:
        """Resolution the patches really have, um/px."""
        return self._grid.mpp

    @property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners, level-0 px, shape (N, 2)."""
        return self._grid.xy

    @property
    def rc(self) -> NDArray[np.int32]:
        """Lattice indices, shape (N, 2)."""
        return self._grid.rc

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""
        return self._grid.shape

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""
        return self._grid.extent

    @property
    def pitch(self) -> float:
        """Distance between neighbouring tiles, level-0 px."""
        return self._grid.pitch

    @property
    def label(self) -> NDArray[np.int16]:
        """Index into ``label_names``, shape (N,); -1 is unknown."""
        if self._header.label is None:
            return np.full(len(self), -1, dtype=np.int16)
        return self._header.label

    @property
    def group(self) -> tuple[str, ...]:
        """Patient of each tile; the slide itself where none is known."""
        return self._header.group or (self.slide.slide_id,) * len(self)

    @property
    def tissue_fraction(self) -> NDArray[np.float32]:
        """Share of each tile that is tissue, shape (N,)."""
        return np.asarray(self._grid.tissue_fraction[tuple(self._grid.rc.T)])

    @property
    def areas(self) -> NDArray[np.uint8]:
        """:class:`~wsi_pipeline.types.Area` of each mask pixel, shape (h, w)."""
        return self.mask.areas

    def funnel(self) -> dict[str, int]:
        """Count the candidate tiles by reason, ``kept`` first."""
        return self._grid.funnel()

    def read_rgb(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the tiles ``start`` to ``stop``, shape (stop - start, P, P, 3)."""
        side = self._grid.patch_px
        patches = np.empty((stop - start, side, side, 3), dtype=np.uint8)
        for index in range(start, stop):
            patches[index - start] = self._tiles.patch(self._grid, index)
        return patches

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read and unmix the tiles ``start`` to ``stop``, shape (stop - start, 2, P, P)."""
        side = self._grid.patch_px
        planes = np.empty((stop - start, 2, side, side), dtype=np.uint8)
        for index in range(start, stop):
            self._encoder.encode(self._tiles.patch(self._grid, index), planes[index - start])
        return planes


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPrediction:
    """Predictions of a slide that has no patch store, and what they rest on.

    Attributes
    ----------
    patches : SlidePatches
        Records of the slide and its tiles; the slide is closed, so they can no longer be read.
    predictions : Predictions
        Class probabilities of every tile.
    seconds : dict of str to float
        Wall time by stage.
    """

    patches: SlidePatches
    predictions: Predictions
    seconds: dict[str, float]


def predict_directly(
    job: SlideJob,
    model: nn.Module,
    spec: ModelSpec,
    config: PipelineConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> DirectPrediction:
    """Send the tiles of a slide through a model without storing them.

    Parameters
    ----------
    job : SlideJob
        The slide.
    model : Module
        As :func:`wsi_pipeline.predict.patches.predict_store` takes it.
    spec : ModelSpec
        What the model expects and gives; whether it takes stains or colours.
    config : PipelineConfig
        The configuration; its ``store`` part is not used: H/E values are those of 8 bits.
    workers : int
        Threads that read.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    DirectPrediction
        The predictions, in the order of the lattice.

    Raises
    ------
    SlideError, StainEstimationError, AnnotationError
        As :func:`wsi_pipeline.preprocess.slide_store.preprocess_slide`.
    ModelMismatchError, ModelOutputError, ConfigError
        As :func:`wsi_pipeline.predict.patches.predict_store`.

    Notes
    -----
    A processor unmixes while it reads, as preprocessing does. A GPU is sent RGB and unmixes there:
    half as many bytes again on the bus, but no work for the threads that decode. Both are integer
    arithmetic and give the same bytes.
    """
    watch = Stopwatch()
    with open_slide(job.path, config.read, job.mpp, slide_id=job.slide_id) as slide:
        tiles = TileReader(slide)
        given = read_given(job, slide.info, config, recipe_of(job, config))
        with ThreadPoolExecutor(workers) as pool:
            header = survey_slide(tiles, given, config, pool, watch)
        if header.grid.corners is not None:
            raise ConfigError(
                f"the tiles of {job.path} lie in annotated areas, not on a lattice, so they make "
                "no heatmap; run without annotations"
            )
        patches = SlidePatches(tiles, header)
        require_match(patches, spec)
        with watch.stage("patches and prediction"):
            feed = _feed(patches, spec, config.predict.device, workers)
            predictions = predict_feed(patches, feed, model, spec, config.predict, progress)
    return DirectPrediction(patches=patches, predictions=predictions, seconds=watch.seconds)


def _feed(patches: SlidePatches, spec: ModelSpec, device: str, workers: int) -> Feed:
    count = len(patches)
    if spec.input == "rgb":
        return rgb_feed(count, patches.read_rgb, spec, readers=workers)
    if choose_devices(device)[0].type == "cpu":
        return he_feed(count, patches.read_he, spec, readers=workers)
    return unmixing_feed(count, patches.read_rgb, spec, patches.stain.matrix, readers=workers)
