"""Shows how a training goes: a line that moves on a terminal, and one line for each epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from wsi_models.listening import Listener


class EpochLines:
    """Writes one plain line per epoch, and moves a bar per step where there is a terminal.

    Parameters
    ----------
    bars : Progress
        Draws nothing where its console is no terminal.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task = bars.add_task("training", total=None, loss="")
        self._epochs = self._iterations = self._done = 0
        self._best: tuple[float, int] | None = None
        self._seconds: list[float] = []

    def begin(self, epochs: int, done: int, iterations: int) -> None:
        """Begin with the epochs that are left."""
        self._epochs, self._done, self._iterations = epochs, done, iterations
        self._began = time.perf_counter()
        self._bars.update(
            self._task,
            total=epochs * iterations,
            completed=done * iterations,
            description=f"epoch {done + 1} of {epochs}",
        )

    def step(self, loss: float) -> None:
        """Move the bar on."""
        self._bars.update(self._task, advance=1, loss=f"loss {loss:.4f}")

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Write the line of an epoch."""
        self._done = int(row["epoch"])
        now = time.perf_counter()
        self._seconds.append(now - self._began)
        self._began = now
        self._bars.console.print(self._line(row), highlight=False, soft_wrap=True)
        self._bars.update(
            self._task,
            completed=self._done * self._iterations,
            description=f"epoch {min(self._done + 1, self._epochs)} of {self._epochs}",
        )

    def _line(self, row: Mapping[str, Any]) -> str:
        parts = [f"epoch {self._done} of {self._epochs}", f"loss {row['loss']:.4f}"]
        accuracy = row.get("validation_balanced_accuracy")
        if accuracy is not None:
            if row["best"]:
                self._best = accuracy, self._done
            parts.append(f"validation {accuracy:.4f}")
        if self._best is not None:
            parts.append(f"best {self._best[0]:.4f} at {self._best[1]}")
        left = (self._epochs - self._done) * sum(self._seconds) / len(self._seconds)
        if left:
            parts.append(f"{timedelta(seconds=round(left))} left")
        return ", ".join(parts)


@contextmanager
def epoch_lines(quiet: bool) -> Iterator[Listener]:
    """Show a training on standard error while the block runs, unless ``quiet``."""
    from wsi_models.listening import Silent

    if quiet:
        yield Silent()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with shown as bars:
        yield EpochLines(bars)
