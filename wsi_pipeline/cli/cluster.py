"""The command ``wsi-pipeline cluster``: what a Dask cluster needs that nobody else may use."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.console import explained_errors


@click.group()
def cluster() -> None:
    """Prepare a Dask cluster."""


@cluster.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def keys(folder: Path) -> None:
    """Make a certificate and a key of your own for scheduler, workers and runs.

    \b
        wsi-pipeline cluster keys ~/wsi-keys
        export DASK_CONFIG=~/wsi-keys      # on every machine, for scheduler, workers and runs
        dask scheduler --protocol tls      # prints tls://head-node:8786
        dask worker tls://head-node:8786
        wsi-pipeline run slides/ --out results --scheduler tls://head-node:8786

    A scheduler without them runs the code of whoever reaches its port, as you. Only those who can
    read FOLDER can use one with them; make new keys for every run if you like.
    """
    from wsi_pipeline.run.cluster import write_keys

    with explained_errors():
        write_keys(folder)
    click.echo(f"export DASK_CONFIG={folder.absolute()}")
