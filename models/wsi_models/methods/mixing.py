"""Views of labelled and unlabelled patches -> mixed patches and the losses of MixMatch on them.

CLASS-M and MixMatch share this step; how views are made and what else is learned is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from wsi_models.losses.classification import probability_error, soft_cross_entropy
from wsi_models.methods.averaged import probabilities
from wsi_models.parts.choices import Choices
from wsi_models.parts.interleave import interleave
from wsi_models.parts.mixup import draw_mix
from wsi_models.parts.sharpen import sharpen

Classify = Callable[[Tensor], Tensor]

RAMP_START = 1 / 16
"""Share of its height that the consistency loss starts with, as published, however short the rise
is set."""


class MixingConfig(Choices):
    """How patches are mixed and pseudo-labels used; the defaults are those of CLASS-M."""

    views: int = Field(2, ge=1, description="Views K of an unlabelled patch; all are learned.")
    temperature: float = Field(0.5, gt=0, description="Sharpening of the pseudo-labels.")
    alpha: float = Field(0.75, gt=0, description="MixUp's weight is from Beta(alpha, alpha).")
    unlabelled_weight: float = Field(7.5, ge=0, description="Weight of the consistency loss.")
    ramp_epochs: float = Field(16.0, gt=0, description="Epochs in which that weight rises.")


class PseudoLabels(NamedTuple):
    """Soft labels of unlabelled patches.

    Attributes
    ----------
    prob : Tensor of shape (U, C)
        Average over the views.
    target : Tensor of shape (U, C)
        The same, sharpened: what is learned.
    """

    prob: Tensor
    target: Tensor


class Mixed(NamedTuple):
    """A mixed batch and its losses.

    Attributes
    ----------
    items : Tensor of shape (B, ...)
        Mixed patches: the labelled, then each view of the unlabelled.
    supervised, consistency : Tensor
        Scalars: cross-entropy of the labelled part, squared error of the rest.
    pseudo : PseudoLabels
        Of the unlabelled patches.
    """

    items: Tensor
    supervised: Tensor
    consistency: Tensor
    pseudo: PseudoLabels


def ramp(clock: float, config: MixingConfig) -> float:
    """Weigh the consistency loss: ``weight * clip(1 / 16 + (clock - 1) / epochs, 0, 1)``.

    For the published 16 epochs that is ``weight * clip(clock / 16, 0, 1)``, as in the release.

    Examples
    --------
    >>> ramp(1.0, MixingConfig()), ramp(16.0, MixingConfig())
    (0.46875, 7.5)
    """
    height = RAMP_START + (clock - 1) / config.ramp_epochs
    return config.unlabelled_weight * min(max(height, 0.0), 1.0)


@torch.no_grad()
def guess_labels(classify: Classify, views: Sequence[Tensor], temperature: float) -> PseudoLabels:
    """Average the class probabilities of a few views of each patch, and sharpen them.

    Parameters
    ----------
    classify : callable
        Maps a view to logits; called once per view. As published it is in training mode, so each
        view is normalised by its own batch and moves the running statistics.
    views : sequence of Tensor of shape (U, ...)
        Views of the same patches.
    temperature : float
        See :func:`~wsi_models.parts.sharpen.sharpen`.

    Returns
    -------
    PseudoLabels
        Without gradient.
    """
    prob = torch.stack([probabilities(classify(view)) for view in views]).mean(dim=0)
    return PseudoLabels(prob, sharpen(prob, temperature))


def mixed_losses(
    classify: Classify,
    labelled: tuple[Tensor, Tensor],
    unlabelled: Sequence[Tensor],
    config: MixingConfig,
    generator: torch.Generator,
) -> Mixed:
    """Guess labels, mix everything with everything, and compute both losses.

    Parameters
    ----------
    classify : callable
        Maps patches to logits, in training mode; called on interleaved chunks.
    labelled : tuple of Tensor
        Views of the labelled patches, (L, ...), and their one-hot targets, (L, C).
    unlabelled : sequence of Tensor of shape (U, ...)
        K views of the unlabelled patches.
    config : MixingConfig
        The choices.
    generator : torch.Generator
        Source of the weight, then of the partners.

    Returns
    -------
    Mixed
        The mixed patches and their losses, not yet weighted.

    References
    ----------
    .. [1] D. Berthelot et al., MixMatch, NeurIPS 2019, algorithm 1.
    .. [2] B. Zhang et al., CLASS-M, Medical Image Analysis 105 (2025) 103711.
    """
    views, one_hot = labelled
    pseudo = guess_labels(classify, unlabelled, config.temperature)
    target = torch.cat([one_hot, *[pseudo.target.to(one_hot.dtype)] * len(unlabelled)])
    items = torch.cat([views, *unlabelled])
    mix = draw_mix(len(items), config.alpha, generator, items.device)
    items, target = mix(items), mix(target)
    count = len(views)
    logits = interleave(len(items), count, items.device).apply(classify, items)
    return Mixed(
        items,
        soft_cross_entropy(logits[:count], target[:count]),
        probability_error(logits[count:], target[count:]),
        pseudo,
    )
