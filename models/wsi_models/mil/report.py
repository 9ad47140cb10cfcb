"""The evaluations of folds -> figures with their spread, and a report of them for people.

Computes means and deviations only; the figures of a fold are those of :mod:`wsi_models.metrics`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsi_files.tables import text_cell
from wsi_files.whole import replace_atomically
from wsi_models.curves import draw_cross_validation

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from wsi_models.metrics import Evaluation
    from wsi_models.mil.bags import Bags

FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "auc")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """How one fold came out.

    Attributes
    ----------
    evaluation : Evaluation
        Of the slides that test.
    threshold : float
        What decided, of two classes.
    best_epoch : int
        The epoch that was kept.
    training, validation : int
        Slides that trained and selected.
    """

    evaluation: Evaluation
    threshold: float
    best_epoch: int
    training: int
    validation: int


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1) of a figure over the ``folds`` that have it."""

    mean: float
    deviation: float
    folds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """How a model does on slides of patients it was not trained on.

    Attributes
    ----------
    folds : tuple of FoldResult
        One per fold.
    pooled : Evaluation
        Of all slides, each predicted by the fold that it tests.
    """

    folds: tuple[FoldResult, ...]
    pooled: Evaluation

    def summary(self) -> dict[str, Spread]:
        """Return each of :data:`FIGURES` over the folds; a fold of one class has no AUC."""
        found = {}
        for name in FIGURES:
            headlines = [fold.evaluation.headline() for fold in self.folds]
            values = [headline[name] for headline in headlines if name in headline]
            if values:
                deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
                found[name] = Spread(float(np.mean(values)), deviation, len(values))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "summary": {name: spread._asdict() for name, spread in self.summary().items()},
            "pooled": self.pooled.to_dict(),
            "folds": [
                {
                    "training": fold.training,
                    "validation": fold.validation,
                    "best_epoch": fold.best_epoch,
                    "threshold": fold.threshold,
                    "evaluation": fold.evaluation.to_dict(),
                }
                for fold in self.folds
            ],
        }


def write_cross_validation(
    result: CrossValidation, folder: Path, *, title: str, left_out: Sequence[str] = ()
) -> dict[str, Path]:
    """Write ``report.json``, ``.md`` and ``.png``.

    Parameters
    ----------
    result : CrossValidation
        The figures.
    folder : Path
        Where to write; made when missing.
    title : str
        What was evaluated on what.
    left_out : sequence of str
        Labelled slides that were not used.

    Returns
    -------
    dict of str to Path
        The files, by kind.
    """
    files = {kind: folder / f"report.{kind}" for kind in ("json", "md", "png")}
    values = {**result.to_dict(), "left_out": list(left_out)}
    with replace_atomically(files["json"]) as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    with replace_atomically(files["md"]) as partial:
        partial.write_text(describe(result, title, left_out), encoding="utf-8")
    evaluations = [fold.evaluation for fold in result.folds]
    draw_cross_validation(files["png"], evaluations, result.pooled, title)
    return files


def describe(result: CrossValidation, title: str, left_out: Sequence[str] = ()) -> str:
    """Write a cross-validation as Markdown."""
    pooled = result.pooled
    lines = [
        f"# {title}", "",
        f"{pooled.count} slides of {len(pooled.groups)} patients in {len(result.folds)} folds; "
        "no patient trains and tests, and neither epoch nor threshold is chosen on slides that "
        "test.", "",
        "| figure | mean | standard deviation | folds | all slides together |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    together = pooled.headline()
    lines += [
        f"| {name.replace('_', ' ')} | {spread.mean:.4f} | {spread.deviation:.4f} | "
        f"{spread.folds} | {together[name]:.4f} |"
        for name, spread in result.summary().items()
    ]
    if left_out:
        lines += ["", f"Left out, without features: {', '.join(left_out)}."]
    lines += ["", "| fold | train | select | test | epoch | threshold | accuracy | AUC |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    lines += [_fold_row(number, fold) for number, fold in enumerate(result.folds, start=1)]
    lines += ["", "| truth | slides | recall | " + " | ".join(pooled.classes) + " |"]
    lines += ["|---|---|---|" + "---|" * len(pooled.classes)]
    for name, row, recall in zip(pooled.classes, pooled.confusion, pooled.recall, strict=True):
        shown = "-" if recall is None else f"{recall:.4f}"
        lines.append(f"| {name} | {sum(row)} | {shown} | " + " | ".join(map(str, row)) + " |")
    return "\n".join([*lines, "", "Rows are the truth, columns predictions.", ""])


def write_slide_table(
    path: Path, bags: Bags, prob: Tensor, predicted: Tensor, fold: Sequence[int]
) -> None:
    """Write one row per slide: who it is, the fold it tests, the truth and the prediction.

    Parameters
    ----------
    path : Path
        CSV to write.
    bags : Bags
        The n slides.
    prob : Tensor of shape (n, C)
        Their probabilities.
    predicted : Tensor of shape (n,)
        What was decided for.
    fold : sequence of n int
        Counted from 1.
    """
    names = bags.classes
    with replace_atomically(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        shown_names = list(map(text_cell, names))
        probabilities = [f"prob_{name}" for name in names]
        table.writerow(["slide_id", "patient", "fold", "label", "predicted", *probabilities])
        for index, row in enumerate(prob.tolist()):
            truth = shown_names[int(bags.label[index])]
            decided = shown_names[int(predicted[index])]
            shown = [f"{value:.6f}" for value in row]
            who = [text_cell(bags.slide_ids[index]), text_cell(bags.patient[index])]
            table.writerow([*who, fold[index], truth, decided, *shown])


def _fold_row(number: int, fold: FoldResult) -> str:
    figures = fold.evaluation
    auc = "-" if figures.auc is None else f"{figures.auc:.4f}"
    return (
        f"| {number} | {fold.training} | {fold.validation} | {figures.count} | {fold.best_epoch} "
        f"| {fold.threshold:.3f} | {figures.accuracy:.4f} | {auc} |"
    )
