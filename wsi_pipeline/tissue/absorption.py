"""RGB pixels to what the specimen absorbs in them, and to the usual absorption of a slide.

Fixed linear combinations of optical density that set ink apart from hematoxylin and eosin; the
slide's own stain vectors are not needed and not estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

DARKEST = 5
"""Grey levels below this are read as this: there the colour is noise of camera and codec."""

DENSITY = np.log10(255.0 / np.maximum(np.arange(256), DARKEST)).astype(np.float32)
"""Optical density of each grey level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorption:
    """What the specimen absorbs, planes of shape (h, w) float32, log10 optical density.

    Hematoxylin absorbs about (0.59, 0.73, 0.33) of R, G and B, eosin (0.15, 0.74, 0.64).

    Attributes
    ----------
    total : ndarray
        Sum over the channels.
    spread : ndarray
        The strongest channel less the weakest: 0 for glass and for anything grey.
    redness : ndarray
        G - R, positive in every mix of the stains; green and blue ink turn it negative, red ink
        drives it beyond eosin.
    warmth : ndarray
        B - 2 R, negative in tissue unless its eosin is nearly pure; positive in red ink.
    brownness : ndarray
        B - G, negative in every mix of the stains; positive in brown dye and chromogen.
    """

    total: NDArray[np.float32]
    spread: NDArray[np.float32]
    redness: NDArray[np.float32]
    warmth: NDArray[np.float32]
    brownness: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Medians over the stained pixels of a slide; ``warmth`` as a share of the total."""

    total: float
    redness: float
    warmth: float


def measure_absorption(rgb: NDArray[np.uint8]) -> Absorption:
    """Measure the absorption of every pixel of ``rgb``, shape (h, w, 3)."""
    red, green, blue = (cv2.LUT(plane, DENSITY) for plane in cv2.split(rgb))
    strongest = cv2.max(cv2.max(red, green), blue)
    weakest = cv2.min(cv2.min(red, green), blue)
    return Absorption(
        total=red + green + blue,
        spread=strongest - weakest,
        redness=green - red,
        warmth=blue - 2 * red,
        brownness=blue - green,
    )


def usual_absorption(light: Absorption) -> Usual:
    """Take the medians over plainly stained pixels.

    Pixels far from any tissue are left out and the medians bounded, so that a slide covered in
    ink does not become the measure of its own ink. Without stained pixels typical values stand in.
    """
    picked = sample(light.total.size)
    total, spread, redness, warmth = (
        plane[picked] for plane in (light.total, light.spread, light.redness, light.warmth)
    )
    plain = (spread > 0.05) & (redness > 0) & (redness < 0.35) & (total < 1.6)
    if not plain.any():
        return Usual(total=0.6, redness=0.15, warmth=-0.1)
    return Usual(
        total=min(float(np.median(total[plain])), 0.95),
        redness=min(float(np.median(redness[plain])), 0.25),
        warmth=float(np.median(warmth[plain] / total[plain])),
    )


def sample(size: int) -> tuple[slice, slice]:
    """Choose rows and columns that hold about 250,000 of ``size`` pixels: enough for statistics."""
    step = slice(None, None, max(1, int((size / 250_000) ** 0.5)))
    return step, step
