"""Figures of a classifier against worked examples and naive formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wsi_models.errors import TrainingError
from wsi_models.evaluate import describe, write_evaluation
from wsi_models.metrics import BINS, balanced_accuracy, evaluate_logits

CLASSES = ("normal", "cancer", "necrosis")


def make_predictions(seed: int, n: int = 60) -> tuple[Tensor, Tensor, list[str]]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    logits = rng.normal(0, 1, (n, 3)) + 1.5 * np.eye(3)[label]
    return (
        torch.from_numpy(logits).float(),
        torch.from_numpy(label),
        [f"slide-{value}" for value in rng.integers(0, 4, n)],
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_figures_agree_with_the_formulas(seed: int) -> None:
    logits, label, group = make_predictions(seed)
    found = evaluate_logits(logits, label, group, CLASSES)
    prob = torch.softmax(logits.double(), 1).numpy()
    truth, predicted = label.numpy(), prob.argmax(1)
    confusion = np.zeros((3, 3), dtype=int)
    for t, p in zip(truth, predicted, strict=True):
        confusion[t, p] += 1
    assert np.array_equal(found.confusion, confusion)
    recall = np.diag(confusion) / confusion.sum(1)
    assert found.recall == pytest.approx(recall)
    assert found.balanced_accuracy == pytest.approx(recall.mean())
    f1 = 2 * np.diag(confusion) / (confusion.sum(0) + confusion.sum(1))
    assert found.macro_f1 == pytest.approx(f1.mean())
    areas = []
    for value in range(3):
        positive, negative = prob[truth == value, value], prob[truth != value, value]
        wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
        areas.append(wins)
    assert found.auc == pytest.approx(np.mean(areas), abs=1e-4)
    confidence, right = prob.max(1), predicted == truth
    ece = 0.0
    for k in range(BINS):
        inside = (confidence > k / BINS) & (confidence <= (k + 1) / BINS)
        if inside.any():
            ece += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert found.ece == pytest.approx(ece, abs=1e-5)
    drawn = sum(
        item.count / found.count * abs(item.confidence - item.accuracy)
        for item in found.reliability
    )
    assert drawn == pytest.approx(found.ece, abs=1e-5)
    assert sum(item.count for item in found.groups) == found.count == 60
    mean = sum(item.count * item.accuracy for item in found.groups) / 60
    assert mean == pytest.approx(found.accuracy)


def test_absent_classes_are_named_and_left_out() -> None:
    logits = torch.tensor([[5.0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5]])
    label = torch.tensor([0, 0, 1, 1])
    found = evaluate_logits(logits, label, ["a", "a", "a", "b"], CLASSES)
    assert found.absent == ("necrosis",)
    assert found.recall == (1.0, 0.5, None)
    assert found.balanced_accuracy == 0.75
    assert found.macro_f1 == pytest.approx((1 + 2 / 3) / 2)
    assert [item.accuracy for item in found.groups] == [1.0, 0.0]
    assert "left out of averages: necrosis" in describe(found, "title")


def test_a_single_class_has_no_auc() -> None:
    found = evaluate_logits(torch.eye(3)[[1, 1]], torch.tensor([1, 1]), ["a", "a"], CLASSES)
    assert found.auc is None
    assert "auc" not in found.headline()
    assert found.balanced_accuracy == 1.0


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(TrainingError, match="no labelled patch"):
        evaluate_logits(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), [], CLASSES)


def test_balanced_accuracy_weighs_classes_equally() -> None:
    label = torch.tensor([0] * 98 + [1, 1])
    assert balanced_accuracy(torch.zeros(100, dtype=torch.int64), label) == 0.5


def test_the_report_has_text_figures_and_a_picture(tmp_path: Path) -> None:
    logits, label, group = make_predictions(1)
    found = evaluate_logits(logits, label, group, CLASSES)
    files = write_evaluation(found, tmp_path, title="a title")
    values = json.loads(files["json"].read_text())
    assert math.isclose(values["balanced_accuracy"], found.balanced_accuracy)
    text = files["md"].read_text()
    assert text.startswith("# a title\n")
    assert f"| balanced accuracy | {found.balanced_accuracy:.4f} |" in text
    assert "| slide-3 |" in text
    assert files["png"].read_bytes()[:4] == b"\x89PNG"
