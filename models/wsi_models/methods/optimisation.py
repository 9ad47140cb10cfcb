"""The choice of an optimizer and its schedule -> both, for the parameters of a network.

Which losses they minimise and when they are stepped is decided by methods and the loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from pydantic import Field
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from wsi_models.parts.choices import Choices


class Schedule(NamedTuple):
    """The schedule of the learning rate.

    Attributes
    ----------
    rates : LRScheduler
        A :class:`~torch.optim.lr_scheduler.ReduceLROnPlateau` is told the cross-entropy per patch
        of the validation set; any other nothing.
    per_step : bool
        Whether it moves with every step, or with every epoch.
    """

    rates: LRScheduler
    per_step: bool


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
    cosine_epochs: int | None = Field(
        None, ge=1, description="Epochs K of 'cosine'; by default those of the training."
    )
    clip: float | None = Field(
        None, gt=0, description="Most that an element of a gradient may be; no limit if not set."
    )

    def _lengths(self, epochs: int) -> dict[str, float]:
        return {"cosine_epochs": epochs} if self.schedule == "cosine" else {}


class CosineSgdConfig(Choices):
    """Stochastic gradient descent along half a cosine; the defaults are those of CluSiam."""

    lr: float = Field(
        0.1, gt=0, description="Learning rate at the start; published: 0.05 per 256 patches."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum, not Nesterov's.")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty in the gradient.")
    epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs after which the rate is zero; by default those of the training.",
    )

    def _lengths(self, epochs: int) -> dict[str, float]:
        return {"epochs": epochs}


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


def build_scheduler(
    config: OptimisationConfig, optimizer: optim.Optimizer, iterations: int
) -> Schedule | None:
    """Build the schedule; None for a constant rate.

    Parameters
    ----------
    config : OptimisationConfig
        With the length of its schedule settled.
    optimizer : Optimizer
        What :func:`build_optimizer` gave.
    iterations : int
        Steps of an epoch.

    Raises
    ------
    ValueError
        If the epochs of a cosine were left open; see :meth:`Choices.settled`.
    """
    if config.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience)
        return Schedule(plateau, per_step=False)
    if config.schedule == "cosine":
        total = _settled(config.cosine_epochs) * iterations
        cosine = LambdaLR(optimizer, lambda k: math.cos(7 * math.pi * min(k, total) / (16 * total)))
        return Schedule(cosine, per_step=True)
    return None


def _settled(epochs: int | None) -> int:
    if epochs is None:
        raise ValueError(
            "the epochs of the schedule are open; settle the configuration for a training first: "
            "config.settled(epochs)"
        )
    return epochs


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
) -> Schedule:
    """Build the schedule ``(1 + cos(pi k / K)) / 2``, stepped once per epoch, as published.

    Parameters
    ----------
    config : CosineSgdConfig
        Of the optimizer.
    optimizer : Optimizer
        What :func:`build_cosine_sgd` gave.
    held : sequence of int
        Groups of parameters whose rate stays as it is.
    """
    total = _settled(config.epochs)

    def falling(epoch: int) -> float:
        return (1 + math.cos(math.pi * min(epoch, total) / total)) / 2

    groups = range(len(optimizer.param_groups))
    rates = LambdaLR(optimizer, [(lambda _: 1.0) if g in held else falling for g in groups])
    return Schedule(rates, per_step=False)
