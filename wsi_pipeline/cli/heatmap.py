"""The command ``wsi-pipeline heatmap``: predictions -> a picture on the slide."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.options import config_options, resolve_config
from wsi_pipeline.cli.results import classes_option, each_result, of_model_option, results_argument


@click.command()
@results_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Picture to write (PNG), or with several slides a folder for them.  [default: "
    "heatmap.png beside the predictions]",
)
@click.option(
    "--class",
    "class_name",
    help="Show how probable this class is, on a scale of its own.  [default: the classes]",
)
@classes_option
@of_model_option
@config_options("results")
def heatmap(
    results: tuple[Path, ...],
    out: Path | None,
    class_name: str | None,
    model_name: str | None,
    **values: Any,
) -> None:
    """Draw predictions over the slide, with legend and scale bar.

    RESULTS is a folder of results, or of one slide, or a predictions.parquet. Nothing is predicted
    anew: try another threshold, or some of the classes, in a second.

    \b
        wsi-pipeline heatmap results
        wsi-pipeline heatmap results --threshold 0.8 --classes tumor
        wsi-pipeline heatmap results/slide-1 --class tumor --out tumor.png
    """
    from wsi_pipeline.files import slide_folder
    from wsi_pipeline.results.finished import find_finished
    from wsi_pipeline.results.views import HEATMAP_NAME, draw_heatmap, rule_of

    with explained_errors():
        rule = rule_of(resolve_config(values).results)
        found = find_finished(results, model_name, predicted=True)
        file = HEATMAP_NAME if class_name is None else f"{class_name}.png"

        def draw(index: int) -> list[Path]:
            item = found[index]
            assert item.predictions is not None
            path = item.predictions.with_name(file) if out is None else out
            if out is not None and len(found) > 1:
                path = out / item.folder.name / item.predictions.parent.name / file
            with slide_folder(item.folder) if out is None else nullcontext():
                draw_heatmap(item.open(rule), path, class_name=class_name)
            return [path]

        each_result([str(item.folder) for item in found], draw)
