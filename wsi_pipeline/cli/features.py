"""The command ``wsi-pipeline features``: patch stores -> a file of features per slide."""

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
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the files, one per slide and named after it.",
)
@click.option(
    "--format",
    "ending",
    type=click.Choice(["h5", "zarr"]),
    default="h5",
    show_default=True,
    help="HDF5 as CLAM and TRIDENT read it, or Zarr.",
)
@config_options("predict")
@output_options
def features(
    stores: tuple[Path, ...],
    model_name: str,
    out: Path,
    ending: str,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Compute the features of every patch with the encoder of a bundle.

    STORE is a patches.zarr, or a results folder: then every store in it.

    \b
        wsi-pipeline features results --model my-bundle --out features
        wsi-pipeline mil train features --labels slides.csv --model abmil --out runs/slides

    A file of the same patches and the same encoder is kept, so that an interrupted command goes
    on where it was.
    """
    from wsi_pipeline.models import load_encoder
    from wsi_pipeline.predict.features import extract_slide_features
    from wsi_pipeline.store.find import find_stores

    with explained_errors():
        encoder = load_encoder(model_name)
        click.echo(f"Model {encoder.spec.name} was trained on: {encoder.trained_on}.", err=True)
        config = resolve_config(values)
        with progress_bars(quiet or as_json) as progress:
            files = [
                extract_slide_features(
                    store,
                    encoder,
                    config.predict,
                    out / f"{store.slide.slide_id}.{ending}",
                    progress=progress,
                )
                for store in find_stores(stores)
            ]
    if as_json:
        print_json([str(file) for file in files])
        return
    click.echo("\n".join(map(str, files)))
