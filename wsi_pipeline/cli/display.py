"""How a run goes -> bars on a terminal, or a line per slide in a log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from wsi_pipeline.run.outcome import SlideOutcome, Status

if TYPE_CHECKING:
    from wsi_pipeline.run.lanes import StepNews
    from wsi_pipeline.run.slides import Monitor


@contextmanager
def run_display(quiet: bool, *, as_json: bool = False) -> Iterator[Monitor | None]:
    """Show on standard error how a run goes while the block runs, unless ``quiet``."""
    if quiet or as_json:
        yield None if quiet else JsonEvents()
        return
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield RunDisplay(bars)


class JsonEvents:
    """Tells programs how a run goes: one JSON object per line, with the key ``event``.

    ``begin`` has the number of slides; ``step`` a slide, its stage and how many of its patches are
    done; ``slide`` what came of one.
    """

    def begin(self, slides: int, last_stage: str, dashboard: str | None) -> None:
        """Tell how many slides there are."""
        self._tell("begin", slides=slides, dashboard=dashboard)

    def tell(self, news: StepNews) -> None:
        """Tell how far a slide is."""
        self._tell("step", slide=news.key, stage=news.what, done=news.done, total=news.total)

    def finished(self, outcome: SlideOutcome) -> None:
        """Tell what came of a slide."""
        self._tell(
            "slide",
            slide=outcome.slide_id,
            model=outcome.model,
            status=outcome.status.value,
            reused=outcome.reused,
            error=outcome.error,
            kind=outcome.kind,
        )

    def _tell(self, event: str, **facts: object) -> None:
        click.echo(json.dumps({"event": event, "time": time.time(), **facts}), err=True)


class RunDisplay:
    """Draws a bar for the run and one for each slide that is under way.

    Parameters
    ----------
    bars : Progress
        Where to draw. Lines of text take the place of bars where it is no terminal.
    clock : callable
        Gives seconds.
    """

    def __init__(self, bars: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._bars = bars
        self._clock = clock
        self._lock = Lock()
        self._rows: dict[str, TaskID] = {}
        self._news: dict[str, StepNews] = {}
        self._counts = dict.fromkeys(Status, 0)
        self._patches = 0
        self._last_stage = ""

    def begin(self, slides: int, last_stage: str, dashboard: str | None) -> None:
        """Draw the bar of the run and print the address of Dask's page."""
        if dashboard is not None:
            self._bars.console.print(f"Dask dashboard: {dashboard}", soft_wrap=True)
        self._slides = slides
        self._last_stage = last_stage
        self._began = self._clock()
        self._run = self._bars.add_task("", total=slides, note="")
        self._draw_run()

    def tell(self, news: StepNews) -> None:
        """Draw how far a slide is."""
        with self._lock:
            before = self._news.get(news.key)
            if self._ends(news):
                same = before is not None and before.what == news.what and before.done <= news.done
                self._patches += news.done - (before.done if same and before is not None else 0)
            self._news[news.key] = news
            self._draw_slide(news)
            self._draw_run()

    def finished(self, outcome: SlideOutcome) -> None:
        """Take the slide's bar away and count it."""
        with self._lock:
            self._counts[outcome.status] += 1
            self._news.pop(outcome.slide_id, None)
            row = self._rows.pop(outcome.slide_id, None)
            if row is not None:
                self._bars.remove_task(row)
            self._draw_run()
            if not self._bars.console.is_terminal:
                line = f"{self.summary()}: {outcome.slide_id} {outcome.status.value}"
                self._bars.console.print(line, soft_wrap=True, markup=False, highlight=False)

    def summary(self) -> str:
        """Say how many slides are done and failed, how fast patches go, and how long it takes."""
        failed = self._counts[Status.FAILED]
        done = sum(self._counts.values()) - failed
        words = [f"{done} of {self._slides} slide{'' if self._slides == 1 else 's'} done"]
        if failed:
            words.append(f"{failed} failed")
        spent = self._clock() - self._began
        if self._patches and spent > 0:
            words.append(f"{self._patches / spent:.0f} patches/s")
        covered = self._covered()
        if done and covered < self._slides:
            left = timedelta(seconds=round(spent / covered * (self._slides - covered)))
            words.append(f"{left} left")
        return ", ".join(words)

    def _covered(self) -> float:
        """Count slides, those under way by their share of patches in the last stage."""
        shares = (news.done / news.total for news in self._news.values() if self._ends(news))
        return sum(self._counts.values()) + sum(shares)

    def _ends(self, news: StepNews) -> bool:
        return news.total > 0 and news.what.endswith(self._last_stage)

    def _draw_run(self) -> None:
        self._bars.update(
            self._run, completed=self._covered(), description="run", note=self.summary()
        )

    def _draw_slide(self, news: StepNews) -> None:
        what = news.what if news.what.startswith(news.key) else f"{news.key}: {news.what}"
        if news.key not in self._rows:
            self._rows[news.key] = self._bars.add_task(what, note="")
        self._bars.update(
            self._rows[news.key],
            description=what,
            total=news.total,
            completed=news.done,
            note=f"{news.done} of {news.total}",
        )
