"""What a person sees: progress bars, tables, and errors without tracebacks.

Progress goes to standard error, results to standard output, so that output can be piped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.types import NoProgress
from wsi_pipeline.types import Progress as ProgressListener

if TYPE_CHECKING:
    from wsi_pipeline.run.outcome import RunReport, SlideOutcome


class BarProgress:
    """Draws one bar per announced piece of work; the newest replaces the one before."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def start(self, what: str, total: int) -> None:
        """Begin a bar of ``total`` steps."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(what, total=total)

    def advance(self, steps: int = 1) -> None:
        """Move the bar on."""
        if self._task is not None:
            self._bars.advance(self._task, steps)


@contextmanager
def progress_bars(quiet: bool) -> Iterator[ProgressListener]:
    """Show progress on standard error while the block runs, unless ``quiet``."""
    if quiet:
        yield NoProgress()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield BarProgress(bars)


@contextmanager
def explained_errors() -> Iterator[None]:
    """Turn the pipeline's errors into a message and exit code 1; bugs keep their traceback."""
    try:
        yield
    except WsiPipelineError as error:
        raise click.ClickException(str(error)) from error


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings, as wide as the terminal."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(file=sys.stdout).print(table)


def print_report(report: RunReport, out: str) -> None:
    """Print one row per slide, why slides failed, and where the results are."""
    table = Table(box=None, pad_edge=False)
    for heading in ("slide", "status", "mpp", "tiles", "stain", "classes"):
        table.add_column(heading, overflow="fold")
    for outcome in report.outcomes:
        table.add_row(*_row(outcome))
    console = Console(file=sys.stdout)
    console.print(table)
    for outcome in report.outcomes:
        if outcome.error is not None:
            click.echo(f"\n{outcome.slide_id} failed: {outcome.error}")
        for doubt in outcome.doubts:
            click.echo(f"\n{outcome.slide_id}, look at it: {doubt}")
    if report.timing:
        click.echo(f"\n{_times(report.timing)}")
    click.echo(f"\nReport: {out.rstrip('/')}/index.html")


def _times(timing: dict[str, Any]) -> str:
    """Say where the time of a run went, stages of less than a tenth of a second left out."""
    stages = [f"{name} {spent:.1f}" for name, spent in timing["stages"].items() if spent >= 0.1]
    return f"{timing['wall']:.1f} s ({', '.join(stages)}): {timing['verdict']}."


def _row(outcome: SlideOutcome) -> tuple[str, ...]:
    if outcome.error is not None:
        return outcome.slide_id, outcome.status, "", "", "", ""
    source = outcome.slide["mpp_source"]
    estimated = " (estimate)" if source == "objective" else ""
    kept = outcome.funnel.get("kept", 0)
    shares = sorted(outcome.class_shares.items(), key=lambda item: -item[1])
    result = ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
    return (
        outcome.slide_id,
        outcome.status + (" (doubted)" if outcome.doubts else ""),
        f"{outcome.slide['mpp']:.4g} {source}{estimated}",
        f"{kept} of {sum(outcome.funnel.values())}",
        outcome.stain["verdict"],
        result,
    )
