"""The command ``wsi-pipeline explain``: patch stores -> what each stain says of the patches."""

from __future__ import annotations

from contextlib import nullcontext
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
from wsi_pipeline.errors import WsiPipelineError


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
    the stain speaks for the class. A bad store does not stop the others, and the exit code is 1.
    """
    from wsi_pipeline.files import slide_folder
    from wsi_pipeline.models import load_explainer
    from wsi_pipeline.run.explain import explain_slide
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.store.find import STORE_NAME, name_stores

    found, failed = [], {}
    with explained_errors(), progress_bars(quiet or as_json) as progress:
        explainer = load_explainer(model_name)
        config = resolve_config(values).predict
        for path in name_stores(stores):
            try:
                with slide_folder(path.parent) if path.name == STORE_NAME else nullcontext():
                    store = PatchStore.open(path)
                    files = explain_slide(
                        store, explainer, config, per_class=per_class, progress=progress
                    )
            except WsiPipelineError as error:
                failed[path] = error
            else:
                found.append({name: str(written) for name, written in files.items()})
    _tell(found, failed, as_json=as_json)


def _tell(
    found: list[dict[str, str]], failed: dict[Path, WsiPipelineError], *, as_json: bool
) -> None:
    """Name what was written and what failed; exit with 1 if something did."""
    if as_json:
        print_json(found)
    else:
        for written in found:
            click.echo("\n".join(written.values()))
    for path, error in failed.items():
        click.echo(f"{path} failed: {error}", err=True)
    if failed:
        raise SystemExit(1)
