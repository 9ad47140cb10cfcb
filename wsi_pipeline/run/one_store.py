"""A patch store and a trained model -> predictions and every file that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.predict.stored import predict_patches
from wsi_pipeline.results.export.parquet import write_predictions
from wsi_pipeline.results.views import PREDICTIONS_NAME, write_views
from wsi_pipeline.types import NoProgress, Predictions, Progress

if TYPE_CHECKING:
    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.store import PatchStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Predictions of one slide and the files they went to.

    Attributes
    ----------
    predictions : Predictions
        Class probabilities of every patch.
    files : dict of str to Path
        What was written, by kind.
    """

    predictions: Predictions
    files: dict[str, Path]


def predict_slide(
    store: PatchStore,
    model: TrainedModel,
    config: PredictConfig,
    *,
    progress: Progress | None = None,
) -> Predicted:
    """Send the patches of a store through a model and write everything that follows from it.

    Parameters
    ----------
    store : PatchStore
        The patches.
    model : TrainedModel
        The model; a folder named after it is made beside the store.
    config : PredictConfig
        Device, batch size, precision.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    Predicted
        The predictions and the files written: Parquet, GeoJSON and heatmap.

    Raises
    ------
    ModelMismatchError
        If the model was trained for other patches.
    StoreError
        If the tiles of the store form no lattice.
    """
    predictions = predict_patches(store, model, config, progress or NoProgress())
    folder = store.path.parent / model.spec.name
    table = folder / PREDICTIONS_NAME
    write_predictions(table, predictions)
    files = {"predictions": table, **write_views(folder, store, predictions)}
    return Predicted(predictions=predictions, files=files)
