"""A picture of a strongly stained or thick section to the picture of a usual one.

Packed nuclei of a thick section are as dark as ink on a thin one, so limits on ink hold only once
the strength of the stain is taken away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.tissue.absorption import Absorption, sample
from wsi_pipeline.tissue.glass import NEUTRAL

if TYPE_CHECKING:
    from numpy.typing import NDArray

USUAL_DENSITY = 0.65
"""Median over a usual slide's stained pixels, optical density summed over the channels."""

LEAST_STAINED = 0.002
"""Share of a picture that must be stained for its strength to be told."""

INK_HUE = 0.13
"""Density of red over that of green below which no eosin lies but red ink does."""

INK_REDNESS = 0.42
"""Density of green less that of red from which the hue of red ink is looked at."""

MUCH_INK = 0.05
"""Share of red ink in what is stained above which the stain is not believed to be strong."""

INKED_STRENGTH = 1.3
"""Largest strength of a slide with much ink, for ink may be its median."""


def staining_strength(light: Absorption) -> float:
    """Tell how many times denser than usual a slide is stained.

    Parameters
    ----------
    light : Absorption
        The whole slide, its glass brought to :data:`~wsi_pipeline.tissue.glass.NEUTRAL`.

    Returns
    -------
    float
        At least 1.
    """
    picked = sample(light.total.size)
    total, spread, redness, warmth = (
        plane[picked] for plane in (light.total, light.spread, light.redness, light.warmth)
    )
    stained = (spread > 0.05) & (spread > 0.12 * total) & (redness > 0)
    if stained.mean() < LEAST_STAINED:
        return 1.0
    strength = max(1.0, float(np.median(total[stained])) / USUAL_DENSITY)
    # R + G + B, G - R and B - 2R, solved for R, less what glass absorbs
    red = (total - redness - warmth) / 4 - np.float32(np.log10(255 / NEUTRAL))
    ink = stained & (redness > INK_REDNESS) & (red < INK_HUE * (red + redness))
    much = ink.sum() > MUCH_INK * stained.sum()
    return min(strength, INKED_STRENGTH) if much else strength


def weaken(rgb: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Divide the optical density of all that lies on the glass by ``strength``."""
    if strength == 1.0:
        return rgb
    grey = np.arange(256.0)
    curve = np.where(grey < NEUTRAL, NEUTRAL * (grey / NEUTRAL) ** (1 / strength), grey)
    return np.asarray(cv2.LUT(rgb, np.rint(curve).astype(np.uint8)), dtype=np.uint8)
