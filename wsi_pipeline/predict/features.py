"""A patch store or a slide, and an encoder -> the vectors of a slide with their passport.

What is learnt from the vectors is the business of others; which files hold them, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from wsi_pipeline.preprocess.given import recipe_of
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.store import package_versions
from wsi_pipeline.store.features import SlideFeatures
from wsi_pipeline.store.identity import recipe_hash
from wsi_pipeline.store.passport import Passport

if TYPE_CHECKING:
    from wsi_pipeline.config import PipelineConfig, PredictConfig
    from wsi_pipeline.predict.slide_patches import SlidePatches
    from wsi_pipeline.predict.trained import TrainedEncoder
    from wsi_pipeline.predict.unstored import DirectFeatures
    from wsi_pipeline.slide.job import SlideJob
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import EncoderSpec, Progress, StainMatrix

MAGNIFICATION_UM = 10.0
"""Magnification times um/px, by custom: 0.25 um/px is 40x."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """How an encoder is used.

    Attributes
    ----------
    encoder : TrainedEncoder
        The encoder.
    target : StainMatrix or None
        Stains that every tile is given first (Macenko normalisation); as they are if None.
    """

    encoder: TrainedEncoder
    target: StainMatrix | None = None


def store_vectors(
    store: PatchStore, options: EncodeOptions, config: PredictConfig
) -> dict[str, Any]:
    """Tell what the vectors of a store would be known by, without computing them.

    Returns
    -------
    dict
        As :meth:`~wsi_pipeline.store.passport.Passport.made_by` of their passport.
    """
    return _expected(options, config, store.fingerprint, store.config_hash)


def slide_vectors(job: SlideJob, options: EncodeOptions, config: PipelineConfig) -> dict[str, Any]:
    """Tell what the vectors of a slide would be known by; opens the slide, reads no pixel.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    surveyed = survey_config(config, options.encoder.spec, options.target)
    with open_slide(job.path, config.read, job.mpp, slide_id=job.slide_id) as slide:
        fingerprint = slide.fingerprint()
    return _expected(options, config.predict, fingerprint, recipe_hash(recipe_of(job, surveyed)))


def features_of_store(
    store: PatchStore,
    options: EncodeOptions,
    config: PredictConfig,
    progress: Progress | None = None,
) -> SlideFeatures:
    """Compute the features of every patch of a store.

    Parameters
    ----------
    store : PatchStore
        The patches, in annotated areas or on a lattice.
    options : EncodeOptions
        The encoder.
    config : PredictConfig
        Device, batch size, precision.
    progress : Progress or None
        Told of every batch.

    Returns
    -------
    SlideFeatures
        In the order of the store, with places and passport.

    Raises
    ------
    ModelMismatchError, ModelOutputError, ConfigError
        As :func:`wsi_pipeline.predict.encode.encode_store`.
    """
    # torch is loaded here, so that reading features does not wait for it
    from wsi_pipeline.predict.encode import encode_store

    target = options.target
    restaining = None if target is None else (store.stain.matrix, target)
    features = encode_store(
        store, options.encoder, config, restaining=restaining, progress=progress
    )
    return SlideFeatures(
        slide_id=store.slide.slide_id,
        features=features,
        xy=store.xy,
        passport=_passport(store, options, config),
        tiles=_describe_tiles(store),
    )


def features_of_slide(
    job: SlideJob,
    options: EncodeOptions,
    config: PipelineConfig,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[SlideFeatures, DirectFeatures]:
    """Compute the features of every tile of a slide, straight from its file.

    Parameters
    ----------
    job : SlideJob
        The slide.
    options : EncodeOptions
        The encoder.
    config : PipelineConfig
        The configuration; its tiles are those that the encoder asks for.
    workers : int
        Threads that read.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    SlideFeatures
        In the order of the lattice, with places and passport. The same as those of a patch store
        of the same tiles, bit for bit.
    DirectFeatures
        What is known of the slide, and the time each stage took.

    Raises
    ------
    SlideError, StainEstimationError, ModelMismatchError, ModelOutputError, ConfigError
        As :func:`wsi_pipeline.predict.unstored.encode_directly`.
    """
    from wsi_pipeline.predict.unstored import encode_directly

    done = encode_directly(
        job, options.encoder, config, target=options.target, workers=workers, progress=progress
    )
    found = SlideFeatures(
        slide_id=done.patches.slide.slide_id,
        features=done.features,
        xy=done.patches.xy,
        passport=_passport(done.patches, options, config.predict),
        tiles=_describe_tiles(done.patches),
    )
    return found, done


def survey_config(
    config: PipelineConfig, spec: EncoderSpec, target: StainMatrix | None
) -> PipelineConfig:
    """Return the configuration that a slide is surveyed with for an encoder.

    Colours are taken as they are, of slides in any stain, unless a target is given: then no stain
    matrix is estimated.
    """
    if spec.input == "he" or target is not None:
        return config
    stain = config.stain.model_copy(update={"adaptive": False, "sample_tiles": 1})
    return config.model_copy(update={"stain": stain})


def _expected(
    options: EncodeOptions, config: PredictConfig, fingerprint: str, recipe: str
) -> dict[str, Any]:
    made = _made_by(options, config)
    return Passport(
        **made, mpp_read=made["mpp"], slide={"fingerprint": fingerprint}, options=recipe
    ).made_by()


def _passport(
    patches: PatchStore | SlidePatches, options: EncodeOptions, config: PredictConfig
) -> Passport:
    made = _made_by(options, config)
    slide = patches.slide
    if options.target is not None:
        made["stain"]["own"] = patches.stain.matrix.to_dict()
        made["stain"]["verdict"] = patches.stain.verdict.value
    return Passport(
        **made,
        mpp_read=patches.mpp,
        slide={
            "id": slide.slide_id,
            "fingerprint": patches.fingerprint,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "reader": slide.reader,
        },
        options=patches.config_hash,
        software=package_versions() | {"torch": metadata.version("torch")},
    )


def _made_by(options: EncodeOptions, config: PredictConfig) -> dict[str, Any]:
    """Gather what a passport says of the encoder and its use, by its fields."""
    from wsi_pipeline.predict.encode import device_and_precision

    encoder, spec = options.encoder, options.encoder.spec
    device, precision = device_and_precision(spec, config)
    target = options.target
    return {
        "encoder": spec.name,
        "identity": encoder.fingerprint,
        "weights": {
            key.removeprefix("weights_"): value
            for key, value in encoder.origin.items()
            if key.startswith("weights_") and value
        },
        "transform": {
            "tile_px": spec.patch_px,
            "resize_px": spec.resize_px,
            "input_px": spec.input_px or spec.patch_px,
            "interpolation": spec.interpolation if spec.resize_px else None,
            "input": spec.input,
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
        "pooling": spec.pooling,
        "features": spec.features,
        "precision": precision.value,
        "device": device,
        "mpp": spec.mpp,
        "stain": {"normalise": "none"}
        if target is None
        else {"normalise": "macenko", "target": target.to_dict()},
    }


def _describe_tiles(patches: PatchStore | SlidePatches) -> dict[str, Any]:
    """Describe the tiles by the names of TRIDENT, then those that CLAM adds, then our own."""
    slide, grid = patches.slide, patches.grid
    return {
        "patch_size": patches.patch_px,
        "patch_size_level0": round(patches.extent),
        "level0_magnification": _magnification(slide.mpp),
        "target_magnification": _magnification(patches.mpp),
        "overlap": max(0, round(patches.patch_px * (1 - patches.pitch / patches.extent))),
        "name": slide.slide_id,
        "level0_width": slide.size_wh[0],
        "level0_height": slide.size_wh[1],
        "patch_level": grid.level,
        "downsample": grid.downsample,
        "level_dim": list(slide.level_sizes_wh[grid.level]),
        "mpp": patches.mpp,
        "level0_mpp": slide.mpp,
    }


def _magnification(mpp: float) -> int:
    """Return the nearest whole magnification, at least 1, as programs without mpp need it."""
    return max(1, round(MAGNIFICATION_UM / mpp))
