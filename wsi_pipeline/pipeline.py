"""Patch stores and a trained model -> predictions, and all that people look at.

Computing and writing are functions of other modules; here they are put together. How patch stores
come to be, and whose turn it is, is decided in ``steps.py`` and ``run.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError, StoreError, StoreNotFoundError
from wsi_pipeline.export.geojson import write_geojson
from wsi_pipeline.export.parquet import read_predictions, write_predictions
from wsi_pipeline.heatmap import paint_heatmap
from wsi_pipeline.pictures import draw_heatmap
from wsi_pipeline.store import PatchStore
from wsi_pipeline.types import ModelSpec, NoProgress, Predictions, Progress

if TYPE_CHECKING:
    from torch import nn

    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.types import SlideRecords

STORE_NAME = "patches.zarr"
PREDICTIONS_NAME = "predictions.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A network that is ready to predict.

    Attributes
    ----------
    module : torch.nn.Module
        Takes (B, 2, P, P) normalised H/E patches and gives (B, K) logits.
    spec : ModelSpec
        What it expects and gives.
    fingerprint : str
        Hash of its weights.
    trained_on : str
        What it learnt from, in words: what it may be trusted with.
    """

    module: nn.Module
    spec: ModelSpec
    fingerprint: str
    trained_on: str


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
    from wsi_pipeline.predict import predict_store

    return predict_store(store, model.module, model.spec, config, progress=progress)


def write_views(folder: Path, store: SlideRecords, predictions: Predictions) -> dict[str, Path]:
    """Write what other programs and people look at.

    Parameters
    ----------
    folder : Path
        Where to.
    store : SlideRecords
        What is known of the slide.
    predictions : Predictions
        Its predictions.

    Returns
    -------
    dict of str to Path
        GeoJSON and heatmap, by kind.
    """
    files = {"geojson": folder / "predictions.geojson", "heatmap": folder / "heatmap.png"}
    write_geojson(files["geojson"], predictions)
    draw_heatmap(files["heatmap"], store, paint_heatmap(predictions))
    return files


def redraw_heatmap(
    predictions: Path, store: Path, out: Path, *, class_name: str | None = None
) -> Path:
    """Draw the heatmap of predictions that were written before.

    Parameters
    ----------
    predictions : Path
        ``predictions.parquet`` of a slide.
    store : Path
        Its patch store, for thumbnail and scale.
    out : Path
        Picture to write, PNG.
    class_name : str or None
        Show this class's probability; the most probable class if None.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    ConfigError
        If there is no class of that name.
    """
    painted = paint_heatmap(read_predictions(predictions))
    if class_name is not None and class_name not in painted.class_names:
        raise ConfigError(
            f"there is no class {class_name!r}; choose one of {', '.join(painted.class_names)}"
        )
    draw_heatmap(out, PatchStore.open(store), painted, class_name=class_name)
    return out


def find_stores(paths: Sequence[Path]) -> list[PatchStore]:
    """Open patch stores, given themselves or by a folder of results.

    Parameters
    ----------
    paths : sequence of Path
        Stores, or folders with stores below them.

    Returns
    -------
    list of PatchStore
        Open stores, sorted by path within each folder.

    Raises
    ------
    StoreNotFoundError
        If a folder holds none.
    """
    found: list[PatchStore] = []
    for path in paths:
        below = [path] if (path / "zarr.json").exists() else sorted(path.rglob(STORE_NAME))
        if not below:
            raise StoreNotFoundError(
                f"there is no {STORE_NAME} in {path}; make one with 'wsi-pipeline preprocess'"
            )
        found.extend(PatchStore.open(store) for store in below)
    return found
