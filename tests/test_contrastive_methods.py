"""SimCLR, Barlow Twins, MoCo v3 and SwAV: the contract, and the losses written from the papers."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from wsi_models.losses.invariance import (
    balanced_codes,
    nt_xent,
    redundancy,
    swapped_prediction,
    tell_apart,
)
from wsi_models.methods import (
    BarlowConfig,
    MoCo,
    MoCoConfig,
    SimClrConfig,
    SwAV,
    SwavConfig,
    build_method,
)
from wsi_models.recipe import load_recipe
from wsi_models.recipes import find_recipe

from tests.contracts.method_contract import CLASSES
from tests.test_clustering_methods import COMMON, SiameseContract

Rows = NDArray[np.float64]
SHARED: dict[str, Any] = {key: COMMON[key] for key in COMMON if key != "predictor_hidden"}


class TestSimClr(SiameseContract):
    config = SimClrConfig(**SHARED)


class TestBarlowTwins(SiameseContract):
    config = BarlowConfig(**SHARED, scale=0.2)


class TestMoCo(SiameseContract):
    config = MoCoConfig(**COMMON, temperature=0.3)


class TestSwav(SiameseContract):
    config = SwavConfig(**SHARED, prototypes=12)


class TestSwavWithClusters(SiameseContract):
    config = SwavConfig(**SHARED, prototypes=12, alpha=0.5)


def views(seed: int, count: int = 5, width: int = 4) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(count, width))
    return first, first + 0.5 * rng.normal(size=(count, width))


def cosine(a: Rows, b: Rows) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def tensor(array: Rows) -> torch.Tensor:
    return torch.from_numpy(array)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.sampled_from([0.1, 0.5, 2.0]))
def test_simclr_is_its_equation(seed: int, temperature: float) -> None:
    first, second = views(seed)
    every = np.concatenate([first, second])
    losses = []
    for i in range(10):
        partner = (i + 5) % 10
        others = [math.exp(cosine(every[i], every[a]) / temperature) for a in range(10) if a != i]
        own = math.exp(cosine(every[i], every[partner]) / temperature)
        losses.append(-math.log(own / sum(others)))

    assert float(nt_xent(tensor(first), tensor(second), temperature)) == pytest.approx(
        np.mean(losses)
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), weight=st.sampled_from([0.0, 0.0051, 1.0]))
def test_barlow_twins_is_its_equation(seed: int, weight: float) -> None:
    first, second = ((view - view.mean(axis=0)) / view.std(axis=0) for view in views(seed, count=7))
    loss = 0.0
    for i in range(4):
        for j in range(4):
            correlation = sum(first[b, i] * second[b, j] for b in range(7)) / 7
            loss += (1 - correlation) ** 2 if i == j else weight * correlation**2

    assert float(redundancy(tensor(first), tensor(second), weight)) == pytest.approx(loss)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.sampled_from([0.2, 1.0]))
def test_moco_is_its_equation(seed: int, temperature: float) -> None:
    query, key = views(seed)
    losses = []
    for i in range(5):
        exps = [math.exp(cosine(query[i], key[j]) / temperature) for j in range(5)]
        losses.append(-math.log(exps[i] / sum(exps)))

    found = tell_apart(tensor(query), tensor(key), temperature)

    assert float(found) == pytest.approx(2 * temperature * float(np.mean(losses)))


def test_no_gradient_reaches_the_keys() -> None:
    query, key = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    tell_apart(query, key, 0.2).backward()  # type: ignore[no-untyped-call] # of torch
    assert key.grad is None
    assert query.grad is not None


def test_codes_use_all_prototypes_alike() -> None:
    scores = torch.rand(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores[:, 0] += 3  # nearly everything likes the first

    codes = balanced_codes(scores, epsilon=0.5, rounds=60)

    torch.testing.assert_close(codes.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 10.0, dtype=torch.float64))


def test_codes_are_those_of_the_published_loop() -> None:
    scores = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q = np.exp(scores.numpy() / 0.05).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True)
        q /= 3
        q /= q.sum(axis=0, keepdims=True)
        q /= 6

    np.testing.assert_allclose(balanced_codes(scores, 0.05, 3).numpy(), (q * 6).T)


def test_swav_predicts_the_code_of_the_other_view() -> None:
    rng = np.random.default_rng(2)
    scores, codes = rng.normal(size=(2, 5, 3)), rng.dirichlet(np.ones(3), size=(2, 5))
    loss = 0.0
    for own, other in ((0, 1), (1, 0)):
        for i in range(5):
            exps = [math.exp(scores[own, i, k] / 0.1) for k in range(3)]
            for k in range(3):
                loss -= codes[other, i, k] * math.log(exps[k] / sum(exps)) / 5 / 2

    found = swapped_prediction(list(map(tensor, scores)), list(map(tensor, codes)), 0.1)

    assert float(found) == pytest.approx(loss)


def test_prototypes_have_unit_length_and_rest_at_first() -> None:
    method = build_method(SwavConfig(**SHARED, prototypes=12), CLASSES)
    assert isinstance(method, SwAV)
    contract, optimizer = TestSwav(), method.optimizer()
    (prototypes,) = [p for name, p in method.named_parameters() if name.startswith("predictor")]
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(12))
    batch = contract.unlabelled(method)

    for clock, moves in ((1.5, False), (2.0, True)):
        before = copy.deepcopy(prototypes.detach())
        optimizer.zero_grad()
        losses = method(contract.labelled(method), batch, clock, torch.Generator().manual_seed(0))
        losses.total.backward()
        optimizer.step()
        method.after_step()
        assert torch.allclose(before, prototypes, atol=1e-6) != moves
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(12))


def test_the_target_of_moco_comes_to_rest() -> None:
    method = build_method(MoCoConfig(**COMMON), CLASSES)
    assert isinstance(method, MoCo)

    decays = [method.decay_at(clock) for clock in (1.0, 6.0, 11.0, 12.0)]

    assert decays == pytest.approx([0.99, 0.995, 1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("simclr", SimClrConfig()),
        ("barlow", BarlowConfig()),
        ("mocov3", MoCoConfig()),
        ("swav", SwavConfig()),
    ],
)
def test_the_examples_are_the_defaults(name: str, default: object) -> None:
    assert load_recipe(find_recipe(name)).method == default
