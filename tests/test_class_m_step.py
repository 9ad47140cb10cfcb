"""One step of CLASS-M equals its equations, written out patch by patch, in losses and gradients."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from wsi_models.losses.contrastive import default_margin, roll_triplet
from wsi_models.methods import Batch, ClassM, ClassMConfig
from wsi_models.methods.mixing import MixingConfig, ramp
from wsi_models.parts.backbone import SmallConfig
from wsi_models.parts.interleave import interleave
from wsi_models.parts.mixup import draw_mix
from wsi_models.views import Normalisation, StainViewConfig

from tests.tiny_patches import tiny_batch, without_labels

if TYPE_CHECKING:
    from wsi_models.networks.class_m import ClassMNetwork

CLASSES, LABELLED, UNLABELLED = 3, 33, 31
TOTAL = LABELLED + 2 * UNLABELLED

CHUNKS = (
    [*range(11), *range(44, 55), *range(88, 95)],
    [*range(33, 44), *range(11, 22), *range(55, 66)],
    [*range(66, 77), *range(77, 88), *range(22, 33)],
)
"""Members of the three interleaved chunks: (29, 33, 33) patches, 11 labelled ones in each."""


@dataclass(frozen=True)
class Terms:
    """The three losses of a step, their sum, and the pseudo-labels before sharpening."""

    supervised: Tensor
    consistency: Tensor
    contrastive: Tensor
    total: Tensor
    prob: Tensor


def naive_step(
    network: ClassMNetwork,
    views: tuple[Tensor, Tensor, Tensor],
    labels: Tensor,
    draws: tuple[float, Tensor, Tensor],
    weight: float,
) -> Terms:
    """Write out equations of methods one patch and one class at a time; margin 37/32 sqrt(2 d)."""
    lam, partner, order = draws
    labelled, first, second = views
    with torch.no_grad():
        logits_1, logits_2 = network(first).logits, network(second).logits
    prob = torch.zeros(UNLABELLED, CLASSES, dtype=torch.float64)
    soft = torch.zeros(UNLABELLED, CLASSES, dtype=torch.float64)
    for i in range(UNLABELLED):
        for c in range(CLASSES):
            prob[i, c] = 0.5 * (_softmax(logits_1[i])[c] + _softmax(logits_2[i])[c])
        squares = [float(prob[i, c]) ** (1 / 0.5) for c in range(CLASSES)]
        for c in range(CLASSES):
            soft[i, c] = squares[c] / sum(squares)

    items = [*labelled, *first, *second]
    targets = [_one_hot(int(label)) for label in labels] + [*soft, *soft]
    mixed = [lam * items[i] + (1 - lam) * items[int(partner[i])] for i in range(TOTAL)]
    goals = [lam * targets[i] + (1 - lam) * targets[int(partner[i])] for i in range(TOTAL)]

    logits: dict[int, Tensor] = {}
    for members in CHUNKS:
        rows = network.classify(torch.stack([mixed[i] for i in members]))
        logits |= dict(zip(members, rows, strict=True))
    supervised = (
        -sum(
            goals[i][c] * torch.log(_softmax(logits[i])[c])
            for i in range(LABELLED)
            for c in range(CLASSES)
        )
        / LABELLED
    )
    consistency = sum(
        (_softmax(logits[i])[c] - goals[i][c]) ** 2
        for i in range(LABELLED, TOTAL)
        for c in range(CLASSES)
    ) / (2 * UNLABELLED * CLASSES)

    output = network(torch.stack([mixed[int(i)] for i in order]))
    margin = 37 / 32 * math.sqrt(2 * output.z_h.shape[1])
    contrastive = torch.zeros((), dtype=torch.float64)
    for i in range(TOTAL):
        near = (output.z_h[i] - output.z_e[i]).pow(2).sum().sqrt()
        far = (output.z_h[i] - output.z_e[(i - 1) % TOTAL]).pow(2).sum().sqrt()
        contrastive = contrastive + torch.relu(near - far + margin)
    assert isinstance(supervised, Tensor)
    assert isinstance(consistency, Tensor)
    total = supervised + weight * consistency + 0.001 * contrastive
    return Terms(supervised, consistency, contrastive, total, prob)


def _softmax(logits: Tensor) -> list[Tensor]:
    exponentials = [torch.exp(value) for value in logits]
    return [value / torch.stack(exponentials).sum() for value in exponentials]


def _one_hot(label: int) -> Tensor:
    return torch.tensor([float(c == label) for c in range(CLASSES)], dtype=torch.float64)


@pytest.fixture(scope="module")
def method() -> ClassM:
    """CLASS-M on a small network, in double precision."""
    torch.manual_seed(0)
    config = ClassMConfig(encoder=SmallConfig(), views=StainViewConfig(patch_px=32))
    normalisation = Normalisation(mean=(0.2, 0.2), std=(0.15, 0.15))
    return ClassM(config, CLASSES, normalisation).double()


@pytest.fixture(scope="module")
def batches() -> tuple[Batch, Batch]:
    batch = without_labels(tiny_batch(CLASSES, 11, seed=1))
    unlabelled = Batch(batch.rgb[:31], batch.unmix[:31], batch.label[:31])
    return tiny_batch(CLASSES, 11), unlabelled


def test_step_equals_its_equations(method: ClassM, batches: tuple[Batch, Batch]) -> None:
    """Losses to 1e-5, gradients to 1e-4; running statistics agree too."""
    fast, slow = copy.deepcopy(method), copy.deepcopy(method.network).train()
    labelled, unlabelled = batches
    clock = 3.25
    losses = fast.training_step(labelled, unlabelled, clock, torch.Generator().manual_seed(5))
    torch.autograd.backward(losses.total)

    generator = torch.Generator().manual_seed(5)
    views = (
        method.views.random(labelled, generator),
        method.views.random(unlabelled, generator),
        method.views.random(unlabelled, generator),
    )
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    drawn = np.random.default_rng(seed).beta(0.75, 0.75)
    partner = torch.randperm(TOTAL, generator=generator)
    order = torch.randperm(TOTAL, generator=generator)
    terms = naive_step(
        slow,
        views,
        labelled.label,
        (max(drawn, 1 - drawn), partner, order),
        7.5 * clock / 16,
    )
    torch.autograd.backward(terms.total)

    for name in ("supervised", "consistency", "contrastive", "total"):
        assert losses.parts[name] == pytest.approx(getattr(terms, name).item(), rel=1e-5)
    assert losses.parts["pseudo_confidence"] == pytest.approx(
        terms.prob.amax(dim=1).mean().item(), rel=1e-5
    )
    assert losses.pseudo is not None
    assert torch.equal(losses.pseudo, terms.prob.argmax(dim=1))
    for (name, a), (_, b) in zip(
        fast.network.named_parameters(), slow.named_parameters(), strict=True
    ):
        assert a.grad is not None, name
        assert b.grad is not None, name
        assert float((a.grad - b.grad).abs().max()) < 1e-4 * max(float(b.grad.abs().max()), 1), name
    for name, tensor in slow.named_buffers():
        if name.startswith("encoder"):  # embeddings of other passes are not computed
            torch.testing.assert_close(fast.network.get_buffer(name), tensor)


def test_update_average_and_decay(method: ClassM, batches: tuple[Batch, Batch]) -> None:
    """RMSprop, then the average, then the extra decay, which spares running statistics."""
    twin = copy.deepcopy(method)
    before = {k: v.clone() for k, v in twin.network.state_dict().items()}
    optimizer = twin.optimizer()
    losses = twin.training_step(*batches, 1.0, torch.Generator().manual_seed(0))
    torch.autograd.backward(losses.total)
    statistics = twin.network.get_buffer("encoder_h.bn1.running_mean").clone()
    optimizer.step()
    twin.after_step()

    weight = twin.network.get_parameter("head.weight")
    assert weight.grad is not None
    start = before["head.weight"]
    gradient = weight.grad + 1e-8 * start
    stepped = start - 1e-4 * gradient / (torch.sqrt(0.01 * gradient**2) + 1e-8)
    torch.testing.assert_close(weight.detach(), stepped * (1 - 0.02 * 1e-4), rtol=1e-9, atol=0)
    average = twin.export_network().state_dict()
    torch.testing.assert_close(average["head.weight"], 0.999 * start + 0.001 * stepped)
    name = "encoder_h.bn1.running_mean"
    assert torch.equal(twin.network.get_buffer(name), statistics)
    torch.testing.assert_close(average[name], 0.999 * before[name] + 0.001 * statistics)


def test_class_sums_over_one_view_of_each_patch(batches: tuple[Batch, Batch]) -> None:
    """Without MixUp: summed cross-entropy of the labelled, and the hinge over all 64."""
    torch.manual_seed(0)
    config = ClassMConfig(encoder=SmallConfig(), views=StainViewConfig(patch_px=32), mixup=False)
    normalisation = Normalisation(mean=(0.2, 0.2), std=(0.15, 0.15))
    method = ClassM(config, CLASSES, normalisation).double()
    slow = copy.deepcopy(method.network).train()
    labelled, unlabelled = batches
    losses = method.training_step(labelled, unlabelled, 1.0, torch.Generator().manual_seed(2))

    generator = torch.Generator().manual_seed(2)
    items = torch.cat([method.views.random(batch, generator) for batch in batches])
    order = torch.randperm(64, generator=generator).tolist()
    output = slow(items[order])
    supervised, hinge = 0.0, 0.0
    for place, item in enumerate(order):
        if item < LABELLED:
            prob = _softmax(output.logits[place])
            supervised -= math.log(prob[int(labelled.label[item])].item())
        near = (output.z_h[place] - output.z_e[place]).norm().item()
        far = (output.z_h[place] - output.z_e[place - 1]).norm().item()
        hinge += max(near - far + 37 / 32 * math.sqrt(128), 0)
    assert losses.parts["supervised"] == pytest.approx(supervised, rel=1e-5)
    assert losses.parts["contrastive"] == pytest.approx(hinge, rel=1e-5)
    assert losses.parts["total"] == pytest.approx(supervised + 0.01 * hinge, rel=1e-5)
    assert losses.pseudo is None


def test_interleaved_chunks_are_those_written_out() -> None:
    shuffle = interleave(TOTAL, LABELLED)
    assert shuffle.sizes == (29, 33, 33)
    chunks = [chunk.tolist() for chunk in shuffle.chunks(torch.arange(TOTAL))]
    assert chunks == list(CHUNKS)


@given(size=st.integers(1, 40), rest=st.integers(0, 120))
def test_interleaving_can_be_undone_whatever_the_lengths(size: int, rest: int) -> None:
    items = torch.arange(size + rest)
    shuffle = interleave(len(items), size)
    chunks = shuffle.chunks(items)
    assert sum(shuffle.sizes) == len(items)
    assert min(shuffle.sizes) >= 1
    assert torch.equal(shuffle.undo(chunks), items)
    assert torch.equal(shuffle.apply(lambda chunk: 2 * chunk, items), 2 * items)


@given(seed=st.integers(0, 2**32), count=st.integers(1, 100))
def test_mixture_stays_closer_to_itself(seed: int, count: int) -> None:
    """The weight is at least 0.5, partners are a permutation, and targets still sum to one."""
    mix = draw_mix(count, 0.75, torch.Generator().manual_seed(seed), torch.device("cpu"))
    assert 0.5 <= mix.weight <= 1
    assert sorted(mix.partner.tolist()) == list(range(count))
    target = torch.eye(count, dtype=torch.float64)
    mixed = mix(target)
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(count, dtype=torch.float64))
    for item, partner in enumerate(mix.partner.tolist()):
        expected = mix.weight * target[item] + (1 - mix.weight) * target[partner]
        assert torch.equal(mixed[item], expected)


def test_mean_weight_is_that_of_the_beta_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [draw_mix(1, 0.75, generator, torch.device("cpu")).weight for _ in range(4000)]
    assert np.mean(weights) == pytest.approx(0.778, abs=0.01)


@given(count=st.integers(2, 60))
def test_negatives_are_never_the_patch_itself(count: int) -> None:
    """With all E embeddings far apart, no distance to a negative is that to the positive."""
    z_e = 1000 * torch.eye(count, dtype=torch.float64)
    loss = roll_triplet(z_e, z_e, margin=1.0)
    assert float(loss) == 0


def test_hinge_at_zero_distance_has_a_gradient() -> None:
    z_h = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    loss = roll_triplet(z_h, torch.ones(3, 4, dtype=torch.float64), margin=37.0)
    torch.autograd.backward(loss)
    assert z_h.grad is not None
    assert bool(torch.isfinite(z_h.grad).all())


def test_one_pair_has_no_negative() -> None:
    with pytest.raises(ValueError, match="negatives come from other patches; got a batch of 1"):
        roll_triplet(torch.ones(1, 4), torch.ones(1, 4), margin=37.0)


def test_margin_follows_the_number_of_features() -> None:
    """37 for 512 features; always 37/32 of the distance of independent unit-variance vectors."""
    assert default_margin(512) == 37
    vectors = torch.randn((2, 2000, 1280), generator=torch.Generator().manual_seed(0))
    apart = (vectors[0] - vectors[1]).norm(dim=1).mean()
    assert default_margin(1280) == pytest.approx(37 / 32 * float(apart), rel=1e-3)


@pytest.mark.parametrize(
    ("clock", "weight"), [(1.0, 0.46875), (8.5, 3.984375), (16.0, 7.5), (17.0, 7.5), (500.0, 7.5)]
)
def test_weight_of_consistency_rises_for_16_epochs(clock: float, weight: float) -> None:
    assert ramp(clock, MixingConfig()) == weight


@pytest.mark.parametrize("epochs", [1, 5, 10, 31])
def test_a_short_ramp_starts_as_low_as_the_published_one(epochs: int) -> None:
    config = MixingConfig(ramp_epochs=epochs)
    assert ramp(1.0, config) == 7.5 / 16
    assert ramp(1.0 + epochs / 2, config) == pytest.approx(7.5 * (1 / 16 + 0.5))
    assert ramp(1.0 + epochs, config) == 7.5
