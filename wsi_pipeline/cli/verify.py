"""The command ``wsi-pipeline verify``: results -> what is damaged, and how it is made anew."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.options import output_options
from wsi_pipeline.cli.runs import results_folder
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_pipeline.run.verify import Verified


@click.command()
@click.argument("out", metavar="FOLDER")
@output_options
def verify(out: str, as_json: bool, quiet: bool) -> None:
    """Read a folder of results against its checksums, and say what is damaged or missing.

    \b
        wsi-pipeline verify results
        wsi-pipeline verify features
        wsi-pipeline verify s3://bucket/results
        wsi-pipeline verify my-bundle

    FOLDER is the --out of run, preprocess, predict, features, train or mil train, also a copy of
    it; or a model, by folder or name. Every chunk of every patch store, every table, picture and
    export, every model and every record is read. For what is damaged you are told the command
    that makes just that anew; it no longer counts as finished. The exit code is 1 if something is
    damaged.
    """
    from wsi_pipeline.models import find_models
    from wsi_pipeline.run.verify import verify_folder

    with explained_errors(), results_folder(out) as (folder, bucket):
        if bucket is None and not folder.exists():
            # the name of a model is no folder here, but stands for one
            folder = next(iter(find_models(out)), folder)
        if not folder.exists() and bucket is None:
            raise ConfigError(f"there is no folder and no model {out}; check the name")
        with progress_bars(quiet or as_json) as progress:
            found = verify_folder(folder, progress, bucket)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)
    if found.damage:
        raise SystemExit(1)


def _print(found: Verified) -> None:
    for damage in found.damage:
        click.echo(f"{damage.file}: {damage.reason}\n    redo: {damage.redo}\n")
    of_slides = f" of {found.slides} slides" if found.slides else ""
    words = f"{found.files} files, stores and models{of_slides} were read: "
    click.echo(words + (f"{len(found.damage)} damaged." if found.damage else "all are sound."))
    if found.unfinished:
        click.echo(f"Not finished: {', '.join(found.unfinished)}; the same command goes on.")
