"""Real tissue stained anew: fields of known class become virtual slides whose stains are known.

Tissue is drawn by nobody here: shapes are those of the images given, only their stains change.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.stain import unmix
from wsi_pipeline.types import StainMatrix

VECTOR_MEAN = np.array([[0.594, 0.731, 0.327], [0.154, 0.738, 0.644]])
VECTOR_SD = np.array([[0.046, 0.037, 0.049], [0.052, 0.075, 0.086]])
MAXIMUM_MEAN = np.array([1.151, 0.788])
MAXIMUM_SD = np.array([0.221, 0.268])
"""Mean and deviation over the 420 solutions published with CLASS-M, hematoxylin first."""

MAXIMUM_RANGE = np.array([[0.615, 1.804], [0.357, 2.042]])
ANGLE_RANGE_DEG = (21.04, 52.21)
"""Smallest and largest among them."""


def draw_stains(rng: np.random.Generator) -> StainMatrix:
    """Draw the stains of a slide, as different as those of real H&E slides are.

    Parameters
    ----------
    rng : Generator
        Source of the draws.

    Returns
    -------
    StainMatrix
        Every component of the vectors and both maxima are drawn independently from normal
        distributions with the moments of the 420 slides published with CLASS-M, and drawn again
        until the slide lies within what these slides show: maxima and the angle between the stains
        in their ranges, no negative component, hematoxylin more red and less blue than eosin.

    References
    ----------
    .. [1] B. Zhang et al., CLASS-M, Medical Image Analysis 105 (2025) 103711; stain solutions of
       its release.
    """
    while True:
        vectors = rng.normal(VECTOR_MEAN, VECTOR_SD)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        maxima = rng.normal(MAXIMUM_MEAN, MAXIMUM_SD)
        if _is_seen(vectors, maxima):
            return StainMatrix(vectors=vectors, max_concentration=maxima)


def restain(rgb: NDArray[np.uint8], own: StainMatrix, new: StainMatrix) -> NDArray[np.uint8]:
    """Take the stains out of an image and stain the same tissue anew.

    Parameters
    ----------
    rgb : ndarray of shape (H, W, 3), uint8
        Image of tissue.
    own : StainMatrix
        The stains it has.
    new : StainMatrix
        The stains it is given. Concentrations are scaled by the ratio of the maxima of both, so
        that tissue as dense as ``own`` says comes out as dense as ``new`` says.

    Returns
    -------
    ndarray of shape (H, W, 3), uint8
        What a scanner would see: ``I0 10^(-c V)``, rounded. What in an image is neither stain (the
        residual, and concentrations below zero) is lost.
    """
    he = unmix(rgb, own).clip(min=0).transpose(1, 2, 0)
    scaled = he * (new.max_concentration / own.max_concentration).astype(np.float32)
    exponent = np.ascontiguousarray(scaled) * np.float32(-np.log(10))
    light = np.asarray(cv2.exp(cv2.transform(exponent, new.vectors.T.astype(np.float32))))
    return np.rint(light * new.background.astype(np.float32)).clip(0, 255).astype(np.uint8)


def plan_virtual_slides(
    label: Sequence[str], group: Sequence[str], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deal groups of images out to virtual slides, so that every slide has all classes.

    Parameters
    ----------
    label, group : sequence of N str
        Class of each image, and what it is a copy or neighbour of; a group stays together.
    count : int
        Number of slides.
    rng : Generator
        Source of the order.

    Returns
    -------
    ndarray of shape (N,), int64
        Slide of each image, from 0. The groups of each class are shuffled and dealt in turn, so
        that no two slides differ by more than one group of a class.

    Raises
    ------
    ValueError
        If a class has fewer groups than there are slides, or a group has two classes.
    """
    home = dict(zip(group, label, strict=True))
    if any(home[name] != value for name, value in zip(group, label, strict=True)):
        raise ValueError("a group has images of two classes; name groups by class as well")
    slide_of: dict[str, int] = {}
    for value in sorted(set(label)):
        members = sorted(name for name, own in home.items() if own == value)
        if len(members) < count:
            raise ValueError(
                f"{value} has {len(members)} groups, too few for {count} slides that all have it"
            )
        order = rng.permutation(len(members)).tolist()
        slide_of |= {members[index]: place % count for place, index in enumerate(order)}
    return np.array([slide_of[name] for name in group], dtype=np.int64)


def _is_seen(vectors: NDArray[np.float64], maxima: NDArray[np.float64]) -> bool:
    """Whether stains lie within what the published slides show."""
    h, e = vectors
    angle = np.degrees(np.arccos(np.clip(h @ e, -1, 1)))
    in_range = (maxima >= MAXIMUM_RANGE[:, 0]) & (maxima <= MAXIMUM_RANGE[:, 1])
    return bool(
        (vectors > 0).all()
        and in_range.all()
        and ANGLE_RANGE_DEG[0] <= angle <= ANGLE_RANGE_DEG[1]
        and h[0] > e[0]
        and h[2] < e[2]
    )
