"""What a person sees: progress bars, tables, and errors without tracebacks.

Progress goes to standard error, results to standard output, so that output can be piped.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.cells import cell_len, set_cell_size
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
from rich.text import Text

from wsi_pipeline.cli.options import VERBOSE
from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.run.labels import count_labels, judge_labels, name_patients
from wsi_pipeline.run.log import LOGGER
from wsi_pipeline.run.outcome import Status
from wsi_pipeline.types import NoProgress
from wsi_pipeline.types import Progress as ProgressListener

if TYPE_CHECKING:
    from wsi_pipeline.run.outcome import RunReport, SlideOutcome


MANY_ROWS = 200
"""Rows above which a table is printed without folding its cells."""


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
    """Turn what people and disks do into a message and an exit code; bugs keep their traceback.

    The code is 1 for errors, and that of the shell for what was stopped: 130 by Ctrl-C, 143 by
    SIGTERM.
    """
    try:
        with _terminable(), _console_log():
            yield
    except KeyboardInterrupt as stop:
        click.echo(
            "Stopped. What is done is on record; the same command goes on from there.", err=True
        )
        raise SystemExit(143 if isinstance(stop, _Terminated) else 130) from None
    except WsiPipelineError as error:
        raise click.ClickException(shown(str(error))) from error
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # click ends quietly when nobody reads its output
        where = "" if error.filename is None else f"{error.filename}: "
        raise click.ClickException(
            f"{where}{error.strerror or error}; check the name, rights, free space and the "
            f"connection of the disk"
        ) from error


class _Terminated(KeyboardInterrupt):
    """The process was asked to end, which ends work as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, with all that is to be closed."""

    def stop(*_: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # another thread than the first cannot
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _console_log() -> Iterator[None]:
    """Show on standard error what the package logs: warnings, or with ``-v`` everything."""
    verbose = click.get_current_context().meta.get(VERBOSE, False)
    handler = _ConsoleHandler(logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s") if verbose else _Short("%(message)s"))
    log = logging.getLogger(LOGGER)
    level = log.level
    log.addHandler(handler)
    if verbose:
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class _ConsoleHandler(logging.Handler):
    """Writes above progress bars, wherever standard error is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(shown(self.format(record)), err=True)


class _Short(logging.Formatter):
    """Leaves tracebacks to the log file."""

    def formatException(self, ei: Any) -> str:
        return ""


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(text: str) -> str:
    """Write control characters as escapes: a name in a file must not steer the terminal."""
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    click.echo(json.dumps(value, indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings, as wide as the terminal; many, as wide as they are."""
    cells = [[shown(cell) for cell in row] for row in rows]
    if len(rows) > MANY_ROWS:
        _print_columns([headings, *cells])
        return
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))  # names of slides are no markup
    Console(file=sys.stdout).print(table)


def _print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows without folding any, which takes rich half a second per thousand."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def print_report(report: RunReport, out: str) -> None:
    """Print one row per slide, why slides failed, and where the results are."""
    headings = ("slide", "status", "mpp", "tiles", "stain", "classes")
    print_table(headings, [_row(outcome) for outcome in report.outcomes])
    for outcome in report.outcomes:
        if outcome.error is not None:
            hint = f" ({outcome.hint})" if outcome.hint else ""
            click.echo(shown(f"\n{outcome.slide_id} failed: {outcome.error}{hint}"))
        for doubt in outcome.doubts:
            click.echo(shown(f"\n{outcome.slide_id}, look at it: {doubt}"))
    _print_labels(report)
    if report.timing:
        click.echo(f"\n{_times(report.timing)}")
    click.echo(f"\nReport: {out.rstrip('/')}/index.html")


def _print_labels(report: RunReport) -> None:
    """Print how much of each class is annotated, and whether it is enough to train with."""
    counts = count_labels(report.outcomes)
    if not counts:
        return
    click.echo()
    print_table(
        ("class", "tiles", "mm2", "slides", "patients"),
        [
            (
                count.name,
                str(sum(count.tiles.values())),
                f"{count.mm2:.3g}",
                str(count.slides),
                name_patients(count),
            )
            for count in counts
        ],
    )
    unlabelled = sum(
        outcome.status is Status.DONE and not outcome.labels for outcome in report.outcomes
    )
    if unlabelled:
        words = "slide has" if unlabelled == 1 else "slides have"
        click.echo(f"{unlabelled} {words} no annotations: unlabelled data")
    lacking = judge_labels(counts)
    for problem in lacking:
        click.echo(f"Note: {problem}.")
    if not lacking:
        click.echo("Every class is in three patients or more: enough to train, validate and test.")


def _times(timing: dict[str, Any]) -> str:
    """Say where the time of a run went, stages of less than a tenth of a second left out."""
    stages = [f"{name} {spent:.1f}" for name, spent in timing["stages"].items() if spent >= 0.1]
    return f"{timing['wall']:.1f} s ({', '.join(stages)}): {timing['verdict']}."


def _row(outcome: SlideOutcome) -> tuple[str, ...]:
    if outcome.error is not None or not outcome.slide:
        return outcome.slide_id, outcome.status, "", "", "", ""
    source = outcome.slide.get("mpp_source", "")
    estimated = " (estimate)" if source == "objective" else ""
    kept = outcome.funnel.get("kept", 0)
    shares = sorted(outcome.class_shares.items(), key=lambda item: -item[1])
    result = ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)
    return (
        outcome.slide_id,
        outcome.status + (" (doubted)" if outcome.doubts else ""),
        f"{outcome.slide.get('mpp', 0):.4g} {source}{estimated}",
        f"{kept} of {sum(outcome.funnel.values())}",
        str(outcome.stain.get("verdict", "")),
        result,
    )
