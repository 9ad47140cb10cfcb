"""Embeddings and labels -> the supervised contrastive loss, by pytorch-metric-learning.

The only door to that library; whose labels they are, and how warm, is up to methods.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    # imported here because it takes seconds, which only those should wait for who train with it
    from pytorch_metric_learning.losses import SupConLoss

    with torch.autocast(embeddings.device.type, enabled=False):
        loss: Tensor = SupConLoss(temperature=temperature)(full_precision(embeddings), label)
    return loss
