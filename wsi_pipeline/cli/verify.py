"""The command ``wsi-pipeline verify``: results -> what is damaged, and how it is made anew."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.options import output_options

if TYPE_CHECKING:
    from wsi_pipeline.run.verify import Verified


@click.command()
@click.argument("out", metavar="FOLDER", type=click.Path(exists=True, path_type=Path))
@output_options
def verify(out: Path, as_json: bool, quiet: bool) -> None:
    """Read a folder of results against its checksums, and say what is damaged or missing.

    \b
        wsi-pipeline verify results
        wsi-pipeline verify features

    FOLDER is the --out of run, preprocess, predict or features, also a copy of it. Every chunk of
    every patch store, every table, picture and export, and every record is read. For what is
    damaged you are told the command that makes just that anew; it no longer counts as finished.
    The exit code is 1 if something is damaged.
    """
    from wsi_pipeline.run.verify import verify_folder

    with explained_errors(), progress_bars(quiet or as_json) as progress:
        found = verify_folder(out, progress)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)
    if found.damage:
        raise SystemExit(1)


def _print(found: Verified) -> None:
    for damage in found.damage:
        click.echo(f"{damage.file}: {damage.reason}\n    redo: {damage.redo}\n")
    words = f"{found.files} files and stores of {found.slides} slides were read: "
    click.echo(words + (f"{len(found.damage)} damaged." if found.damage else "all are sound."))
    if found.unfinished:
        click.echo(f"Not finished: {', '.join(found.unfinished)}; the same command goes on.")
