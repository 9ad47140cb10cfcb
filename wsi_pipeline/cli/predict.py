"""The command ``wsi-pipeline predict``: patch stores -> predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json
from wsi_pipeline.cli.display import run_display
from wsi_pipeline.cli.options import (
    config_options,
    model_option,
    output_options,
    resolve_config,
)
from wsi_pipeline.cli.runs import chosen, exit_if_failed, redo_options
from wsi_pipeline.run.outcome import Status

if TYPE_CHECKING:
    from wsi_pipeline.run.outcome import SlideOutcome


@click.command()
@click.argument(
    "stores",
    nargs=-1,
    required=True,
    metavar="STORE...",
    type=click.Path(exists=True, path_type=Path),
)
@model_option
@redo_options
@config_options("predict", "results")
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
    model, and index.html shows them. What is predicted already is left as it is; a store that is
    damaged does not stop the others, and the exit code is 1.
    """
    from wsi_pipeline.models import load_model
    from wsi_pipeline.run.folder import RunOptions
    from wsi_pipeline.run.stores import predict_stores
    from wsi_pipeline.store.find import name_stores

    with explained_errors():
        model = load_model(model_name)
        click.echo(f"Model {model.spec.name} was trained on: {model.trained_on}.", err=True)
        redo, only = values.pop("redo"), values.pop("only")
        options = RunOptions(out=Path(), config=resolve_config(values), redo=redo)
        found = name_stores(stores)
        places = chosen([store.parent.name for store in found], only)
        with run_display(quiet, as_json=as_json) as monitor:
            reports = predict_stores(
                [found[place] for place in places], options, model=model, monitor=monitor
            )
    outcomes = [
        _with_places(outcome, out) for out, report in reports.items() for outcome in report.outcomes
    ]
    if as_json:
        print_json([outcome.files for outcome in outcomes if outcome.status is not Status.FAILED])
    else:
        for outcome in outcomes:
            if outcome.status is not Status.FAILED:
                click.echo("\n".join(outcome.files.values()))
    exit_if_failed(outcomes)


def _with_places(outcome: SlideOutcome, out: Path) -> SlideOutcome:
    """Return an outcome whose files are named from here."""
    kinds = set(outcome.files) - {"patches", "qc"}
    return replace(outcome, files={kind: str(out / outcome.files[kind]) for kind in sorted(kinds)})
