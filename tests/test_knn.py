"""Nearest neighbours: those of a naive search, in any chunks, by direction alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from wsi_models.knn import TEMPERATURE, References, neighbour_logits
from wsi_models.metrics import evaluate_logits


def _drawn(queries: int, references: int, seed: int) -> tuple[Tensor, References]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn((references, 6), generator=generator)
    label = torch.randint(4, (references,), generator=generator)
    return torch.randn((queries, 6), generator=generator), References(features, label, 5)


def _cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def _naive(query: Tensor, references: References) -> int:
    """Go through all references and keep the class of the most similar one."""
    best, found = -math.inf, -1
    for features, label in zip(references.features, references.label.tolist(), strict=True):
        cosine = _cosine(query, features)
        if cosine > best:
            best, found = cosine, label
    return found


@settings(deadline=None, max_examples=30)
@given(
    queries=st.integers(1, 9),
    references=st.integers(1, 23),
    chunk=st.integers(1, 25),
    seed=st.integers(0, 1000),
)
def test_the_class_is_that_of_a_naive_search(
    queries: int, references: int, chunk: int, seed: int
) -> None:
    rows, known = _drawn(queries, references, seed)
    logits = neighbour_logits(rows, known, chunk=chunk)
    assert logits.shape == (queries, 5)
    assert logits.argmax(dim=1).tolist() == [_naive(row, known) for row in rows]


def test_chunks_change_nothing() -> None:
    rows, known = _drawn(50, 200, 0)
    whole = neighbour_logits(rows, known, chunk=1000)
    for chunk in (1, 7, 50):
        torch.testing.assert_close(neighbour_logits(rows, known, chunk=chunk), whole)


def test_a_logit_is_the_greatest_cosine_of_its_class() -> None:
    rows, known = _drawn(4, 30, 1)
    logits = neighbour_logits(rows, known) * TEMPERATURE
    for row, found in zip(rows, logits, strict=True):
        for value in range(4):
            members = known.features[known.label == value]
            expected = max(_cosine(row, member) for member in members)
            assert float(found[value]) == pytest.approx(expected, abs=1e-5)
    assert (logits[:, 4] == -1).all()  # nothing has the fifth class


def test_length_does_not_matter() -> None:
    rows, known = _drawn(10, 40, 2)
    stretched = References(
        known.features * torch.arange(1.0, 41)[:, None], known.label, known.classes
    )
    torch.testing.assert_close(neighbour_logits(7 * rows, stretched), neighbour_logits(rows, known))


def test_a_reference_finds_itself() -> None:
    _, known = _drawn(0, 60, 3)
    assert torch.equal(neighbour_logits(known.features, known).argmax(dim=1), known.label)


def test_half_precision_is_compared_in_full() -> None:
    rows, known = _drawn(10, 40, 4)
    halved = References(known.features.bfloat16(), known.label, known.classes)
    logits = neighbour_logits(rows.bfloat16(), halved)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, neighbour_logits(rows, known), atol=0.2, rtol=0)


def test_no_query_gives_no_row() -> None:
    rows, known = _drawn(0, 5, 0)
    assert neighbour_logits(rows, known).shape == (0, 5)


def test_the_f1_of_neighbours_is_that_of_their_classes() -> None:
    features = torch.eye(3)
    known = References(features, torch.tensor([0, 1, 2]), 3)
    queries = features[torch.tensor([0, 0, 1, 2])]
    label = torch.tensor([0, 1, 1, 2])  # the second is taken for class 0
    figures = evaluate_logits(
        neighbour_logits(queries, known), label, list("aabb"), ("x", "y", "z")
    )
    assert figures.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert figures.accuracy == 0.75


@pytest.mark.parametrize(
    ("features", "label", "match"),
    [
        (torch.zeros((2, 3)), torch.zeros(3, dtype=torch.int64), r"\(2, 3\) and label \(3,\)"),
        (torch.zeros((0, 3)), torch.zeros(0, dtype=torch.int64), "at least one labelled"),
        (torch.zeros((1, 3)), torch.tensor([-1]), "go from -1 to -1; they must be classes 0 to 1"),
        (torch.zeros((1, 3)), torch.tensor([2]), "go from 2 to 2"),
    ],
)
def test_references_that_do_not_fit_are_refused(
    features: Tensor, label: Tensor, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        References(features, label, 2)
