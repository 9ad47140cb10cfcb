"""What the steps of an epoch report -> the rows of a history, and the files that keep it.

Averages and writes; what is reported is the method's business.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wsi_models.atomic import replace_atomically
from wsi_models.curves import draw_curves
from wsi_models.errors import TrainingError
from wsi_models.methods.base import UNKNOWN

if TYPE_CHECKING:
    from lightning_fabric import Fabric


PLAIN = ("loss", "pseudo", "clusters", "feature")
"""Beginnings of names that are logged as they are; all others are losses."""


class EpochLog:
    """Averages what the steps of an epoch report."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = 0
        self._right = self._judged = 0

    def add(
        self, total: Tensor, parts: Mapping[str, float], pseudo: Tensor | None, truth: Tensor | None
    ) -> None:
        """Take the report of one step; ``truth`` is what the labels withheld would have been."""
        self._steps += 1
        for name, value in parts.items():
            if name == "total":
                continue
            self._sums[name if name.startswith(PLAIN) else f"loss_{name}"] += value
        loss = float(total.detach())
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in step {self._steps} of the epoch: the training "
                "diverged; lower the learning rate, or train in 32-true"
            )
        self._sums["loss"] += loss
        if pseudo is not None and truth is not None:
            # a method may give no label where it is not sure enough
            guess = pseudo.cpu()
            judged = (truth != UNKNOWN) & (guess != UNKNOWN)
            self._judged += int(judged.sum())
            self._right += int((guess == truth)[judged].sum())

    def means(self, fabric: Fabric) -> dict[str, float]:
        """Return the averages over steps and processes."""
        values = {name: total / self._steps for name, total in sorted(self._sums.items())}
        if self._judged:
            values["pseudo_accuracy"] = self._right / self._judged
        if fabric.world_size > 1:
            packed = torch.tensor(list(values.values()), dtype=torch.float64, device=fabric.device)
            reduced = fabric.all_reduce(packed, reduce_op="mean")
            assert isinstance(reduced, Tensor)
            values = dict(zip(values, reduced.tolist(), strict=True))
        return values


def write_history(folder: Path, history: list[dict[str, Any]]) -> None:
    """Write ``history.json``, ``history.csv`` and ``curves.png``, one row or point per epoch."""
    with replace_atomically(folder / "history.json") as partial:
        partial.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    names = list(dict.fromkeys(name for row in history for name in row))
    with (
        replace_atomically(folder / "history.csv") as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(history)
    draw_curves(folder / "curves.png", history)
