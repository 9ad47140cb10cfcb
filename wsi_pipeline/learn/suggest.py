"""Probabilities and features of tiles -> the few tiles whose label would teach most.

Uncertain ones, of which no two look alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CANDIDATES = 40
"""Uncertain tiles considered per tile that is suggested."""


def suggest_tiles(
    prob: NDArray[np.float32],
    projected: NDArray[np.float32],
    labelled: NDArray[np.int64],
    count: int = 8,
) -> NDArray[np.int64]:
    """Choose tiles to label next.

    Parameters
    ----------
    prob : ndarray of shape (N, K), float32
        Class probabilities of all tiles.
    projected : ndarray of shape (N, D), float32
        Their projected features.
    labelled : ndarray of shape (M,), int64
        Tiles that have a label; they are not suggested, nor is what looks like them.
    count : int
        Tiles wanted.

    Returns
    -------
    ndarray of shape (min(count, N - M),), int64
        Indices, the most useful first.

    Notes
    -----
    Of the tiles whose two most probable classes are closest, the one farthest in features from
    all labelled and all chosen tiles is taken, again and again: greedy k-centre.

    References
    ----------
    .. [1] O. Sener and S. Savarese, Active learning for CNNs: a core-set approach, ICLR 2018.
    """
    free = np.setdiff1d(np.arange(len(prob)), labelled)
    # in no order of place: equally uncertain tiles would all be of the slide's upper edge
    free = np.random.default_rng(len(prob)).permutation(free)
    if not len(free) or count < 1:
        return np.empty(0, dtype=np.int64)
    ordered = np.sort(prob[free], axis=1)
    margin = ordered[:, -1] - ordered[:, -2] if prob.shape[1] > 1 else ordered[:, -1]
    candidates = free[np.argsort(margin, kind="stable")[: CANDIDATES * count]]
    distance = _nearest(projected[candidates], projected[labelled])
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        # without a label so far every tile is equally far: begin with the most uncertain one
        place = int(distance.argmax()) if np.isfinite(distance).any() else 0
        chosen.append(int(candidates[place]))
        step = np.linalg.norm(projected[candidates] - projected[candidates[place]], axis=1)
        distance = np.minimum(distance, step)
        distance[place] = -1.0
    return np.array(chosen, dtype=np.int64)


def _nearest(points: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the distance of every point to the nearest of some others; infinite without any."""
    nearest = np.full(len(points), np.inf)
    for start in range(0, len(others), 256):
        part = others[start : start + 256]
        squares = (points**2).sum(axis=1)[:, None] + (part**2).sum(axis=1) - 2.0 * points @ part.T
        nearest = np.minimum(nearest, np.sqrt(np.maximum(squares, 0)).min(axis=1))
    return nearest
