"""The command ``wsi-pipeline explain``: patch stores -> what each stain says of the patches."""

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
    "--per-class",
    type=click.IntRange(min=1, max=8),
    default=3,
    show_default=True,
    help="Patches of each class that are shown.",
)
@config_options("predict")
@output_options
def explain(
    stores: tuple[Path, ...],
    model_name: str,
    per_class: int,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Show what hematoxylin and eosin each say of a patch, and where in it.

    STORE is a patches.zarr, or a results folder: then every store in it.

    \b
        wsi-pipeline explain results --model my-bundle
        wsi-pipeline explain results/slide-1/patches.zarr --model my-bundle --per-class 5

    For models trained by CLASS-M, in which both stains have a network of their own and the parts
    of the two add up to each class's logit exactly. Written beside the predictions: a table with
    the parts of every tile, and a sheet that shows the clearest patches of each class, red where
    the stain speaks for the class.
    """
    from wsi_pipeline.models import load_explainer
    from wsi_pipeline.run.explain import explain_slide
    from wsi_pipeline.store.find import find_stores

    with explained_errors():
        explainer = load_explainer(model_name)
        config = resolve_config(values)
        found = []
        with progress_bars(quiet or as_json) as progress:
            for store in find_stores(stores):
                files = explain_slide(
                    store, explainer, config.predict, per_class=per_class, progress=progress
                )
                found.append({name: str(path) for name, path in files.items()})
    if as_json:
        print_json(found)
        return
    for written in found:
        click.echo("\n".join(written.values()))
