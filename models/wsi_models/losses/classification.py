"""Logits and soft targets -> the supervised and the consistency loss of semi-supervised methods.

Targets are given; how pseudo-labels come to be is no business of a loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def full_precision(tensor: Tensor) -> Tensor:
    """Return at least float32: sums over a batch are not for half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Average ``-sum_c target_c log softmax(logits)_c`` over a batch.

    Parameters
    ----------
    logits, target : Tensor of shape (B, C)
        ``target`` sums to one over the classes.

    Returns
    -------
    Tensor
        A scalar, at least in float32.
    """
    log_prob = functional.log_softmax(full_precision(logits), dim=1)
    return -(target * log_prob).sum(dim=1).mean()


def probability_error(logits: Tensor, target: Tensor) -> Tensor:
    """Average ``(softmax(logits) - target)^2`` over a batch and the classes.

    Parameters
    ----------
    logits, target : Tensor of shape (B, C)
        ``target`` sums to one over the classes.

    Returns
    -------
    Tensor
        A scalar, at least in float32.

    References
    ----------
    .. [1] D. Berthelot et al., MixMatch, NeurIPS 2019, equation 4.
    """
    prob = functional.softmax(full_precision(logits), dim=1)
    return (prob - target).square().mean()
