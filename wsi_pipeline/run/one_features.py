"""One store or slide and an encoder -> its file of features, unless it is there already."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.predict.features import (
    EncodeOptions,
    features_of_slide,
    features_of_store,
    slide_vectors,
    store_vectors,
)
from wsi_pipeline.results.export.features import Layout, feature_file, write_features
from wsi_pipeline.store.features import describe_features

if TYPE_CHECKING:
    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.predict.unstored import DirectFeatures
    from wsi_pipeline.slide.job import SlideJob
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureOptions:
    """How the features of each slide are made.

    Attributes
    ----------
    out : Path
        Folder for the files.
    encode : EncodeOptions
        The encoder.
    config : PipelineConfig
        The configuration.
    layout : Layout
        Whose files are written.
    workers : int
        Threads that read.
    """

    out: Path
    encode: EncodeOptions
    config: PipelineConfig
    layout: Layout = Layout.H5
    workers: int = 1


def write_store_features(
    store: PatchStore,
    options: FeatureOptions,
    progress: Progress | None = None,
    *,
    slide_id: str | None = None,
) -> Path:
    """Write the features of every patch of a store.

    Parameters
    ----------
    store : PatchStore
        The patches, in annotated areas or on a lattice.
    options : FeatureOptions
        Where and how. A file of the same patches by the same encoder is kept as it is.
    progress : Progress or None
        Told of every batch.
    slide_id : str or None
        Name of the slide; that in the store if None.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelMismatchError
        If the encoder was made for other patches.
    ModelOutputError
        If it gives values that are no numbers.
    """
    slide_id = slide_id or store.slide.slide_id
    path = feature_file(options.out, slide_id, options.layout)
    predict = options.config.predict
    if not is_current(path, store_vectors(store, options.encode, predict)):
        features = features_of_store(store, options.encode, predict, progress)
        write_features(options.out, replace(features, slide_id=slide_id), options.layout)
    return path


def write_slide_features(
    job: SlideJob, options: FeatureOptions, progress: Progress | None = None
) -> DirectFeatures | None:
    """Write the features of every tile of a slide, straight from its file.

    Parameters
    ----------
    job : SlideJob
        The slide.
    options : FeatureOptions
        Where and how. A file of the same tiles by the same encoder is kept as it is.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    DirectFeatures or None
        What the features rest on; None where the file was there.

    Raises
    ------
    SlideError, StainEstimationError, ModelMismatchError, ModelOutputError, ConfigError
        As :func:`wsi_pipeline.predict.unstored.encode_directly`.
    """
    path = feature_file(options.out, job.slide_id, options.layout)
    if is_current(path, slide_vectors(job, options.encode, options.config)):
        return None
    features, done = features_of_slide(
        job, options.encode, options.config, workers=options.workers, progress=progress
    )
    write_features(options.out, features, options.layout)
    return done


def is_current(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether a file is there that holds the very vectors that are wanted."""
    if not path.exists():
        return False
    try:
        found = describe_features(path).passport
    except FeaturesError:
        return False
    return found is not None and found.made_by() == wanted
