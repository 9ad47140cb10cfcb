"""One slide and a model -> predictions or features, with no patch store in between.

Patches are read, judged and forgotten, a few blocks at a time. Writes nothing; the same tiles give
the same as by way of a store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.inference import Feed, choose_devices, he_feed, rgb_feed, unmixing_feed
from wsi_pipeline.predict.encode import colour_feed, encode_feed, require_no_restaining
from wsi_pipeline.predict.features import survey_config
from wsi_pipeline.predict.patches import predict_feed, require_match
from wsi_pipeline.predict.slide_patches import SlidePatches, surveyed
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.types import NoProgress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.predict.trained import TrainedEncoder
    from wsi_pipeline.slide.job import SlideJob
    from wsi_pipeline.types import (
        ModelSpec,
        PatchSpec,
        Predictions,
        Progress,
        StainMatrix,
    )


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
    with surveyed(job, config, workers, watch) as patches:
        if patches.grid.corners is not None:
            raise ConfigError(
                f"the tiles of {job.path} lie in annotated areas, not on a lattice, so they make "
                "no heatmap; run without annotations"
            )
        require_match(patches, spec)
        with watch.stage("patches and prediction"):
            feed = _feed(patches, spec, config.predict.device, workers)
            predictions = predict_feed(patches, feed, model, spec, config.predict, progress)
    return DirectPrediction(patches=patches, predictions=predictions, seconds=watch.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectFeatures:
    """Features of a slide that has no patch store, and what they rest on.

    Attributes
    ----------
    patches : SlidePatches
        Records of the slide and its tiles; the slide is closed, so they can no longer be read.
    features : ndarray of shape (N, F), float32
        One vector per tile.
    seconds : dict of str to float
        Wall time by stage.
    """

    patches: SlidePatches
    features: NDArray[np.float32]
    seconds: dict[str, float]


def encode_directly(
    job: SlideJob,
    encoder: TrainedEncoder,
    config: PipelineConfig,
    *,
    target: StainMatrix | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> DirectFeatures:
    """Send the tiles of a slide through an encoder without storing them.

    Parameters
    ----------
    job : SlideJob
        The slide.
    encoder : TrainedEncoder
        The encoder; what it takes of a tile is decoded once.
    config : PipelineConfig
        The configuration; its ``store`` part is not used.
    target : StainMatrix or None
        Stains that every tile is given first, in place of the slide's own; for encoders of RGB.
    workers : int
        Threads that read.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    DirectFeatures
        The features, in the order of the lattice, or of the candidates off it.

    Raises
    ------
    SlideError, StainEstimationError, AnnotationError
        As :func:`wsi_pipeline.preprocess.slide_store.preprocess_slide`; of stains only if the
        encoder takes them or a target is given.
    ModelMismatchError, ModelOutputError, ConfigError
        As :func:`wsi_pipeline.predict.encode.encode_store`.
    """
    spec = encoder.spec
    watch = Stopwatch()
    with surveyed(job, survey_config(config, spec, target), workers, watch) as patches:
        require_match(patches, spec)
        restaining = None if target is None else (patches.stain.matrix, target)
        with watch.stage("patches and features"):
            if spec.input == "rgb":
                feed = colour_feed(patches, spec, restaining, workers)
            else:
                require_no_restaining(spec, restaining)
                feed = _feed(patches, spec, config.predict.device, workers)
            features = encode_feed(feed, encoder, config.predict, progress or NoProgress())
    return DirectFeatures(patches=patches, features=features, seconds=watch.seconds)


def _feed(patches: SlidePatches, spec: PatchSpec, device: str, workers: int) -> Feed:
    count = len(patches)
    if spec.input == "rgb":
        return rgb_feed(count, patches.read_rgb, spec, readers=workers)
    if choose_devices(device)[0].type == "cpu":
        return he_feed(count, patches.read_he, spec, readers=workers)
    return unmixing_feed(count, patches.read_rgb, spec, patches.stain.matrix, readers=workers)
