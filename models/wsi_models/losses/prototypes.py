"""Features of two networks for the same patches -> how far the centres of their clusters lie apart.

The clusters are given; :mod:`wsi_models.parts.clustering` finds them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsi_models.losses.classification import full_precision

FEWEST = 2
"""Members from which on a cluster has a centre of its own, rather than being one patch."""


def prototype_distance(features: Tensor, reference: Tensor, cluster: Tensor, count: int) -> Tensor:
    """Average ``1 - cos(P_k, P'_k)`` over the clusters that have at least two members.

    P_k is the mean of the features of cluster k, each scaled to length 1, and P'_k that of the
    reference. Both are grouped alike, so that they correspond whatever the order of the clusters.

    Parameters
    ----------
    features : Tensor of shape (U, F)
        Of the network that learns.
    reference : Tensor of shape (U, F)
        Of the same patches by the network that is followed; gets no gradient.
    cluster : Tensor of shape (U,), int64
        Cluster of each patch, 0 to ``count - 1``.
    count : int
        Number of clusters; some may be empty.

    Returns
    -------
    Tensor
        A scalar from 0 to 2, at least in float32; 0 if no cluster has two members.

    References
    ----------
    .. [1] Q. Yang et al., TEAR, MICCAI 2022.
    """
    with torch.autocast(features.device.type, enabled=False):
        members = functional.one_hot(cluster, count).T
        own, other = _centres(features, members), _centres(reference.detach(), members)
        distance = 1 - functional.cosine_similarity(own, other, dim=1)
        counted = members.sum(dim=1) >= FEWEST
        return (distance * counted).sum() / counted.sum().clamp(min=1)


def _centres(features: Tensor, members: Tensor) -> Tensor:
    """Add up the directions of each cluster; a cosine does not ask for their mean."""
    unit = functional.normalize(full_precision(features), dim=1)
    return members.to(unit.dtype) @ unit
