"""The choice of an optimizer and its schedule -> both, for the parameters of a network.

Which losses they minimise and when they are stepped is decided by methods and the loop.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from wsi_models.parts.choices import Choices


class OptimisationConfig(Choices):
    """How parameters follow their gradients; the defaults are those of CLASS-M."""

    name: Literal["rmsprop", "sgd", "adam"] = Field(
        "rmsprop", description="The optimizer; 'sgd' is with Nesterov momentum."
    )
    lr: float = Field(1e-4, gt=0, description="Learning rate at the start.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum; not used by 'adam'.")
    weight_decay: float = Field(1e-8, ge=0, description="L2 penalty in the gradient.")
    schedule: Literal["plateau", "cosine", "constant"] = Field(
        "plateau",
        description="'plateau' lowers the rate when the validation loss stands still, 'cosine' "
        "is FixMatch's cos(7 pi k / 16 K).",
    )
    factor: float = Field(0.9, gt=0, lt=1, description="What 'plateau' multiplies the rate by.")
    patience: int = Field(15, ge=0, description="Epochs without progress that 'plateau' waits.")
    cosine_epochs: int = Field(500, ge=1, description="Epochs K of 'cosine'.")


def build_optimizer(config: OptimisationConfig, network: nn.Module) -> optim.Optimizer:
    """Build the optimizer of all parameters of a network that require a gradient."""
    parameters = [p for p in network.parameters() if p.requires_grad]
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
    return optim.Adam(parameters, config.lr, weight_decay=config.weight_decay)


def build_scheduler(config: OptimisationConfig, optimizer: optim.Optimizer) -> LRScheduler | None:
    """Build the schedule, stepped once per epoch; None for a constant rate."""
    if config.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=config.factor, patience=config.patience)
    if config.schedule == "cosine":
        total = config.cosine_epochs
        return LambdaLR(optimizer, lambda k: math.cos(7 * math.pi * min(k, total) / (16 * total)))
    return None
