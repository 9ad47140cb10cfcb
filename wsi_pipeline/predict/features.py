"""A patch store and a trained encoder -> a file with one feature vector per patch.

What is learnt from the vectors is the business of others; which formats there are, that of
:mod:`wsi_pipeline.store.features`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.store.features import SlideFeatures, describe_features, write_features
from wsi_pipeline.types import NoProgress, Progress

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.store import PatchStore

MAGNIFICATION_UM = 10.0
"""Magnification times um/px, by custom: 0.25 um/px is 40x."""


def extract_slide_features(
    store: PatchStore,
    encoder: TrainedModel,
    config: PredictConfig,
    path: Path,
    *,
    progress: Progress | None = None,
) -> Path:
    """Write the features of every patch of a store.

    Parameters
    ----------
    store : PatchStore
        The patches, in annotated areas or on a lattice.
    encoder : TrainedModel
        Its module maps patches to (B, F) features.
    config : PredictConfig
        Device, batch size, precision.
    path : Path
        ``.h5`` or ``.zarr`` to write. One with the features of the same patches by the same
        encoder is kept as it is.
    progress : Progress or None
        Told of every batch.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ModelMismatchError
        If the encoder was trained for other patches.
    ModelOutputError
        If it gives values that are no numbers.
    """
    # torch is loaded here, so that reading features does not wait for it
    from wsi_pipeline.predict.patches import extract_features

    about = {
        "name": store.slide.slide_id,
        "encoder": encoder.fingerprint,
        "encoder_name": encoder.spec.name,
        "slide_fingerprint": store.fingerprint,
        "config_hash": store.config_hash,
    }
    if _is_current(path, len(store), about):
        return path
    features = extract_features(
        store, encoder.module, encoder.spec, config, progress or NoProgress()
    )
    write_features(
        path,
        SlideFeatures(
            slide_id=store.slide.slide_id,
            features=features,
            xy=store.xy,
            about=about,
            tiles=_describe_tiles(store, path),
        ),
    )
    return path


def _is_current(path: Path, patches: int, about: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    try:
        found = describe_features(path)
    except FeaturesError:
        return False
    return found.patches == patches and found.about == about


def _describe_tiles(store: PatchStore, path: Path) -> dict[str, Any]:
    """Describe the tiles by the names of TRIDENT, then those that CLAM adds, then our own."""
    slide, grid = store.slide, store.grid
    return {
        "patch_size": store.patch_px,
        "patch_size_level0": round(store.extent),
        "level0_magnification": _magnification(slide.mpp),
        "target_magnification": _magnification(store.mpp),
        "overlap": max(0, round(store.patch_px * (1 - store.pitch / store.extent))),
        "name": slide.slide_id,
        "savetodir": str(path.parent),
        "level0_width": slide.size_wh[0],
        "level0_height": slide.size_wh[1],
        "patch_level": grid.level,
        "downsample": grid.downsample,
        "level_dim": list(slide.level_sizes_wh[grid.level]),
        "mpp": store.mpp,
        "level0_mpp": slide.mpp,
    }


def _magnification(mpp: float) -> int:
    """Return the nearest whole magnification, at least 1, as programs without mpp need it."""
    return max(1, round(MAGNIFICATION_UM / mpp))
