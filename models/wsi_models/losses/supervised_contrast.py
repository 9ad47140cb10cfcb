"""Embeddings and labels -> the supervised contrastive loss.

Whose labels they are, and how warm, is up to methods.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from wsi_models.losses.classification import full_precision


def supervised_contrast(embeddings: Tensor, label: Tensor, temperature: float) -> Tensor:
    """Average how badly each embedding tells those of its label from all others.

    With cosines s and the others of the same label P(i), an anchor i has the loss
    ``-1/|P(i)| sum_{p in P(i)} log(exp(s_ip / T) / sum_{a != i} exp(s_ia / T))``; the average is
    over the anchors whose loss is positive, which leaves out those without another of their
    label. If every two embeddings share a label that nothing else has, this is NT-Xent.

    Parameters
    ----------
    embeddings : Tensor of shape (B, F)
        Of any length; the loss scales them to 1.
    label : Tensor of shape (B,), int64
        What is to lie together.
    temperature : float
        T > 0; the lower, the tighter embeddings of one label are pulled together.

    Returns
    -------
    Tensor
        A scalar, at least in float32; 0 where there are no two of one label, or one label only.

    References
    ----------
    .. [1] P. Khosla et al., Supervised Contrastive Learning, NeurIPS 2020, equation 2.
    .. [2] T. Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
       ICML 2020, equation 1.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = functional.normalize(full_precision(embeddings))
        own = torch.eye(len(label), dtype=torch.bool, device=label.device)
        positive = (label[:, None] == label) & ~own
        log_prob = (unit @ unit.T / temperature).masked_fill(own, -math.inf).log_softmax(dim=1)
        summed = log_prob.masked_fill(~positive, 0).sum(dim=1)
        loss = -summed / positive.sum(dim=1).clamp(min=1)
        counted = loss > 0
        if (label == label[0]).all():
            return 0 * loss.sum()
        return loss.sum() / counted.sum().clamp(min=1)
