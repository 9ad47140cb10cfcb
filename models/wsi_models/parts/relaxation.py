"""Two predictions of the same patches -> pseudo-labels, softer the more the predictions differ.

Which networks predict, and which pseudo-labels are learned, is decided elsewhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from wsi_models.parts.choices import Choices

Distance = Literal["mse", "kl", "emd"]
"""Sum of squared differences, Kullback-Leibler divergence, or the earth mover's distance where
all classes are equally far apart, which is half the sum of absolute differences."""

LEAST = 1e-8


class RelaxationConfig(Choices):
    """How disagreement softens a pseudo-label."""

    distance: Distance = Field("mse", description="How disagreement of two predictions is told.")
    gamma: float = Field(1.0, gt=0, description="How fast the label's weight falls with it.")
    min_weight: float = Field(
        0.5, ge=0, le=1, description="Least weight of the label; the rest goes to other classes."
    )


def disagreement(prob: Tensor, previous: Tensor, distance: Distance) -> Tensor:
    """Measure how far two predictions of each patch are apart.

    Parameters
    ----------
    prob, previous : Tensor of shape (U, C)
        Class probabilities, now and before.
    distance : {"mse", "kl", "emd"}
        ``sum_c (p_c - p'_c)^2``, ``sum_c p'_c log(p'_c / p_c)``, or ``sum_c |p_c - p'_c| / 2``.

    Returns
    -------
    Tensor of shape (U,)
        Not negative; 0 where both are equal.
    """
    if distance == "mse":
        return (prob - previous).square().sum(dim=1)
    if distance == "emd":
        return (prob - previous).abs().sum(dim=1) / 2
    ratio = previous.clamp(min=LEAST).log() - prob.clamp(min=LEAST).log()
    return (previous * ratio).sum(dim=1).clamp(min=0)


def label_weight(estimate: Tensor, config: RelaxationConfig) -> Tensor:
    """Turn an estimated loss into the weight of a pseudo-label.

    Parameters
    ----------
    estimate : Tensor of shape (U,)
        As :func:`disagreement` gives it.
    config : RelaxationConfig
        The choices.

    Returns
    -------
    Tensor of shape (U,)
        ``max(min_weight, 2 - 2 sigmoid(gamma * estimate))``: 1 for 0, then falling.
    """
    return (2 - 2 * torch.sigmoid(config.gamma * estimate)).clamp(min=config.min_weight)


def relax(label: Tensor, weight: Tensor, classes: int) -> Tensor:
    """Lower the label and raise all other classes by equal amounts.

    Parameters
    ----------
    label : Tensor of shape (U,), int64
        Pseudo-labels.
    weight : Tensor of shape (U,)
        What remains of each, from 0 to 1.
    classes : int
        Number C >= 2 of classes.

    Returns
    -------
    Tensor of shape (U, C)
        Probabilities; the label alone where its weight is 1.
    """
    target = functional.one_hot(label, classes).to(weight.dtype)
    share = weight[:, None]
    return share * target + (1 - share) / (classes - 1) * (1 - target)
