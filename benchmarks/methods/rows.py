"""The table of the benchmarks: what a run is, whether it was done, and its row.

A row is added when its run ends, so that an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import csv
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).with_name("results.csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run, before it is known what comes of it.

    ``labels_per_class`` 0 and ``labelled_slides`` 0 are all that the training part has; ``plan``
    says whose batch sizes are used.
    """

    dataset: str
    plan: str = ""
    method: str
    variant: str = ""
    labels_per_class: int = 0
    labelled_slides: int = 0
    seed: int
    setup: str

    def key(self) -> tuple[str, ...]:
        """Return what makes a run a repetition of another."""
        return tuple(str(getattr(self, name)) for name in KEY)


KEY = (
    "dataset", "plan", "method", "variant", "labels_per_class", "labelled_slides", "seed", "setup",
)  # fmt: skip
FIGURES = ("balanced_accuracy", "macro_f1", "auc")
FACTS = ("validation", "best_epoch", "steps", "pseudo_accuracy", "pseudo_ece")
COLUMNS = (*KEY, *FIGURES, *FACTS, "extra", "threads", "cpu_seconds", "device", "commit")


def carry_out(
    planned: Planned,
    work: Callable[[], Mapping[str, Any]],
    *,
    results: Path = RESULTS,
    device: str = "cpu",
) -> None:
    """Do a run, unless it is in the file already, and add its figures to the file as a row."""
    if planned.key() in {tuple(line[name] for name in KEY) for line in read(results)}:
        return
    code, begin = commit(), time.process_time()
    found = work()
    row: dict[str, Any] = {
        **asdict(planned),
        **{name: _rounded(found.get(name)) for name in (*FIGURES, *FACTS, "extra")},
        "threads": torch.get_num_threads(),
        "cpu_seconds": round(time.process_time() - begin, 1),
        "device": device,
        "commit": code,
    }
    _append(results, row)
    print(row, flush=True)


def read(results: Path = RESULTS) -> list[dict[str, str]]:
    """Read all rows; none where there is no file yet."""
    if not results.exists():
        return []
    with results.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def commit() -> str:
    """Name the code that runs; a plus says that it was changed since."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    here = Path(__file__).parent
    found = subprocess.run(command, cwd=here, check=True, capture_output=True, text=True)
    return found.stdout.strip()


def _append(results: Path, row: dict[str, Any]) -> None:
    is_new = not results.exists()
    with results.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
        file.flush()
        os.fsync(file.fileno())


def _rounded(value: float | str | None) -> float | str | None:
    return round(value, 4) if isinstance(value, float) else value
