"""Predictions -> the files that are written for every slide, beside its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.results.export.geojson import write_geojson
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.results.heatmap import paint_heatmap
from wsi_pipeline.results.pictures import draw_heatmap
from wsi_pipeline.store import PatchStore

if TYPE_CHECKING:
    from wsi_pipeline.types import Predictions, SlideRecords

PREDICTIONS_NAME = "predictions.parquet"
"""Name of the table of predictions in the folder of a slide and model."""


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
