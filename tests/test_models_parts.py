"""Sharpening, averages, losses, schedules and draws against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from wsi_models.losses.classification import probability_error, soft_cross_entropy
from wsi_models.losses.contrastive import roll_triplet
from wsi_models.methods.base import Batch
from wsi_models.methods.optimisation import (
    OptimisationConfig,
    build_optimizer,
    build_scheduler,
)
from wsi_models.parts import draws
from wsi_models.parts.ema import BufferPolicy, Ema, decay_weights
from wsi_models.parts.interleave import interleave
from wsi_models.parts.sharpen import sharpen

CPU = torch.device("cpu")


@given(
    values=st.lists(st.floats(0.01, 1), min_size=2, max_size=6),
    temperature=st.floats(0.05, 1),
)
def test_sharpening_is_the_power_of_its_definition(values: list[float], temperature: float) -> None:
    prob = [value / sum(values) for value in values]
    powers = [p ** (1 / temperature) for p in prob]
    sharp = sharpen(torch.tensor([prob], dtype=torch.float64), temperature)[0].tolist()
    assert sharp == pytest.approx([power / sum(powers) for power in powers], rel=1e-9, abs=1e-300)
    assert max(sharp) >= max(prob) - 1e-12


def test_sharpening_survives_a_temperature_that_underflows() -> None:
    """0.2 to the power of 1000 is nothing in float32, for every class."""
    prob = torch.tensor([[0.2, 0.2, 0.15, 0.15, 0.3]])
    assert sharpen(prob, 0.001).tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_average_of_weights_and_the_policy_of_buffers(buffers: BufferPolicy) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    ema = Ema(network, 0.9, buffers=buffers)
    start = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network(torch.rand(5, 2))
    ema.update(network)
    now, average = network.state_dict(), ema.network.state_dict()
    torch.testing.assert_close(average["0.weight"], 0.9 * start["0.weight"] + 0.1 * now["0.weight"])
    mean = {"average": 0.1 * now["1.running_mean"], "copy": now["1.running_mean"]}[buffers]
    torch.testing.assert_close(average["1.running_mean"], mean)
    assert average["1.num_batches_tracked"].item() == 1
    assert not ema.network.training
    assert not any(parameter.requires_grad for parameter in ema.parameters())


def test_average_refuses_a_decay_that_never_moves() -> None:
    with pytest.raises(ValueError, match="less than 1, got 1"):
        Ema(nn.Linear(1, 1), 1.0)


def test_decay_shrinks_weights_and_spares_statistics() -> None:
    network = nn.BatchNorm1d(3)
    network(torch.rand(5, 3))
    statistics = network.state_dict()["running_mean"].clone()
    decay_weights(network, 0.25)
    assert torch.equal(network.weight, torch.full((3,), 0.75))
    assert torch.equal(network.state_dict()["running_mean"], statistics)


def test_soft_cross_entropy_is_that_of_torch() -> None:
    logits = torch.randn((7, 4), generator=torch.Generator().manual_seed(0))
    target = functional.softmax(logits.flip(0), dim=1)
    torch.testing.assert_close(
        soft_cross_entropy(logits, target), functional.cross_entropy(logits, target)
    )


def test_probability_error_averages_over_patches_and_classes() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    target = torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.1, 0.8]])
    expected = (0.5**2 + 2 * 0.25**2) / 6
    assert probability_error(logits, target).item() == pytest.approx(expected)


def test_hinge_of_three_pairs_by_hand() -> None:
    """Distances 1, 2, 3 to the positive; the negative is the embedding before, round the end."""
    z_h = torch.tensor([[0.0], [10.0], [20.0]])
    z_e = torch.tensor([[1.0], [12.0], [23.0]])
    expected = sum(max(near - far + 8, 0) for near, far in [(1, 23), (2, 9), (3, 8)])
    assert roll_triplet(z_h, z_e, margin=8.0).item() == pytest.approx(expected)


def test_half_precision_is_summed_in_full() -> None:
    z = torch.full((4, 1000), 100.0, dtype=torch.float16)
    loss = roll_triplet(z, -z, margin=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(4, abs=0.01)
    assert soft_cross_entropy(torch.zeros(2, 3).half(), torch.ones(2, 3) / 3).dtype == torch.float32


def test_chunks_need_a_first_part() -> None:
    with pytest.raises(ValueError, match="chunks of 0 cannot be cut from 5 items"):
        interleave(5, 0)


def test_beta_is_that_of_numpy_seeded_by_the_generator() -> None:
    """Mean and variance of Beta(0.75, 0.75) are 1/2 and 1/10."""
    generator = torch.Generator().manual_seed(0)
    values = [draws.beta(0.75, generator) for _ in range(5000)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.015)
    assert np.var(values) == pytest.approx(0.1, abs=0.005)


def test_uniform_fills_its_range() -> None:
    values = draws.uniform((10000,), -2, 6, torch.Generator().manual_seed(0), CPU)
    assert -2 <= float(values.min()) < -1.99
    assert 5.99 < float(values.max()) < 6
    assert float(values.mean()) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("rmsprop", torch.optim.RMSprop), ("sgd", torch.optim.SGD), ("adam", torch.optim.Adam)],
)
def test_optimizer_is_the_one_named(name: str, kind: type[torch.optim.Optimizer]) -> None:
    config = OptimisationConfig.model_validate({"name": name, "lr": 0.5, "weight_decay": 0.25})
    optimizer = build_optimizer(config, nn.Linear(2, 2))
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert name == "adam" or group["momentum"] == 0.9
    assert name != "sgd" or group["nesterov"]


def test_plateau_waits_and_then_lowers_the_rate() -> None:
    config = OptimisationConfig(lr=1.0, patience=2)
    optimizer = build_optimizer(config, nn.Linear(1, 1))
    schedule = build_scheduler(config, optimizer, 10)
    assert schedule is not None
    assert not schedule.per_step
    scheduler = schedule.rates
    assert isinstance(scheduler, ReduceLROnPlateau)
    rates = []
    for _ in range(4):
        scheduler.step(1.0)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 0.9]


def test_cosine_ends_at_seven_sixteenths() -> None:
    config = OptimisationConfig(name="sgd", lr=2.0, schedule="cosine", cosine_epochs=4)
    optimizer = build_optimizer(config, nn.Linear(1, 1))
    schedule = build_scheduler(config, optimizer, 5)
    assert schedule is not None
    assert schedule.per_step
    rates = []
    for _ in range(24):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.rates.step()
    expected = [2 * math.cos(7 * math.pi * min(k, 20) / (16 * 20)) for k in range(24)]
    assert rates == pytest.approx(expected)


def test_constant_rate_has_no_schedule() -> None:
    config = OptimisationConfig(schedule="constant")
    assert build_scheduler(config, build_optimizer(config, nn.Linear(1, 1)), 10) is None


def test_a_schedule_of_open_length_needs_the_length_of_training() -> None:
    config = OptimisationConfig(name="sgd", schedule="cosine")
    optimizer = build_optimizer(config, nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"config\.settled\(epochs\)"):
        build_scheduler(config, optimizer, 10)
    assert config.settled(7).cosine_epochs == 7
    assert config.model_copy(update={"cosine_epochs": 3}).settled(7).cosine_epochs == 3
    assert OptimisationConfig().settled(7) == OptimisationConfig()


def test_batch_refuses_what_does_not_belong_together() -> None:
    rgb, unmix = torch.zeros((2, 3, 8, 8), dtype=torch.uint8), torch.zeros(2, 2, 3)
    label = torch.zeros(2, dtype=torch.int64)
    assert len(Batch(rgb, unmix, label).to("cpu")) == 2
    with pytest.raises(ValueError, match=r"rgb must have shape \(B, 3, S, S\)"):
        Batch(rgb[:, :2], unmix, label)
    with pytest.raises(ValueError, match=r"rgb must be uint8, got torch\.float32"):
        Batch(rgb.float(), unmix, label)
    with pytest.raises(ValueError, match=r"unmix must be \(2, 2, 3\)"):
        Batch(rgb, unmix[:1], label)
    with pytest.raises(ValueError, match=r"label must be \(2,\) int64"):
        Batch(rgb, unmix, label.float())
