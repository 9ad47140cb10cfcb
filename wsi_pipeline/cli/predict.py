"""The command ``wsi-pipeline predict``: patch stores -> predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.options import (
    config_options,
    model_option,
    output_options,
    resolve_config,
)


@click.command()
@click.argument(
    "stores",
    nargs=-1,
    required=True,
    metavar="STORE...",
    type=click.Path(exists=True, path_type=Path),
)
@model_option
@config_options("predict")
@output_options
def predict(
    stores: tuple[Path, ...], model_name: str, as_json: bool, quiet: bool, **values: Any
) -> None:
    """Send patch stores through a model.

    STORE is a patches.zarr, or a results folder: then every store in it.

    \b
        wsi-pipeline predict results --model my-bundle
        wsi-pipeline predict results/slide-1/patches.zarr --model my-bundle --device cuda

    Predictions, heatmap and GeoJSON are written beside each store, in a folder named after the
    model.
    """
    from wsi_pipeline.models import load_model
    from wsi_pipeline.run.one_store import predict_slide
    from wsi_pipeline.store.find import find_stores

    with explained_errors():
        model = load_model(model_name)
        click.echo(f"Model {model.spec.name} was trained on: {model.trained_on}.", err=True)
        config = resolve_config(values)
        found = []
        with progress_bars(quiet or as_json) as progress:
            for store in find_stores(stores):
                predicted = predict_slide(store, model, config.predict, progress=progress)
                found.append({name: str(path) for name, path in predicted.files.items()})
    if as_json:
        print_json(found)
        return
    for files in found:
        click.echo("\n".join(files.values()))
