"""A network in training and its running average, which is evaluated: what all methods here share.

The losses are what methods differ in, and are not here.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import torch
from pydantic import Field
from torch import Tensor, optim
from torch.nn import functional

from wsi_models.losses.classification import full_precision
from wsi_models.methods.base import Batch, Method
from wsi_models.methods.declared import MethodChoices
from wsi_models.methods.optimisation import (
    OptimisationConfig,
    Schedule,
    build_optimizer,
    build_scheduler,
)
from wsi_models.parts.ema import BufferPolicy, Ema, decay_weights
from wsi_models.parts.patch_network import PatchNetwork

STEP_SIZE = 64
"""Patches of both batches of a step, published for CLASS-M."""

LABELLED_SIZE = 33
"""Labelled patches among them, published for three classes."""

Network = TypeVar("Network", bound=PatchNetwork)


class AveragedConfig(MethodChoices):
    """What every method here can be told; the defaults are those of CLASS-M."""

    optimisation: OptimisationConfig = Field(
        OptimisationConfig(), description="The optimizer and its schedule."
    )
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Share of the average network that a step keeps."
    )
    ema_buffers: BufferPolicy = Field(
        "average", description="Average the running statistics too, or copy the latest."
    )
    ema_restart_epoch: int = Field(
        1, ge=0, description="Epoch after which the average starts anew; 0 is never."
    )
    extra_decay: float = Field(
        0.02,
        ge=0,
        description="Share of the weights, times the first learning rate, lost at each step.",
    )
    label_noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the labels that is expected to be wrong; the targets give as much "
        "to the other classes, so that the network is not made sure of what is not.",
    )
    labelled_per_step: int | None = Field(
        None, ge=1, description="Labelled patches of a step, a multiple of the classes."
    )


class AveragedMethod(Method, Generic[Network]):
    """A method that trains one network and evaluates its exponential moving average.

    Parameters
    ----------
    config : AveragedConfig
        The choices.
    classes : int
        Number C of classes.
    network : Module
        The network with its starting weights.
    sizes : tuple of int
        Labelled and unlabelled patches per step.
    """

    def __init__(
        self, config: AveragedConfig, classes: int, network: Network, sizes: tuple[int, int]
    ) -> None:
        super().__init__()
        self.classes = classes
        self.labelled_per_step, self.unlabelled_per_step = sizes
        self.network: Network = network
        self.ema: Ema[Network] = Ema(network, config.ema_decay, buffers=config.ema_buffers)
        self._averaged = config

    def optimizer(self) -> optim.Optimizer:
        """Build the optimizer of the trained network."""
        return build_optimizer(self._averaged.optimisation, self.network)

    def scheduler(self, optimizer: optim.Optimizer, iterations: int) -> Schedule | None:
        """Build the schedule of the learning rate, given the steps of an epoch."""
        return build_scheduler(self._averaged.optimisation, optimizer, iterations)

    def after_step(self) -> None:
        """Move the average, then shrink the weights."""
        self.ema.update(self.network)
        config = self._averaged
        if config.extra_decay > 0:
            decay_weights(self.network, config.extra_decay * config.optimisation.lr)

    def after_epoch(self, epoch: int) -> None:
        """Start the average anew where the configuration asks for it."""
        if epoch == self._averaged.ema_restart_epoch:
            self.ema.restart(self.network)

    def export_network(self) -> PatchNetwork:
        """Return the average network, in evaluation mode."""
        return self.ema.network

    def _targets(self, labelled: Batch) -> Tensor:
        """Make targets, shape (B, C), of labels that must all be known.

        One-hot, but for what ``label_noise`` gives to the other classes.
        """
        low, high = labelled.label.aminmax()
        if int(low) < 0 or int(high) >= self.classes:
            raise ValueError(
                f"labels of labelled patches go from {int(low)} to {int(high)}; they must be "
                f"classes 0 to {self.classes - 1}"
            )
        target = functional.one_hot(labelled.label, self.classes).to(
            next(self.network.parameters()).dtype
        )
        noise = self._averaged.label_noise
        return (1 - noise) * target + noise / (self.classes - 1) * (1 - target)


def step_sizes(
    classes: int, labelled: int | None, unlabelled: int | None, *, whole: int = LABELLED_SIZE
) -> tuple[int, int]:
    """Settle how many labelled and unlabelled patches a step takes.

    Parameters
    ----------
    classes : int
        Number C of classes.
    labelled, unlabelled : int or None
        As configured; by default the largest multiple of C up to ``whole``, and what remains of
        64. That is 33 and 31 for three classes, as published.
    whole : int
        Most labelled patches by default.

    Returns
    -------
    tuple of int
        Labelled and unlabelled patches.

    Raises
    ------
    ValueError
        If the labelled patches are no multiple of the classes: batches hold equally many of each.
    """
    if classes < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {classes}")
    count = max(whole // classes, 1) * classes if labelled is None else labelled
    if count % classes:
        raise ValueError(
            f"labelled_per_step is {count}, no multiple of {classes} classes; batches hold equally "
            f"many of each, so choose {count - count % classes or classes}"
        )
    return count, max(STEP_SIZE - count, 1) if unlabelled is None else unlabelled


def require_sizes(method: Method, labelled: Batch, unlabelled: Batch | None) -> None:
    """Refuse batches of other sizes than a method takes.

    Raises
    ------
    ValueError
        If a batch is missing or of another size.
    """
    got = len(labelled), 0 if unlabelled is None else len(unlabelled)
    wanted = method.labelled_per_step, method.unlabelled_per_step
    if got != wanted:
        raise ValueError(
            f"a step takes {wanted[0]} labelled and {wanted[1]} unlabelled patches, got {got[0]} "
            f"and {got[1]}; ask the method for labelled_per_step and unlabelled_per_step"
        )


def both_batches(method: Method, labelled: Batch, unlabelled: Batch | None) -> tuple[Batch, Batch]:
    """Return both batches of a method that cannot do without the unlabelled one.

    Raises
    ------
    ValueError
        If a batch is missing or of another size.
    """
    require_sizes(method, labelled, unlabelled)
    if unlabelled is None:
        raise ValueError("this method learns from unlabelled patches, got none")
    return labelled, unlabelled


def probabilities(logits: Tensor) -> Tensor:
    """Turn logits into class probabilities, at least in float32."""
    return functional.softmax(full_precision(logits), dim=1)


def floats(**values: Tensor) -> dict[str, float]:
    """Detach scalars for the log, waiting for the device only once."""
    stacked = torch.stack([value.detach().double() for value in values.values()])
    return dict(zip(values, map(float, stacked.tolist()), strict=True))
