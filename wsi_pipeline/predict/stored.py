"""A patch store and a trained model -> predictions, or why the store cannot be predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_pipeline.errors import StoreError
from wsi_pipeline.predict.origin import with_origin

if TYPE_CHECKING:
    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import Predictions, Progress


def predict_patches(
    store: PatchStore, model: TrainedModel, config: PredictConfig, progress: Progress
) -> Predictions:
    """Send the patches of a store through a model; writes nothing.

    Parameters
    ----------
    store, model, config, progress
        As for :func:`predict_slide`.

    Returns
    -------
    Predictions
        One row per patch.

    Raises
    ------
    ModelMismatchError, StoreError
        As :func:`predict_slide`.
    """
    if store.grid.corners is not None:
        raise StoreError(
            f"{store.path} holds tiles that were laid in annotated areas, not on a lattice, so "
            f"they make no heatmap; preprocess the slide without --label-mode containment"
        )
    # torch is loaded here, so that preprocessing does not wait for it
    from wsi_pipeline.predict.patches import predict_store

    found = predict_store(store, model.module, model.spec, config, progress=progress)
    return model.judged(with_origin(found, store, model))
