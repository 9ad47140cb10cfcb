"""CluSiam, CluBYOL and their ablations: the contract, the losses by hand, collapse, the target."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from wsi_models.losses.siamese import centroid_cosine, negative_cosine, straight_through
from wsi_models.methods import CluByol, CluByolConfig, CluSiam, CluSiamConfig, build_method
from wsi_models.methods.optimisation import CosineSgdConfig
from wsi_models.methods.siamese import SiameseMethod
from wsi_models.networks.description import build_network
from wsi_models.parts import draws
from wsi_models.parts.backbone import SmallConfig
from wsi_models.parts.collapse import clusters_in_use, embedding_spread
from wsi_models.parts.encoder import residual_network, silence_residuals
from wsi_models.recipe import load_recipe
from wsi_models.recipes import find_recipe
from wsi_models.views import SiameseViewConfig

from tests.contracts.method_contract import CLASSES, MethodContract

COMMON: dict[str, Any] = {
    "encoder": SmallConfig(),
    "views": SiameseViewConfig(patch_px=32, blur_px=(0.1, 0.5)),
    "optimisation": CosineSgdConfig(lr=0.05, epochs=10),
    "unlabelled_per_step": 6,
    "clusters": 5,
    "projected": 16,
    "predictor_hidden": 8,
    "cluster_hidden": 8,
}


class SiameseContract(MethodContract):
    """What is left of the contract for a method whose outputs are clusters."""

    def method(self) -> SiameseMethod:
        method = self.build()
        assert isinstance(method, SiameseMethod)
        return method

    def test_learns(self) -> None:
        """The same views, seen again and again, come to be more alike."""
        method = self.build()
        optimizer = method.optimizer()
        losses = [self.step(method, optimizer, _generator()).parts for _ in range(25)]
        assert losses[-1]["invariance"] < losses[0]["invariance"] - 0.3
        assert losses[-1]["total"] < losses[0]["total"]

    def test_average_moves(self) -> None:
        """What is evaluated is what is trained: there is no average."""
        method = self.method()
        before = copy.deepcopy(method.network.state_dict())
        self.step(method, method.optimizer(), torch.Generator().manual_seed(0))
        assert method.export_network() is method.network
        after = method.network.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)

    def test_it_is_judged_by_its_features_and_takes_no_labels(self) -> None:
        method = self.build()
        assert method.judged_by == "neighbours"
        assert method.labelled_per_step == 0
        assert method.output_names(("a", "b", "c")) == tuple(f"cluster {k}" for k in range(1, 6))

    def test_gradient_is_that_of_the_weighted_losses(self) -> None:
        """With alpha = 0 the clusters do not reach the encoder, and still learn themselves."""
        method = self.method()
        alone, batch = copy.deepcopy(method), self.unlabelled(method)
        assert batch is not None
        losses = method(self.labelled(method), batch, 1.0, _generator())
        alpha, parts = method.siamese.alpha, losses.parts
        expected = (1 - alpha) * parts["invariance"] + (alpha or 1.0) * parts["clustering"]
        assert parts["total"] == pytest.approx(expected, abs=1e-6)
        torch.autograd.backward(losses.total)
        assert any(bool(gradient.any()) for gradient in _gradients(method.network.assigner))

        generator = _generator()
        views = [alone.views.random(batch, generator) for _ in range(2)]
        features = [alone.network.features(view) for view in views]
        projections = [alone.network.project(found) for found in features]
        torch.autograd.backward(alone.invariance(views, projections))
        pairs = zip(
            _gradients(method.network.encoder), _gradients(alone.network.encoder), strict=True
        )
        same = all(torch.allclose(a, (1 - alpha) * b, atol=1e-7) for a, b in pairs)
        assert same == (alpha == 0)


class TestCluSiam(SiameseContract):
    config = CluSiamConfig(**COMMON)


class TestSimSiam(SiameseContract):
    config = CluSiamConfig(**COMMON, alpha=0.0)


class TestCluByol(SiameseContract):
    config = CluByolConfig(**COMMON)


class TestByol(SiameseContract):
    config = CluByolConfig(**COMMON, alpha=0.0)


def test_published_settings_are_the_defaults() -> None:
    siam, byol = CluSiamConfig(), CluByolConfig()
    assert siam.encoder.model_dump() == {"name": "resnet18", "weights": None}
    assert (siam.alpha, byol.alpha, siam.clusters, byol.clusters) == (0.5, 0.9, 100, 100)
    assert (siam.projected, siam.predictor_hidden, siam.cluster_hidden) == (2048, 512, 512)
    assert (byol.projected, byol.predictor_hidden, byol.cluster_hidden) == (256, 4096, 256)
    assert (byol.target_decay, siam.unlabelled_per_step) == (0.99, 512)
    chosen = siam.optimisation.settled(50)
    assert (chosen.lr, chosen.momentum, chosen.weight_decay, chosen.epochs) == (0.1, 0.9, 1e-4, 50)
    views = siam.views
    assert (views.patch_px, views.crop_share, views.blur_px) == (224, (0.2, 1.0), (0.1, 2.0))
    assert (views.rgb_jitter, views.hue_jitter) == (0.4, 0.1)
    assert (views.jitter_share, views.grey_share, views.blur_share) == (0.8, 0.2, 0.5)


def test_heads_have_the_published_shapes() -> None:
    method = CluSiam(CluSiamConfig(**COMMON | {"projected": 24}))
    network = method.network
    shapes = [tuple(p.shape) for p in network.projector.parameters()]
    # two hidden layers without bias but with scale and shift, then one with nothing to learn
    assert shapes == [(64, 64), (64,), (64,), (64, 64), (64,), (64,), (24, 64)]
    assert [tuple(p.shape) for p in method.predictor.parameters()] == [
        (8, 24), (8,), (8,), (24, 8), (24,),
    ]  # fmt: skip
    byol = CluByol(CluByolConfig(**COMMON))
    assert [tuple(p.shape) for p in byol.predictor.parameters()] == [
        (8, 16), (8,), (8,), (8,), (16, 8), (16,),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "default"), [("clusiam", CluSiamConfig()), ("clubyol", CluByolConfig())]
)
def test_the_examples_are_the_defaults(name: str, default: object) -> None:
    path = find_recipe(name)
    recipe = load_recipe(path)
    assert recipe.method == default
    assert recipe.train.epochs == 50


def test_weights_can_be_random_in_words() -> None:
    for name in ("resnet18", "efficientnet_lite0"):
        encoder = {"name": name, "weights": "random"}
        config = CluSiamConfig.model_validate({"encoder": encoder})
        assert config.encoder.model_dump()["weights"] is None


# losses


def test_negative_cosine_is_that_of_vectors_and_fixes_its_target() -> None:
    predicted = torch.tensor([[1.0, 0.0], [0.0, 3.0]], requires_grad=True)
    target = torch.tensor([[2.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = negative_cosine(predicted, target)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == pytest.approx(-0.5)
    assert target.grad is None
    assert predicted.grad is not None


@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_centroids_on_a_simplex_reach_the_lower_bound(count: int) -> None:
    corners = torch.eye(count) - 1 / count
    rows = corners.repeat(3, 1) * torch.arange(1, 3 * count + 1)[:, None]
    assignment = torch.eye(count).repeat(3, 1)
    assert float(centroid_cosine(rows, assignment)) == pytest.approx(-1 / (count - 1), abs=1e-6)


def test_a_single_cluster_costs_one_and_teaches_nothing() -> None:
    logits = torch.zeros((4, 3), requires_grad=True)
    noise = torch.tensor([5.0, 0.0, 0.0]).expand(4, 3)
    rows = torch.randn((4, 6), generator=_generator())
    loss = centroid_cosine(rows, straight_through(logits, noise))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 1
    assert logits.grad is not None
    assert not logits.grad.any()


def _naive(rows: Tensor, cluster: list[int]) -> float:
    """Compare centroids pair by pair, from the definition."""
    unit = [row / math.sqrt(float(row @ row)) for row in rows]
    centres = []
    for value in sorted(set(cluster)):
        members = [row for row, mine in zip(unit, cluster, strict=True) if mine == value]
        centres.append(sum(members[1:], members[0]) / len(members))
    pairs = [
        float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        for i, a in enumerate(centres)
        for b in centres[i + 1 :]
    ]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_centroid_cosine_is_that_of_all_pairs_of_used_clusters(seed: int) -> None:
    generator = _generator(seed)
    rows = torch.randn((20, 4), generator=generator, dtype=torch.float64)
    cluster = torch.randint(6, (20,), generator=generator) * 2  # odd clusters stay empty
    found = centroid_cosine(rows, functional.one_hot(cluster, 12).to(torch.float64))
    assert float(found) == pytest.approx(_naive(rows, cluster.tolist()), abs=1e-9)


def test_orthogonal_clusters_count_as_pairs() -> None:
    """Their cosine of zero is a value, not a missing one."""
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    cosine = float(centroid_cosine(rows, torch.eye(3)))
    assert cosine == pytest.approx((0 + 2 * math.sqrt(0.5)) / 3)


def test_gradient_reaches_the_logits_alone() -> None:
    rows = torch.randn((8, 4), generator=_generator(), requires_grad=True)
    logits = torch.randn((8, 3), generator=_generator(1), requires_grad=True)
    noise = draws.gumbel((8, 3), _generator(2), torch.device("cpu"))
    torch.autograd.backward(centroid_cosine(rows, straight_through(logits, noise)))
    assert rows.grad is None
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())
    assert bool(logits.grad.any())


def test_assignment_is_one_hot_with_the_gradient_of_softmax() -> None:
    logits = torch.randn((6, 4), generator=_generator(), dtype=torch.float64, requires_grad=True)
    noise = torch.randn((6, 4), generator=_generator(1), dtype=torch.float64)
    weight = torch.randn((6, 4), generator=_generator(2), dtype=torch.float64)
    assigned = straight_through(logits, noise)
    hard = functional.one_hot((logits + noise).argmax(dim=1), 4)
    torch.testing.assert_close(assigned.detach(), hard.to(torch.float64))
    (given,) = torch.autograd.grad((assigned * weight).sum(), logits)
    (expected,) = torch.autograd.grad(((logits + noise).softmax(dim=1) * weight).sum(), logits)
    torch.testing.assert_close(given, expected)


def test_noise_chooses_clusters_as_often_as_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    noise = draws.gumbel((20_000, 3), _generator(), torch.device("cpu"))
    share = straight_through(logits.expand(20_000, 3), noise).mean(dim=0)
    torch.testing.assert_close(share, logits.softmax(dim=0), atol=0.015, rtol=0)


# collapse


def test_spread_is_one_for_any_direction_and_zero_for_one() -> None:
    rows = torch.randn((4000, 32), generator=_generator())
    assert float(embedding_spread(rows)) == pytest.approx(1, abs=0.01)
    assert float(embedding_spread(rows[:1].expand(50, 32))) == pytest.approx(0, abs=1e-3)
    lengths = torch.arange(1, 4001)[:, None]
    assert float(embedding_spread(rows * lengths)) == pytest.approx(float(embedding_spread(rows)))


def test_clusters_in_use_are_those_that_win_a_row() -> None:
    logits = torch.tensor([[3.0, 0.0, 1.0], [2.0, 0.0, 1.0], [0.0, 0.0, 5.0]])
    assert int(clusters_in_use(logits)) == 2


HEALTHY = {"feature_spread": 0.4, "clusters": 7.0, "clusters_noisy": 60.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"feature_spread": 0.01}, "features hardly differ"),
        ({"clusters": 1.0}, "assignments are chance; raise alpha"),
        ({"clusters": 1.0, "clusters_noisy": 1.1}, "one output outgrew the others"),
    ],
)
def test_collapse_is_warned_of_with_what_to_do(
    changes: dict[str, float], words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        CluSiam(CluSiamConfig(**COMMON)).inspect(HEALTHY | changes)
    if words is None:
        assert not caplog.records
    else:
        assert words in caplog.text


# target, schedule, start


def test_target_is_the_average_of_encoder_and_projector_with_statistics_of_its_own() -> None:
    method = CluByol(CluByolConfig(**COMMON, target_decay=0.75))
    contract = TestCluByol()
    optimizer = method.optimizer()
    contract.step(method, optimizer, _generator())
    before = {name: p.clone() for name, p in method.target.network.named_parameters()}
    contract.step(method, optimizer, _generator())
    online = dict(method.online().named_parameters())
    for name, parameter in method.target.network.named_parameters():
        expected = 0.75 * before[name] + 0.25 * online[name]
        torch.testing.assert_close(parameter, expected.detach(), msg=name)
        assert not parameter.requires_grad
    counts = [b for n, b in method.target.network.named_buffers() if n.endswith("tracked")]
    assert {int(count) for count in counts} == {4}  # each step, one forward pass per view
    means = dict(method.online().named_buffers())
    differ = [
        not torch.equal(buffer, means[name])
        for name, buffer in method.target.network.named_buffers()
        if name.endswith("running_mean")
    ]
    assert any(differ)


@pytest.mark.parametrize("fixed", [True, False])
def test_rate_falls_along_half_a_cosine_but_for_the_predictor(fixed: bool) -> None:
    method = CluSiam(CluSiamConfig(**COMMON, fixed_predictor_lr=fixed))
    optimizer = method.optimizer()
    schedule = method.scheduler(optimizer, 3)
    assert not schedule.per_step
    rates = []
    for _ in range(12):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.rates.step()
    expected = [0.05 * (1 + math.cos(math.pi * min(k, 10) / 10)) / 2 for k in range(12)]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx([0.05] * 12 if fixed else expected)


def test_the_predictor_of_clubyol_follows_the_schedule() -> None:
    method = CluByol(CluByolConfig(**COMMON))
    optimizer = method.optimizer()
    schedule = method.scheduler(optimizer, 3)
    for _ in range(10):
        optimizer.step()
        schedule.rates.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0, 0])


def test_the_largest_clusters_come_first_and_get_colours_far_apart() -> None:
    method = CluSiam(CluSiamConfig(**COMMON))
    logits = functional.one_hot(torch.tensor([3, 3, 3, 1, 1, 4]), 5).float()
    for _ in range(3):
        method._count(logits)
    assert method.output_order() == [3, 1, 4, 0, 2]
    torch.testing.assert_close(method.use.sum(), torch.tensor(1 - 0.99**3))


def test_silent_residual_blocks_pass_their_shortcut() -> None:
    network = residual_network(3, layers=(1, 1, 1, 1), block_inplanes=(4, 4, 4, 4)).eval()
    silence_residuals(network)
    block = network.get_submodule("layer1.0")
    patches = torch.rand((2, 4, 8, 8), generator=_generator())
    torch.testing.assert_close(block(patches), patches)


def test_pretrained_encoders_are_not_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[nn.Module] = []
    monkeypatch.setattr("wsi_models.methods.siamese.silence_residuals", called.append)
    build_method(CluSiamConfig(**COMMON), CLASSES)
    assert len(called) == 1
    pretrained = COMMON | {"encoder": {"name": "efficientnet_lite0", "weights": "imagenet"}}
    config = CluSiamConfig(**pretrained)
    small = build_network(CluSiamConfig(**COMMON).network(), 5, 32)
    monkeypatch.setattr("wsi_models.methods.siamese.build_network", lambda *_: small)
    build_method(config, CLASSES)
    assert len(called) == 1


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]
