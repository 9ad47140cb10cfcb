"""Embeddings of two views of patches -> how unlike they are, in the words of four papers.

Those are SimCLR, Barlow Twins, MoCo v3 and SwAV. Where the embeddings come from, and which of them
carry gradient, is the method's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from wsi_models.losses.classification import full_precision
from wsi_models.losses.supervised_contrast import supervised_contrast

if TYPE_CHECKING:
    from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Tell the other view of each patch from all views of all other patches.

    With cosines s over the 2B views, a view i and the other view p of its patch have the loss
    ``-log(exp(s_ip / T) / sum_{a != i} exp(s_ia / T))``; the loss is the mean over all views.

    Parameters
    ----------
    first, second : Tensor of shape (B, D)
        The two views, B >= 2; of any length.
    temperature : float
        T > 0.

    Returns
    -------
    Tensor
        A scalar, at least in float32.

    References
    ----------
    .. [1] T. Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
       ICML 2020, equation 1.
    """
    patch = torch.arange(len(first), device=first.device).repeat(2)
    return supervised_contrast(torch.cat([first, second]), patch, temperature)


def redundancy(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """Make each feature alike in both views, and all features unlike each other.

    With the correlation ``C_ij`` of feature i of one view and feature j of the other over the
    batch: ``sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2``.

    Parameters
    ----------
    first, second : Tensor of shape (B, D)
        The two views, each feature with mean 0 and variance 1 over the batch.
    weight : float
        Weight of the redundancy of features.

    Returns
    -------
    Tensor
        A scalar, at least in float32.

    References
    ----------
    .. [1] J. Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction,
       ICML 2021, equations 1 and 2.
    """
    with torch.autocast(first.device.type, enabled=False):
        correlation = full_precision(first).T @ full_precision(second) / len(first)
    same = correlation.diagonal()
    others = correlation.square().sum() - same.square().sum()
    return (1 - same).square().sum() + weight * others


def tell_apart(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Tell the key of each query from the keys of the other patches.

    ``-2 T mean_i log(exp(s_ii / T) / sum_j exp(s_ij / T))`` with the cosines s of query i and
    key j.

    Parameters
    ----------
    query, key : Tensor of shape (B, D)
        Of any length; no gradient reaches the keys.
    temperature : float
        T > 0. The factor 2 T keeps the gradient of one size whatever it is.

    Returns
    -------
    Tensor
        A scalar, at least in float32.

    References
    ----------
    .. [1] X. Chen, S. Xie, K. He, An Empirical Study of Training Self-Supervised Vision
       Transformers, ICCV 2021, equation 1 and algorithm 1.
    """
    unit = functional.normalize(full_precision(query), dim=1)
    keys = functional.normalize(full_precision(key.detach()), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        logits = unit @ keys.T / temperature
    own = torch.arange(len(logits), device=logits.device)
    return 2 * temperature * functional.cross_entropy(logits, own)


@torch.no_grad()
def balanced_codes(scores: Tensor, epsilon: float, rounds: int) -> Tensor:
    """Assign patches to prototypes so that all prototypes are used alike.

    Parameters
    ----------
    scores : Tensor of shape (B, K)
        Cosines of patches and prototypes.
    epsilon : float
        The smaller, the nearer a patch is to having one prototype.
    rounds : int
        Times that columns and rows are brought to their sums (Sinkhorn and Knopp).

    Returns
    -------
    Tensor of shape (B, K)
        Rows sum to 1; columns nearly to B / K.

    References
    ----------
    .. [1] M. Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster
       Assignments, NeurIPS 2020, equations 3 to 5.
    """
    logs = full_precision(scores) / epsilon
    for _ in range(rounds):
        logs = logs - logs.logsumexp(dim=0, keepdim=True)
        logs = logs - logs.logsumexp(dim=1, keepdim=True)
    return logs.exp()


def swapped_prediction(scores: list[Tensor], codes: list[Tensor], temperature: float) -> Tensor:
    """Predict the code of each view from the scores of the other.

    ``-1/2 sum over both views of mean_i sum_k q_ik log softmax(scores_i / T)_k`` with the codes q
    of the other view.

    Parameters
    ----------
    scores : list of two Tensor of shape (B, K)
        Cosines of patches and prototypes.
    codes : list of two Tensor of shape (B, K)
        What :func:`balanced_codes` made of them.
    temperature : float
        T > 0.

    Returns
    -------
    Tensor
        A scalar, at least in float32.

    References
    ----------
    .. [1] M. Caron et al., NeurIPS 2020, equations 1 and 2.
    """
    first, second = (
        -(code * (full_precision(score) / temperature).log_softmax(dim=1)).sum(dim=1).mean()
        for code, score in zip(reversed(codes), scores, strict=True)
    )
    return (first + second) / 2
