"""What ``heatmap`` and ``export`` share: finished results, and how probabilities become classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from wsi_pipeline.cli.options import Command


def results_argument(command: Command) -> Command:
    """Give a command finished results."""
    return click.argument(
        "results",
        nargs=-1,
        required=True,
        metavar="RESULTS...",
        type=click.Path(exists=True, path_type=Path),
    )(command)


def classes_option(command: Command) -> Command:
    """Give a command the classes that are shown."""
    return click.option(
        "--classes",
        "results__classes",
        callback=split_names,
        metavar="NAME,...",
        help="Show these classes only; the rest of the tissue has none.",
    )(command)


def of_model_option(command: Command) -> Command:
    """Give a command the model whose results are meant."""
    return click.option(
        "--of-model",
        "model_name",
        metavar="NAME",
        help="Only what this model found, where there are several.",
    )(command)


def export_option(command: Command) -> Command:
    """Give a command the exports that it writes besides."""
    return click.option(
        "--export",
        "results__export",
        callback=split_names,
        metavar="NAME,...",
        help="Files to write for each slide beside the usual ones, such as regions,ome-tiff; "
        "'wsi-pipeline export --help' lists them.",
    )(command)


def split_names(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Turn names that are divided by commas into names; None where none are given."""
    if value is None:
        return None
    return tuple(name.strip() for name in value.split(",") if name.strip())


def each_result(names: Sequence[str], write: Callable[[int], list[Path]]) -> None:
    """Write files of several slides and print their names; a bad slide does not stop the rest.

    Parameters
    ----------
    names : sequence of str
        The slides, for messages.
    write : callable
        Given the number of a slide, writes its files and returns them.

    Raises
    ------
    SystemExit
        With 1 if a slide failed, after all others are done.
    WsiPipelineError
        If there is only one.
    """
    failed = 0
    for index, name in enumerate(names):
        try:
            for path in write(index):
                click.echo(path)
        except (WsiPipelineError, OSError) as error:
            if len(names) == 1 and isinstance(error, WsiPipelineError):
                raise
            failed += 1
            click.echo(f"{name} failed: {error}", err=True)
    if failed:
        click.echo(f"{failed} of {len(names)} failed; the others are done", err=True)
        raise SystemExit(1)
