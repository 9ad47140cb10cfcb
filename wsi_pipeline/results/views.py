"""Predictions -> the files that are written for every slide, beside its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.config import ResultsConfig
from wsi_pipeline.results.class_map import ClassRule
from wsi_pipeline.results.export.geojson import write_geojson
from wsi_pipeline.results.export.registry import EXPORTS
from wsi_pipeline.results.pictures import draw_classes, draw_probability
from wsi_pipeline.results.slide_result import SlideResult

if TYPE_CHECKING:
    from wsi_pipeline.types import Predictions, SlideRecords

PREDICTIONS_NAME = "predictions.parquet"
"""Name of the table of predictions in the folder of a slide and model."""

HEATMAP_NAME = "heatmap.png"


def write_views(
    folder: Path,
    records: SlideRecords,
    predictions: Predictions,
    config: ResultsConfig | None = None,
) -> dict[str, Path]:
    """Write what other programs and people look at.

    Parameters
    ----------
    folder : Path
        Folder of the model in that of the slide.
    records : SlideRecords
        What is known of the slide.
    predictions : Predictions
        Its predictions.
    config : ResultsConfig or None
        How they are shown, and what is exported besides.

    Returns
    -------
    dict of str to Path
        GeoJSON, heatmap and exports, by kind.
    """
    config = config or ResultsConfig()
    result = SlideResult(records=records, found=predictions, rule=rule_of(config))
    files = {"geojson": folder / "predictions.geojson"}
    write_geojson(files["geojson"], predictions, records.slide.bounds_xy)
    files |= draw_classes(folder / HEATMAP_NAME, result)
    return files | write_exports(result, folder.parent, folder.name, config.export)


def rule_of(config: ResultsConfig) -> ClassRule:
    """Return how probabilities become classes."""
    return ClassRule(classes=config.classes, threshold=config.threshold, smooth_um=config.smooth_um)


def require_exports(config: ResultsConfig, class_names: Sequence[str]) -> None:
    """Refuse exports and classes that there are not, before the first slide is begun.

    Raises
    ------
    ConfigError
        Naming the first, and those that there are.
    """
    rule_of(config).chosen(class_names)
    for name in config.export:
        EXPORTS.get(name)


def write_exports(
    result: SlideResult, folder: Path, model: str | None, names: Sequence[str]
) -> dict[str, Path]:
    """Write exports of a slide.

    Parameters
    ----------
    result : SlideResult
        What was found.
    folder : Path
        Folder of the slide.
    model : str or None
        Folder of the model in it; None before prediction.
    names : sequence of str
        Which exports.

    Returns
    -------
    dict of str to Path
        What was written, by name. What needs no model lies beside the patch store.

    Raises
    ------
    ConfigError
        If there is no export of such a name.
    ExportError
        If the slide lacks what an export needs.
    """
    files = {}
    for name in names:
        export = EXPORTS.get(name)
        file = export.file.format(slide_id=result.slide_id)
        place = folder / model if export.needs_model and model is not None else folder
        export.write(place / file, result)
        files[name] = place / file
    return files


def draw_heatmap(result: SlideResult, out: Path, *, class_name: str | None = None) -> None:
    """Draw what was found on a slide, from what was written before.

    Parameters
    ----------
    result : SlideResult
        What was found.
    out : Path
        Picture to write, PNG.
    class_name : str or None
        Show how probable this class is; the classes if None.

    Raises
    ------
    ConfigError
        If there is no class of that name.
    """
    if class_name is None:
        draw_classes(out, result)
        return
    ClassRule(classes=(class_name,)).chosen(result.predictions.class_names)
    draw_probability(out, result.records, result.heatmap, class_name)
