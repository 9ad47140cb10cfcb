"""Embeddings and cluster logits of a batch -> how near they are to collapse.

Measures only; what is logged or warned of is the method's business.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


@torch.no_grad()
def embedding_spread(embedding: Tensor) -> Tensor:
    """Measure how much embeddings differ from each other, whatever their length.

    Parameters
    ----------
    embedding : Tensor of shape (B, F)
        One row per patch.

    Returns
    -------
    Tensor
        Root mean square, over features, of the standard deviation of the rows at unit length,
        times the square root of F: 1 where rows point anywhere, 0 where all are the same.

    References
    ----------
    .. [1] X. Chen, K. He, Exploring Simple Siamese Representation Learning, CVPR 2021, section
       4.1, which watches the same deviation.
    """
    rows = functional.normalize(embedding.to(torch.float32), dim=1)
    return rows.var(dim=0, unbiased=False).sum().sqrt()


@torch.no_grad()
def clusters_in_use(logits: Tensor) -> Tensor:
    """Count the clusters that are the most probable one of some row of (B, K) logits."""
    return functional.one_hot(logits.argmax(dim=1), logits.shape[1]).amax(dim=0).sum()
