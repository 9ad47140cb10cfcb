"""TEAR fulfils the contract, is FixMatch without its parts, and its parts equal their equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from wsi_models.losses.prototypes import prototype_distance
from wsi_models.methods import FixMatch, FixMatchConfig, Losses, Tear, TearConfig, build_method
from wsi_models.methods.optimisation import OptimisationConfig, build_optimizer
from wsi_models.parts.alignment import DistributionAlignment
from wsi_models.parts.backbone import SmallConfig
from wsi_models.parts.clustering import cluster_directions
from wsi_models.parts.relaxation import (
    Distance,
    RelaxationConfig,
    disagreement,
    label_weight,
    relax,
)
from wsi_models.recipe import load_recipe
from wsi_models.recipes import find_recipe
from wsi_models.views import RgbViewConfig

from tests.contracts.method_contract import CLASSES, MethodContract
from tests.tiny_patches import tiny_batch

FAST = OptimisationConfig(name="adam", lr=3e-3, weight_decay=0.0, schedule="constant", clip=1.0)
SETTINGS: dict[str, Any] = {
    "encoder": SmallConfig(),
    "views": RgbViewConfig(patch_px=32),
    "optimisation": FAST,
    "ema_decay": 0.5,
    "labelled_per_step": 6,
    "unlabelled_per_step": 4,
    "threshold": 0.5,
}
BASE: dict[str, Any] = {"alignment": False, "adapl": False, "iph": False}


def _tear(**changes: Any) -> TearConfig:
    return TearConfig(**(SETTINGS | changes))


class TestTear(MethodContract):
    config = _tear()


class TestAlignmentAlone(MethodContract):
    config = _tear(**(BASE | {"alignment": True}))


class TestAdaPLAlone(MethodContract):
    config = _tear(**(BASE | {"adapl": True}), own_view=False)


class TestIPHAlone(MethodContract):
    config = _tear(**(BASE | {"iph": True}))


class TestFixMatchBase(MethodContract):
    config = _tear(**BASE)


def test_published_settings_are_the_defaults() -> None:
    config = TearConfig().settled(256)
    assert (config.threshold, config.unlabelled_weight, config.prototype_weight) == (0.95, 1, 0.1)
    assert (config.ema_decay, config.ema_buffers) == (0.999, "copy")
    chosen = config.optimisation
    assert (chosen.name, chosen.lr, chosen.momentum, chosen.weight_decay, chosen.clip) == (
        "sgd", 1e-3, 0.9, 5e-4, 1.0,
    )  # fmt: skip
    assert (chosen.schedule, chosen.cosine_epochs) == ("cosine", 256)
    assert config.relaxation == RelaxationConfig(distance="mse", gamma=1, min_weight=0.5)


def test_every_choice_is_described() -> None:
    for config in (TearConfig, RelaxationConfig):
        for name, field in config.model_fields.items():
            assert field.description, name


def test_without_its_parts_it_is_fixmatch_bit_for_bit() -> None:
    """Same steps, losses, pseudo-labels, states and draws, over several steps."""
    fixmatch = _twin(FixMatchConfig(**SETTINGS))
    tear = _twin(_tear(**BASE))
    assert fixmatch[1:] == tear[1:]
    for name, tensor in fixmatch[0].items():
        assert torch.equal(tensor, tear[0][name]), name
    assert fixmatch[0].keys() == tear[0].keys()


def _twin(config: FixMatchConfig | TearConfig) -> tuple[Any, ...]:
    method, generator = _built(config), _generator()
    optimizer = method.optimizer()
    steps = [TestTear().step(method, optimizer, generator) for _ in range(4)]
    reports = [
        (losses.parts["total"], losses.parts["consistency"], _labels(losses)) for losses in steps
    ]
    return method.state_dict(), reports, generator.get_state().tolist()


def _labels(losses: Losses) -> list[int]:
    assert losses.pseudo is not None
    return losses.pseudo.tolist()


def test_adapl_is_fixmatch_exactly_without_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """An average that gives the very same predictions leaves every label as it is."""
    tear, fixmatch = _built(_tear(**(BASE | {"adapl": True}))), _built(FixMatchConfig(**SETTINGS))
    assert isinstance(tear, Tear)

    def agree(prob: Tensor, previous: Tensor, distance: Distance) -> Tensor:
        return disagreement(prob, prob, distance)

    monkeypatch.setattr("wsi_models.methods.tear.disagreement", agree)
    results = [
        method.training_step(
            tiny_batch(CLASSES, 2), TestTear().unlabelled(method), 16.0, _generator()
        )
        for method in (tear, fixmatch)
    ]
    assert torch.equal(results[0].total, results[1].total)
    assert _labels(results[0]) == _labels(results[1])
    assert results[0].parts["pseudo_weight"] == 1
    for losses in results:
        losses.total.backward()  # type: ignore[no-untyped-call]
    for mine, theirs in zip(tear.network.parameters(), fixmatch.network.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_step_equals_its_equations() -> None:
    """Aligned pseudo-labels, relaxed by the average's own view; prototypes of its clusters."""
    method = _built(_tear(threshold=0.4))
    assert isinstance(method, Tear)
    # a network and an average that differ
    optimizer = method.optimizer()
    for seed in range(3):
        TestTear().step(method, optimizer, _generator(seed))
    assert method.alignment is not None
    assert method.previous_alignment is not None
    memories = [
        alignment.means.clone().double()
        for alignment in (method.alignment, method.previous_alignment)
    ]
    labelled, unlabelled = tiny_batch(CLASSES, 2), TestTear().unlabelled(method)
    assert unlabelled is not None

    generator = _generator(7)
    views = [
        method.views.random(labelled, generator),
        method.views.random(unlabelled, generator),
        method.views.strong(unlabelled, generator, (0.3, 1.3)),
    ]
    second = method.views.random(unlabelled, generator)
    with torch.no_grad():
        features = method.network.train().features(torch.cat(views))
        before = method.ema.network.features(second)
        prob = method.network.head(features).double().softmax(dim=1)
        old = method.ema.network.head(before).double().softmax(dim=1)
    aligned = []
    for p, memory in zip((prob[6:10], old), memories, strict=True):
        mean = torch.cat([p.mean(dim=0, keepdim=True), memory[:3]]).mean(dim=0)
        aligned.append(p / mean / (p / mean).sum(dim=1, keepdim=True))
    weak, previous = aligned
    consistency, weights = 0.0, []
    for i in range(4):
        estimate = sum((weak[i, c] - previous[i, c]) ** 2 for c in range(CLASSES))
        w = max(0.5, 1 - (2 / (1 + math.exp(-float(estimate))) - 1))
        weights.append(w)
        best = int(weak[i].argmax())
        target = [w if c == best else (1 - w) / (CLASSES - 1) for c in range(CLASSES)]
        if float(weak[i].max()) >= 0.4:
            consistency -= sum(target[c] * math.log(prob[10 + i, c]) for c in range(CLASSES)) / 4
    cluster = cluster_directions(before, CLASSES, generator)
    prototypes = prototype_oracle(features[6:10].double(), before.double(), cluster.tolist())
    supervised = -sum(math.log(prob[i, int(labelled.label[i])]) for i in range(6)) / 6

    losses = method.training_step(labelled, unlabelled, 1.0, _generator(7))
    parts = losses.parts
    assert min(weights) < 1
    assert consistency > 0
    assert parts["supervised"] == pytest.approx(supervised, rel=1e-4)
    assert parts["consistency"] == pytest.approx(consistency, rel=1e-4)
    assert parts["prototypes"] == pytest.approx(prototypes, rel=1e-3, abs=1e-6)
    assert parts["pseudo_weight"] == pytest.approx(sum(weights) / 4, rel=1e-4)
    assert parts["total"] == pytest.approx(supervised + consistency + 0.1 * prototypes, rel=1e-4)


def test_relaxed_labels_stop_the_gradient() -> None:
    """With nothing to learn from strong views, the network learns from labelled ones alone."""
    config = _tear(**(BASE | {"adapl": True}), unlabelled_weight=0.0)
    gradients = []
    for chosen in (config, config.model_copy(update={"relaxation": RelaxationConfig(gamma=9)})):
        method = _built(chosen)
        losses = method.training_step(
            tiny_batch(CLASSES, 2), TestTear().unlabelled(method), 16.0, _generator()
        )
        losses.total.backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in method.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_example_recipe_has_the_published_settings() -> None:
    recipe = load_recipe(find_recipe("tear"))
    assert isinstance(recipe.method, TearConfig)
    views = RgbViewConfig(patch_px=128, rotation="quarter")
    assert recipe.method == TearConfig(views=views, labelled_per_step=63, unlabelled_per_step=441)
    assert (recipe.train.epochs, recipe.train.iterations) == (256, 55)


def test_too_few_patches_to_cluster_are_refused() -> None:
    with pytest.raises(ValueError, match="unlabelled_per_step is 2, too few for 3 clusters"):
        _built(_tear(unlabelled_per_step=2))
    assert _built(_tear(unlabelled_per_step=2, iph=False)).unlabelled_per_step == 2


Probabilities = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None)
@given(now=Probabilities, then=Probabilities, distance=st.sampled_from(["mse", "kl", "emd"]))
def test_disagreement_is_a_distance(
    now: list[float], then: list[float], distance: Distance
) -> None:
    p, q = (torch.tensor([v], dtype=torch.float64) / sum(v) for v in (now, then))
    pairs = list(zip(p[0].tolist(), q[0].tolist(), strict=True))
    expected = {
        "mse": sum((a - b) ** 2 for a, b in pairs),
        "kl": sum(b * math.log(b / a) for a, b in pairs),
        "emd": sum(abs(a - b) for a, b in pairs) / 2,
    }[distance]
    found = disagreement(p, q, distance)
    assert float(found) == pytest.approx(expected, abs=1e-6)
    assert float(found) >= 0
    assert float(disagreement(p, p, distance)) == 0


def test_disagreement_is_finite_where_a_class_is_impossible() -> None:
    p, q = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert [float(disagreement(p, q, name)) for name in ("mse", "emd")] == [2, 1]
    assert 10 < float(disagreement(p, q, "kl")) < 100


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(0, 5),
    more=st.floats(0, 5),
    gamma=st.floats(0.1, 10),
    floor=st.floats(0.0, 1.0),
    classes=st.integers(2, 9),
)
def test_more_disagreement_gives_flatter_labels(
    low: float, more: float, gamma: float, floor: float, classes: int
) -> None:
    config = RelaxationConfig(gamma=gamma, min_weight=floor)
    weight = label_weight(torch.tensor([low, low + more], dtype=torch.float64), config)
    assert 1 >= float(weight[0]) >= float(weight[1]) >= floor
    label = torch.tensor([classes - 1, 0])
    target = relax(label, weight, classes)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert bool((target >= 0).all())
    for row, own, share in zip(target, label, weight, strict=True):
        others = [float(value) for c, value in enumerate(row) if c != int(own)]
        assert max(others) - min(others) < 1e-12
        if float(share) > 1 / classes + 1e-9:
            assert int(row.argmax()) == int(own)


def test_labels_without_disagreement_are_one_hot_exactly() -> None:
    weight = label_weight(torch.zeros(3), RelaxationConfig())
    assert torch.equal(weight, torch.ones(3))
    assert torch.equal(relax(torch.arange(3), weight, 4), functional.one_hot(torch.arange(3), 4))


def prototype_oracle(features: Tensor, reference: Tensor, cluster: list[int]) -> float:
    """One cluster at a time, with the cosine from its definition."""
    distances = []
    for k in set(cluster):
        own = [i for i, c in enumerate(cluster) if c == k]
        if len(own) < 2:
            continue
        a, b = (sum(x[i] / x[i].norm() for i in own) / len(own) for x in (features, reference))
        assert isinstance(a, Tensor)
        assert isinstance(b, Tensor)
        distances.append(1 - float(a @ b / (a.norm() * b.norm())))
    return sum(distances) / len(distances) if distances else 0.0


@settings(max_examples=40, deadline=None)
@given(
    cluster=st.lists(st.integers(0, 3), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    order=st.permutations(range(4)),
)
def test_prototypes_equal_their_equation_whatever_the_order_of_clusters(
    cluster: list[int], seed: int, order: list[int]
) -> None:
    generator = _generator(seed)
    a, b = (
        torch.randn(len(cluster), 5, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    found = prototype_distance(a, b, torch.tensor(cluster), 4)
    assert float(found) == pytest.approx(prototype_oracle(a, b, cluster), abs=1e-9)
    renamed = torch.tensor([order[k] for k in cluster])
    torch.testing.assert_close(prototype_distance(a, b, renamed, 4), found)
    assert float(prototype_distance(a, 3 * a, torch.tensor(cluster), 4)) == pytest.approx(
        0, abs=1e-12
    )


def test_prototypes_of_the_average_get_no_gradient() -> None:
    a, b = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4, requires_grad=True)
    prototype_distance(a, b, torch.tensor([0, 0, 1, 1, 1, 2]), 3).backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert b.grad is None
    # the only patch of its cluster counts for nothing
    assert bool(a.grad[:5].any(dim=1).all())
    assert not a.grad[5].any()


def test_clusters_are_those_that_directions_form() -> None:
    generator = _generator()
    truth = torch.arange(40) % 4
    centres = functional.normalize(torch.randn(4, 8, generator=generator), dim=1)
    vectors = centres[truth] + 0.05 * torch.randn(40, 8, generator=generator)
    vectors = vectors * (1 + 9 * torch.rand(40, 1, generator=generator))
    found = cluster_directions(vectors, 4, generator)
    pairs = set(zip(truth.tolist(), found.tolist(), strict=True))
    assert len(pairs) == 4
    assert {k for _, k in pairs} == {0, 1, 2, 3}


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 1000))
def test_vectors_are_in_the_cluster_of_the_closest_centre(count: int, seed: int) -> None:
    """Once centres rest, each vector is closer to its own than to any other."""
    vectors = torch.randn(30, 4, generator=_generator(seed))
    found = cluster_directions(vectors, count, _generator(seed), rounds=200)
    assert torch.equal(found, cluster_directions(vectors, count, _generator(seed), rounds=200))
    unit = functional.normalize(vectors, dim=1)
    present = torch.tensor(sorted(set(found.tolist())))
    centres = torch.stack(
        [functional.normalize(unit[found == k].sum(dim=0), dim=0) for k in present]
    )
    cosine = unit @ centres.T
    own = cosine.gather(1, torch.searchsorted(present, found)[:, None])[:, 0]
    assert bool((own >= cosine.amax(dim=1) - 1e-5).all())


def test_equal_vectors_are_one_cluster_and_too_few_are_refused() -> None:
    same = torch.ones(5, 3)
    assert len(set(cluster_directions(same, 3, _generator()).tolist())) == 1
    with pytest.raises(ValueError, match="5 vectors cannot be divided into 6 clusters"):
        cluster_directions(same, 6, _generator())


@settings(max_examples=20, deadline=None)
@given(batches=st.integers(1, 7), seed=st.integers(0, 1000))
def test_alignment_divides_by_the_mean_of_the_latest_batches(batches: int, seed: int) -> None:
    generator = _generator(seed)
    alignment = DistributionAlignment(3, batches=4)
    drawn = [torch.rand(5, 3, generator=generator).softmax(dim=1) for _ in range(batches)]
    for prob in drawn:
        alignment.update(prob)
    mean = torch.stack([prob.mean(dim=0) for prob in drawn[-4:]]).mean(dim=0)
    expected = drawn[-1] / mean
    expected = expected / expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(alignment(drawn[-1]), expected)


def test_alignment_evens_out_a_class_predicted_too_often() -> None:
    alignment = DistributionAlignment(2)
    prob = torch.tensor([[0.9, 0.1], [0.7, 0.3]])
    alignment.update(prob)
    assert alignment(prob).argmax(dim=1).tolist() == [0, 1]


def test_clipped_gradients_move_weights_by_no_more_than_the_rate() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    before = layer.weight.detach().clone()
    config = OptimisationConfig(name="sgd", lr=0.1, momentum=0, weight_decay=0, clip=1.0)
    optimizer = build_optimizer(config, layer)
    layer(torch.tensor([[1000.0, 0.5]])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(before - layer.weight.detach(), torch.tensor([[0.1, 0.05]]))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _built(config: FixMatchConfig | TearConfig) -> FixMatch | Tear:
    torch.manual_seed(0)
    method = build_method(config, CLASSES)
    assert isinstance(method, FixMatch | Tear)
    return method
