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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from wsi_files.whole import replace_atomically
from wsi_models.curves import draw_curves
from wsi_models.errors import TrainingError
from wsi_models.methods.base import UNKNOWN

if TYPE_CHECKING:
    from lightning_fabric import Fabric


PLAIN = ("loss", "pseudo", "clusters", "feature")
"""Beginnings of names that are logged as they are; all others are losses."""


CALIBRATION_BINS = 15
"""Bins of equal width by which pseudo-labels' confidence is compared with how many are right."""


class Guesses(NamedTuple):
    """Pseudo-labels of a step, as in :class:`~wsi_models.methods.base.Losses`."""

    label: Tensor | None = None
    confidence: Tensor | None = None


class EpochLog:
    """Averages what the steps of an epoch report."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._steps = 0
        # per bin of confidence: pseudo-labels that can be judged, those right, sum of confidences
        self._bins = torch.zeros(3, CALIBRATION_BINS, dtype=torch.float64)

    def add(
        self, total: Tensor, parts: Mapping[str, float], guesses: Guesses, truth: Tensor | None
    ) -> float:
        """Take the report of one step and return its loss.

        ``truth`` is what the labels withheld would have been.
        """
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
        if guesses.label is not None and truth is not None:
            self._judge(guesses.label.cpu(), guesses.confidence, truth)
        return loss

    def means(self, fabric: Fabric) -> dict[str, float]:
        """Return the averages over steps and processes.

        ``pseudo_accuracy`` is the share of the pseudo-labels that are right, of those whose truth
        is known, and ``pseudo_ece`` their expected calibration error [1]_: the mean difference of
        confidence and share of right ones, over bins of confidence. Neither is there where no
        process had such a pseudo-label.

        References
        ----------
        .. [1] C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
        """
        names = sorted(self._sums)
        steps = torch.tensor([self._sums[name] / self._steps for name in names])
        # every process sends as many numbers, whatever it could judge
        averages = _over_processes(fabric, steps.double(), "mean")
        count, right, confidence = _over_processes(fabric, self._bins, "sum")
        values = dict(zip(names, averages.tolist(), strict=True))
        if count.sum() > 0:
            values["pseudo_accuracy"] = float(right.sum() / count.sum())
            values["pseudo_ece"] = float((confidence - right).abs().sum() / count.sum())
        return values

    def _judge(self, label: Tensor, confidence: Tensor | None, truth: Tensor) -> None:
        # a method may give no label where it is not sure enough
        judged = (truth != UNKNOWN) & (label != UNKNOWN)
        sure = torch.ones(len(label)) if confidence is None else confidence.detach().cpu()
        sure = sure[judged].double()
        place = (sure * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)
        right = (label == truth)[judged].double()
        for row, values in enumerate((torch.ones_like(sure), right, sure)):
            self._bins[row].index_add_(0, place, values)


def _over_processes(fabric: Fabric, values: Tensor, how: str) -> Tensor:
    if fabric.world_size == 1:
        return values
    reduced = fabric.all_reduce(values.to(fabric.device), reduce_op=how)
    assert isinstance(reduced, Tensor)
    return reduced.cpu()


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
