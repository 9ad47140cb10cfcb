"""The choice of an optimizer and its schedule -> both, for the parameters of a network.

Which losses they minimise and when they are stepped is decided by methods and the loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from pydantic import Field
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from wsi_models.parts.choices import Choices


class OptimisationConfig(Choices):
    """How parameters follow their gradients; the defaults are those of CLASS-M."""

    name: Literal["rmsprop", "sgd", "adam", "adamax"] = Field(
        "rmsprop", description="The optimizer; 'sgd' is with Nesterov momentum."
    )
    lr: float = Field(1e-4, gt=0, description="Learning rate at the start.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of 'rmsprop' and 'sgd'.")
    weight_decay: float = Field(1e-8, ge=0, description="L2 penalty in the gradient.")
    schedule: Literal["plateau", "cosine", "constant"] = Field(
        "plateau",
        description="'plateau' lowers the rate when the validation loss stands still, 'cosine' "
        "is FixMatch's cos(7 pi k / 16 K).",
    )
    factor: float = Field(0.9, gt=0, lt=1, description="What 'plateau' multiplies the rate by.")
    patience: int = Field(15, ge=0, description="Epochs without progress that 'plateau' waits.")
    cosine_epochs: int = Field(500, ge=1, description="Epochs K of 'cosine'.")
    clip: float | None = Field(
        None, gt=0, description="Most that an element of a gradient may be; no limit if not set."
    )


class CosineSgdConfig(Choices):
    """Stochastic gradient descent along half a cosine; the defaults are those of CluSiam."""

    lr: float = Field(
        0.1, gt=0, description="Learning rate at the start; published: 0.05 per 256 patches."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, not Nesterov's.")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty in the gradient.")
    epochs: int = Field(
        50, ge=1, description="Epochs after which the rate is zero; those of the training."
    )


def build_optimizer(config: OptimisationConfig, network: nn.Module) -> optim.Optimizer:
    """Build the optimizer of all parameters of a network that require a gradient."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = _choose(config, parameters)
    if config.clip is not None:
        clip = partial(nn.utils.clip_grad_value_, parameters, config.clip)
        # here rather than after the backward pass, so that no scaling for half precision is left
        optimizer.register_step_pre_hook(lambda *_: clip())
    return optimizer


def _choose(config: OptimisationConfig, parameters: list[nn.Parameter]) -> optim.Optimizer:
    if config.name == "rmsprop":
        return optim.RMSprop(
            parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    if config.name == "sgd":
        return optim.SGD(
            parameters,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.momentum > 0,
        )
    kind = optim.Adamax if config.name == "adamax" else optim.Adam
    return kind(parameters, config.lr, weight_decay=config.weight_decay)


def build_scheduler(config: OptimisationConfig, optimizer: optim.Optimizer) -> LRScheduler | None:
    """Build the schedule, stepped once per epoch; None for a constant rate."""
    if config.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience)
    if config.schedule == "cosine":
        total = config.cosine_epochs
        return LambdaLR(optimizer, lambda k: math.cos(7 * math.pi * min(k, total) / (16 * total)))
    return None


def build_cosine_sgd(config: CosineSgdConfig, networks: Sequence[nn.Module]) -> optim.SGD:
    """Build the optimizer of several networks, each a group of parameters."""
    groups = [[p for p in network.parameters() if p.requires_grad] for network in networks]
    return optim.SGD(
        [{"params": group} for group in groups],
        config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def build_half_cosine(
    config: CosineSgdConfig, optimizer: optim.Optimizer, held: Sequence[int] = ()
) -> LRScheduler:
    """Build the schedule ``(1 + cos(pi k / K)) / 2``, stepped once per epoch.

    Parameters
    ----------
    config : CosineSgdConfig
        Of the optimizer.
    optimizer : Optimizer
        What :func:`build_cosine_sgd` gave.
    held : sequence of int
        Groups of parameters whose rate stays as it is.
    """

    def falling(epoch: int) -> float:
        return (1 + math.cos(math.pi * min(epoch, config.epochs) / config.epochs)) / 2

    groups = range(len(optimizer.param_groups))
    return LambdaLR(optimizer, [(lambda _: 1.0) if g in held else falling for g in groups])
