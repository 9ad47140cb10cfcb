"""Logits and the truth -> how good a classifier is, in figures.

Judges what it is given; which patches may be judged (never those trained on) is the split's
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_recall,
)

from wsi_models.errors import TrainingError

BINS = 15
"""Bins of confidence of the reliability diagram and the calibration error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """The patches whose confidence lies in one of :data:`BINS` equal intervals."""

    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """How the patches of one patient, slide or prototype came out."""

    group: str
    count: int
    accuracy: float
    balanced_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a classifier is on patches whose truth is known.

    Attributes
    ----------
    classes : tuple of str
        Classes, in the order of the outputs.
    count : int
        Patches judged.
    confusion : tuple of tuple of int
        Row: truth; column: prediction.
    recall : tuple of float or None
        Per class: the share of its patches that were found; None for a class without patches.
    absent : tuple of str
        Classes without patches. Averages over classes leave them out.
    accuracy : float
        Share of patches that are right.
    balanced_accuracy : float
        Mean of ``recall``: what CLASS-M calls average accuracy.
    macro_f1 : float
        Mean of the F1 of the classes that have patches.
    auc : float or None
        Mean area under the ROC of each class against the others; None with a single class.
    ece : float
        Expected calibration error: mean distance of confidence and accuracy over the bins.
    reliability : tuple of ReliabilityBin
        The bins that hold patches.
    groups : tuple of GroupResult
        Per group, by name.
    """

    classes: tuple[str, ...]
    count: int
    confusion: tuple[tuple[int, ...], ...]
    recall: tuple[float | None, ...]
    absent: tuple[str, ...]
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    auc: float | None
    ece: float
    reliability: tuple[ReliabilityBin, ...]
    groups: tuple[GroupResult, ...]

    def headline(self) -> dict[str, float]:
        """Return the figures that are single numbers, by name."""
        values = {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "auc": self.auc,
            "ece": self.ece,
        }
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def evaluate_logits(
    logits: Tensor,
    label: Tensor,
    group: Sequence[str],
    classes: Sequence[str],
    *,
    predicted: Tensor | None = None,
) -> Evaluation:
    """Judge predictions.

    Parameters
    ----------
    logits : Tensor of shape (n, C)
        Before the softmax.
    label : Tensor of shape (n,), int64
        The truth, known for all.
    group : sequence of n str
        Patient, slide or prototype of each patch.
    classes : sequence of C str
        Names of the classes.
    predicted : Tensor of shape (n,), int64, or None
        What was decided, where a threshold other than the highest probability decides. Area
        under the curve and calibration are of the probabilities in any case.

    Returns
    -------
    Evaluation
        The figures.

    Raises
    ------
    TrainingError
        If there is nothing to judge.
    """
    if len(label) == 0:
        raise TrainingError("no labelled patch to evaluate on; check the split and the label map")
    count = len(classes)
    prob = logits.float().softmax(dim=1)
    if predicted is None:
        predicted = prob.argmax(dim=1)
    confusion = multiclass_confusion_matrix(predicted, label, num_classes=count)
    present = confusion.sum(dim=1) > 0
    recall = multiclass_recall(predicted, label, num_classes=count, average=None)
    f1 = multiclass_f1_score(predicted, label, num_classes=count, average=None)
    return Evaluation(
        classes=tuple(classes),
        count=len(label),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        recall=tuple(
            value if there else None
            for value, there in zip(recall.tolist(), present.tolist(), strict=True)
        ),
        absent=tuple(
            name for name, there in zip(classes, present.tolist(), strict=True) if not there
        ),
        accuracy=float((predicted == label).float().mean()),
        balanced_accuracy=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        auc=_auc(prob, label),
        ece=float(multiclass_calibration_error(prob, label, num_classes=count, n_bins=BINS)),
        reliability=_reliability(prob, label),
        groups=_by_group(predicted, label, group),
    )


def balanced_accuracy(predicted: Tensor, label: Tensor) -> float:
    """Average the recall of the classes that occur in ``label``; both of shape (n,), n > 0."""
    right = (predicted == label).float()
    return float(torch.stack([right[label == value].mean() for value in _values(label)]).mean())


def _values(codes: Tensor) -> list[int]:
    return sorted(set(codes.tolist()))


def _auc(prob: Tensor, label: Tensor) -> float | None:
    """Average one-versus-rest areas over the classes that have both sides."""
    areas = [
        binary_auroc(prob[:, value], (label == value).long())
        for value in _values(label)
        if (label != value).any()
    ]
    return float(torch.stack(areas).mean()) if areas else None


def _reliability(prob: Tensor, label: Tensor) -> tuple[ReliabilityBin, ...]:
    confidence, predicted = prob.max(dim=1)
    right = (predicted == label).double()
    edge = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    return tuple(
        ReliabilityBin(
            count=int((edge == index).sum()),
            confidence=float(confidence[edge == index].double().mean()),
            accuracy=float(right[edge == index].mean()),
        )
        for index in _values(edge)
    )


def _by_group(predicted: Tensor, label: Tensor, group: Sequence[str]) -> tuple[GroupResult, ...]:
    names, codes = np.unique(np.asarray(group, dtype=str), return_inverse=True)
    where = torch.from_numpy(codes)
    results = []
    for code, name in enumerate(names.tolist()):
        mine = where == code
        results.append(
            GroupResult(
                group=name,
                count=int(mine.sum()),
                accuracy=float((predicted[mine] == label[mine]).float().mean()),
                balanced_accuracy=balanced_accuracy(predicted[mine], label[mine]),
            )
        )
    return tuple(results)
