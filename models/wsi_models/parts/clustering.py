"""Vectors and a generator -> the cluster that each vector belongs to, by direction.

On the device of the vectors, and bit for bit the same for the same draws, which a library on
threads does not promise; what clusters are used for is decided elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsi_models.parts import draws

ROUNDS = 10
"""Times that centres are moved: a fixed number, since asking for more would wait for the device."""


@torch.no_grad()
def cluster_directions(
    vectors: Tensor, count: int, generator: torch.Generator, *, rounds: int = ROUNDS
) -> Tensor:
    """Divide vectors into clusters by spherical k-means.

    Parameters
    ----------
    vectors : Tensor of shape (N, F)
        Of any length; only directions count.
    count : int
        Number k of clusters, at most N; some may stay empty.
    generator : torch.Generator
        Source of the first centres, which are drawn as by k-means++.
    rounds : int
        How often centres are moved.

    Returns
    -------
    Tensor of shape (N,), int64
        Number of the centre that each vector is closest to.

    Raises
    ------
    ValueError
        If there are fewer vectors than clusters.

    References
    ----------
    .. [1] I. Dhillon and D. Modha, Concept Decompositions for Large Sparse Text Data Using
       Clustering, Machine Learning 42 (2001).
    .. [2] D. Arthur and S. Vassilvitskii, k-means++, SODA 2007.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"{len(vectors)} vectors cannot be divided into {count} clusters")
    with torch.autocast(vectors.device.type, enabled=False):
        unit = functional.normalize(vectors.to(torch.float32), dim=1)
        centres = _first_centres(unit, count, generator)
        for _ in range(rounds):
            members = functional.one_hot(_closest(unit, centres), count).T.to(unit.dtype)
            moved = functional.normalize(members @ unit, dim=1)
            centres = torch.where(members.sum(dim=1, keepdim=True) > 0, moved, centres)
        return _closest(unit, centres)


def _closest(unit: Tensor, centres: Tensor) -> Tensor:
    return (unit @ centres.T).argmax(dim=1)


def _first_centres(unit: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw vectors as centres, each with a chance that grows with its distance from those drawn."""
    chance = draws.uniform((count,), 0, 1, generator, unit.device)
    distance = torch.ones(len(unit), device=unit.device)
    chosen: list[Tensor] = []
    for position in range(count):
        steps = distance.cumsum(dim=0)
        index = torch.searchsorted(steps, chance[position] * steps[-1], right=True)
        centre = unit[index.clamp(max=len(unit) - 1)]
        chosen.append(centre)
        distance = torch.minimum(distance, (1 - unit @ centre).clamp(min=0))
    return torch.stack(chosen)
