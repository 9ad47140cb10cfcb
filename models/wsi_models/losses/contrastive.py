"""Embeddings of the two views of each patch -> the contrastive loss of CLASS-M.

The embeddings are to be normalised beforehand; the margin only has meaning at unit variance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wsi_models.losses.classification import full_precision

if TYPE_CHECKING:
    from torch import Tensor

PAPER_MARGIN = 37.0
PAPER_FEATURES = 512
TINY = 1e-12


def default_margin(features: int) -> float:
    """Scale the published margin to another number of features.

    Two independent vectors of ``d`` features with unit variance are ``sqrt(2 d)`` apart. The
    paper's margin of 37 is 37/32 of that distance for its 512 features, so that the hinge is
    almost never idle; the same share of the distance does the same at any ``d``.

    Parameters
    ----------
    features : int
        Number d of features.

    Returns
    -------
    float
        ``37 / 32 * sqrt(2 d)``; 37 for 512.

    Examples
    --------
    >>> default_margin(512)
    37.0
    """
    return PAPER_MARGIN / math.sqrt(2 * PAPER_FEATURES) * math.sqrt(2 * features)


def roll_triplet(z_h: Tensor, z_e: Tensor, margin: float) -> Tensor:
    """Sum the hinge that pulls the stains of a patch together and those of neighbours apart.

    ``sum_i max(|z_H,i - z_E,i| - |z_H,i - z_E,i-1| + margin, 0)`` where the patch before the
    first is the last: the anchor is hematoxylin, the negative is the eosin of another patch.

    Parameters
    ----------
    z_h, z_e : Tensor of shape (B, F)
        Embeddings in random order, B >= 2.
    margin : float
        How much closer the positive has to be, in units of the embeddings.

    Returns
    -------
    Tensor
        A scalar, at least in float32.

    Raises
    ------
    ValueError
        If there is one pair only, which would be its own negative.

    References
    ----------
    .. [1] B. Zhang et al., CLASS-M, Medical Image Analysis 105 (2025) 103711.
    """
    if len(z_h) < 2:
        raise ValueError(f"negatives come from other patches; got a batch of {len(z_h)}")
    anchor, positive = full_precision(z_h), full_precision(z_e)
    negative = positive.roll(1, dims=0)
    hinge = _distance(anchor, positive) - _distance(anchor, negative) + margin
    return hinge.clamp(min=0).sum()


def _distance(a: Tensor, b: Tensor) -> Tensor:
    # the square root has no gradient at zero, where two embeddings coincide
    return ((a - b).square().sum(dim=1) + TINY).sqrt()
