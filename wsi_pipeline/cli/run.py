"""``wsi-pipeline run``: slides -> patches, predictions, heatmaps, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors, progress_bars
from wsi_pipeline.cli.finish import finish_run
from wsi_pipeline.cli.options import (
    config_options,
    input_argument,
    model_option,
    resolve_config,
    run_options,
)


@click.command()
@input_argument
@model_option
@run_options
@config_options("read", "tissue", "tile", "stain", "store", "predict")
def run(
    inputs: tuple[str, ...],
    model_name: str,
    out: Path,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Do the whole job: patches, predictions, heatmap and report for slides or folders.

    \b
        wsi-pipeline run slide.svs --out results --model my-bundle
        wsi-pipeline run slides/ --out results --model my-bundle
        wsi-pipeline run scan.tif --out results --slide-mpp 0.25      # no mpp in the file

    Resolution and patch size come from the model unless you give them. Look at OUT/index.html
    first; OUT/<slide_id>/<model>/ holds predictions.parquet, predictions.geojson (drag it onto
    the slide in QuPath) and heatmap.png. The exit code is 1 when a slide failed; the others are
    done all the same.
    """
    from wsi_pipeline.cli.models import load_model, model_defaults
    from wsi_pipeline.inputs import find_slides
    from wsi_pipeline.pipeline import RunOptions, run_slides

    with explained_errors():
        model = load_model(model_name)
        click.echo(f"Model {model.spec.name} was trained on: {model.trained_on}.", err=True)
        roi, workers, overwrite = (values.pop(key) for key in ("roi", "workers", "overwrite"))
        options = RunOptions(
            out=out,
            config=resolve_config(values, model_defaults(model)),
            workers=workers,
            overwrite=overwrite,
        )
        jobs = find_slides(inputs, roi)
        with progress_bars(quiet or as_json) as progress:
            report = run_slides(jobs, options, model=model, progress=progress)
    finish_run(report, out, as_json=as_json)
