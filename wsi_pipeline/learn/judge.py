"""Predictions of held-out tiles -> how often they are right, and how sure that figure is.

Tiles of one region are alike, so they count as one observation: ten thousand tiles of two regions
say no more about a third than two observations can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959964
"""Standard normal quantile of an interval of 95 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How good a classifier is where it had no labels.

    Attributes
    ----------
    accuracy : float or None
        Mean over the held-out groups of the share of their tiles that is right; None where no
        group could be held out.
    low, high : float or None
        Interval of 95 %, with each group as one observation.
    groups, tiles : int
        How many were judged.
    by : str
        What was held out: ``slide`` or ``region``.
    recall : dict of str to float
        Share of the judged tiles of each class that is right.
    confusion : list of list of int
        Judged tiles by class (rows) and prediction (columns).
    unjudged : tuple of str
        Classes that only one group has, so that they cannot be held out.
    """

    accuracy: float | None
    low: float | None
    high: float | None
    groups: int
    tiles: int
    by: str
    recall: dict[str, float]
    confusion: list[list[int]]
    unjudged: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def judge_by_group(
    label: NDArray[np.int64],
    predicted: NDArray[np.int64],
    group: NDArray[np.int64],
    classes: Sequence[str],
    by: str,
    unjudged: Sequence[str] = (),
) -> Judgement:
    """Judge predictions of tiles that were held out by group.

    Parameters
    ----------
    label, predicted : ndarray of shape (J,), int64
        Class and predicted class of each tile.
    group : ndarray of shape (J,), int64
        Region or slide of each.
    classes : sequence of str
        Names of the classes.
    by : str
        What the groups are.
    unjudged : sequence of str
        Classes that could not be held out.

    Returns
    -------
    Judgement
        With Wilson's interval for as many observations as there are groups. The shares of groups
        vary less than yes and no would, so the interval is rather too wide than too narrow.

    References
    ----------
    .. [1] E. B. Wilson, Probable inference, JASA 22 (1927), 209-212.
    """
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (label, predicted), 1)
    names = np.unique(group)
    accuracy = low = high = None
    if len(names):
        shares = [float((predicted == label)[group == name].mean()) for name in names]
        accuracy = sum(shares) / len(shares)
        low, high = wilson_interval(accuracy, len(names))
    totals = confusion.sum(axis=1)
    return Judgement(
        accuracy=accuracy,
        low=low,
        high=high,
        groups=len(names),
        tiles=len(label),
        by=by,
        recall={
            name: float(confusion[i, i] / totals[i]) for i, name in enumerate(classes) if totals[i]
        },
        confusion=confusion.tolist(),
        unjudged=tuple(unjudged),
    )


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the interval of 95 % of a share found in ``count`` observations.

    Examples
    --------
    >>> [round(end, 3) for end in wilson_interval(0.9, 10)]
    [0.596, 0.982]
    """
    spread = Z95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)
