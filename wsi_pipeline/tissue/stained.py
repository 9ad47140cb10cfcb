"""Low-resolution RGB on neutral glass to what is stained: tissue, once artefacts are set aside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from wsi_pipeline.tissue.absorption import DARKEST, DENSITY, sample
from wsi_pipeline.tissue.glass import NEUTRAL
from wsi_pipeline.tissue.regions import Region, closed, connected_to, keep_by_area

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.config import TissueConfig

OTSU_SHARE = 0.6
"""Where glass ends, as a share of Otsu's threshold, which lies midway to the usual stain."""

FAINTEST = 0.012
"""Spread of optical density that no glass reaches, whatever the stain."""

FAINTEST_LIKELY = 0.010
"""The same for what connects to tissue that is told by more."""

ANY_COLOUR = 0.05
"""Spread beyond which any colour is stain; fainter, it must be pink as the stains are.

Also the largest limit between glass and stain on a slide of natural strength: a field of nothing
but tissue would be cut between hematoxylin and eosin otherwise."""

PALE = 0.03
"""Limit of a slide so pale that any colour beyond this is stain, and of a picture of one colour."""

NATURAL_STRENGTH = 1.4
"""Strength of stain up to which :data:`ANY_COLOUR` is large enough."""

PINK_SHARE = 0.4
"""Density of green beyond the mean of red and blue in faint stain, as a share of the spread.

Of hematoxylin and eosin it is 0.6 to 0.8, of tinted glass and dirt under 0.2."""

GAP_UM = 16.0
"""Half the gap within tissue that is closed, um."""

FIELD_UM2 = 400_000.0
"""Smaller pictures are fields of view, whose borders cut pieces of tissue, um^2."""

FIELD_SHARE = 0.05
"""Share of a field of view that suffices for a piece of tissue."""


def find_stained(
    rgb: NDArray[np.uint8], free: Region, mpp: float, strength: float, config: TissueConfig
) -> Region:
    """Find tissue.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide, its glass brought to :data:`~wsi_pipeline.tissue.glass.NEUTRAL`.
    free : ndarray of shape (h, w), bool
        Where it is looked for.
    mpp : float
        Resolution, um/px.
    strength : float
        How many times denser than usual the stain is.
    config : TissueConfig
        Size limits.

    Returns
    -------
    ndarray of shape (h, w), bool
        Tissue, its gaps closed, its holes filled and small pieces dropped.
    """
    red, green, blue = cv2.split(_soften(rgb, mpp))
    strongest = np.maximum(cv2.max(cv2.max(red, green), blue), DARKEST)
    weakest = np.maximum(cv2.min(cv2.min(red, green), blue), DARKEST)
    pinkness = np.asarray(
        cv2.subtract(cv2.addWeighted(red, 0.5, blue, 0.5, 0), green), dtype=np.uint8
    )
    limit = _limit(strongest, weakest, free, strength)
    any_colour = ANY_COLOUR if limit > PALE else PALE
    sure = _stained_beyond(limit, any_colour, strongest, weakest, pinkness) & free
    weaker = max(limit / 2, FAINTEST_LIKELY)
    likely = _stained_beyond(weaker, any_colour / 2, strongest, weakest, pinkness) & free
    found = closed(connected_to(sure, likely), round(GAP_UM / mpp)) & free
    found |= keep_by_area(free & ~found, mpp, most_um2=config.max_hole_um2, connectivity=4)
    return keep_by_area(found, mpp, least_um2=_least_um2(free.size * mpp**2, config))


def _least_um2(picture_um2: float, config: TissueConfig) -> float:
    """Return the area of the smallest piece of tissue, um^2."""
    if picture_um2 >= FIELD_UM2:
        return config.min_tissue_um2
    return min(config.min_tissue_um2, FIELD_SHARE * picture_um2)


def _stained_beyond(
    limit: float,
    any_colour: float,
    strongest: NDArray[np.uint8],
    weakest: NDArray[np.uint8],
    pinkness: NDArray[np.uint8],
) -> Region:
    """Tell pixels whose spread exceeds a limit, fainter ones than ``any_colour`` if pink."""
    if limit >= any_colour:
        return _spreads(limit, strongest, weakest)
    # of faint stain, d(density) = d(grey) / (grey ln 10)
    pink = pinkness > PINK_SHARE * limit * np.log(10) * NEUTRAL
    faint = _spreads(limit, strongest, weakest) & pink
    return np.asarray(_spreads(any_colour, strongest, weakest) | faint)


def _spreads(limit: float, strongest: NDArray[np.uint8], weakest: NDArray[np.uint8]) -> Region:
    # A spread above s means weakest < strongest * 10^-s: bytes suffice, however large the slide.
    bound = np.ceil(np.arange(256) * 10.0**-limit).astype(np.uint8)
    return np.asarray(weakest < cv2.LUT(strongest, bound))


def _limit(
    strongest: NDArray[np.uint8], weakest: NDArray[np.uint8], free: Region, strength: float
) -> float:
    """Choose the spread of optical density that parts glass from stain."""
    picked = sample(free.size)
    spread = (DENSITY[weakest[picked]] - DENSITY[strongest[picked]])[free[picked]]
    if not spread.size or spread.min() == spread.max():
        return PALE
    # Beyond 0.5 all is stain; dark outliers would stretch the bins.
    otsu = threshold_otsu(spread.clip(0, 0.5))  # type: ignore[no-untyped-call]
    largest = ANY_COLOUR * max(1.0, strength / NATURAL_STRENGTH)
    return float(np.clip(OTSU_SHARE * otsu, FAINTEST, largest))


def _soften(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
    """Take away single-pixel noise where pixels are finer than cells."""
    sigma = 6.4 / mpp
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma)) if sigma >= 0.4 else rgb
