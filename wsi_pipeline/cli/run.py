"""``wsi-pipeline run``: slides -> patches, predictions, heatmaps, report."""

from __future__ import annotations

from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.options import (
    config_options,
    input_argument,
    model_option,
    resolve_config,
)
from wsi_pipeline.cli.results import classes_option, export_option
from wsi_pipeline.cli.runs import execute_run, run_options


@click.command()
@input_argument
@model_option
@click.option(
    "--no-store",
    is_flag=True,
    help="Keep no patches: slides go straight through the model, and only predictions are written.",
)
@export_option
@classes_option
@run_options
@config_options("read", "tissue", "tile", "stain", "store", "predict", "results")
def run(inputs: tuple[str, ...], model_name: str, no_store: bool, **values: Any) -> None:
    """Do the whole job: patches, predictions, heatmap and report for slides or folders.

    \b
        wsi-pipeline run slide.svs --out results --model my-bundle
        wsi-pipeline run slides/ --out results --model my-bundle
        wsi-pipeline run scan.tif --out results --slide-mpp 0.25      # no mpp in the file
        wsi-pipeline run slides.csv --out results                     # columns path, mpp, ...
    Many machines (docs/clusters.md has the recipes):
        wsi-pipeline run slides/ --out results --scheduler tcp://head-node:8786
        wsi-pipeline run slides/ --out results --shard-index 3 --shard-count 10
        wsi-pipeline run slides/ --out s3://bucket/results

    Resolution and patch size come from the model unless you give them, and patches are kept in
    RGB too if it takes those. Look at OUT/index.html first; OUT/<slide_id>/<model>/ holds
    predictions.parquet, predictions.geojson (drag it onto the slide in QuPath) and heatmap.png;
    --export adds outlines of classes, OME-TIFF, AnnData and more.
    The exit code is 1 when a slide failed; the others are done all the same.

    While a slide is predicted, the next is read. At the end you are told where the time went and
    which option would save most of it.
    """
    from wsi_pipeline.models import load_model, model_defaults
    from wsi_pipeline.results.views import require_exports

    with explained_errors():
        model = load_model(model_name)
        click.echo(f"Model {model.spec.name} was trained on: {model.trained_on}.", err=True)
        config = resolve_config(values, model_defaults(model))
        require_exports(config.results, model.spec.class_names)
        execute_run(inputs, config, values, model, store=not no_store)
