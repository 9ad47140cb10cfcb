"""Low-resolution RGB of a slide to whether its numbers are red, green and blue at all.

Writers store luminance and chroma and declare red, green and blue, or the reverse. What such files
show is no colour of glass and stain, so it is told by them; nothing is converted here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREY_CHROMA = 128
"""Value of both chroma channels for grey, such as glass."""

NEAR_GREY = 12
"""How far the chroma of glass lies from grey, at most, counts."""

LUMINOUS = 170
"""Luminance that glass exceeds."""

CHROMA_RANGE = (88, 190)
"""Chroma of stained tissue; less than a hundredth of it lies beyond."""

STEADY_CHROMA = 0.75
"""Spread of chroma as a share of that of luminance, at most. Of red, green and blue, green varies
most where hematoxylin and eosin absorb."""

SATURATED = 250
"""Red and blue that white becomes if it is read as luminance and chroma."""

STARVED = 165
"""Green that is left of it, at most."""

BLANK = (1, 254)
"""Values of what was never scanned, and whose colour says nothing."""

MOSTLY = 0.8
"""Share of a picture with the chroma of glass and stain, where ink may have the rest."""

LOOKED_AT_PX = 256
"""Pixels that are looked at along the longer side of a picture, about."""

TELLING_SHARE = 0.05
"""Share of a picture that glass of impossible colour must have to be believed."""

_MISCODED = (
    "it holds {held} values that its file declares to be {declared}, so its colours are wrong "
    "everywhere. Export the slide anew, or correct the tag PhotometricInterpretation of a TIFF, "
    "such as by 'tiffset -s 262 {tag} FILE' on a copy"
)


def find_miscoding(rgb: NDArray[np.uint8]) -> str:
    """Say what the samples of a slide are, where they are not the colours that its file declares.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide at low resolution, as its file declares it.

    Returns
    -------
    str
        What is wrong and how to mend it; empty where nothing is. RGB declared as YCbCr is told by
        glass alone, so a field of view without glass passes.
    """
    step = max(1, max(rgb.shape[:2]) // LOOKED_AT_PX)
    rgb = rgb[::step, ::step]
    if _is_chroma(rgb):
        return _MISCODED.format(held="YCbCr", declared="RGB", tag=6)
    if _is_converted_twice(rgb):
        return _MISCODED.format(held="RGB", declared="YCbCr", tag=2)
    return ""


def _is_chroma(rgb: NDArray[np.uint8]) -> bool:
    """Whether the channels are luminance and two of chroma."""
    scanned = rgb[(rgb.max(axis=2) > BLANK[0]) & (rgb.min(axis=2) < BLANK[1])].astype(np.int16)
    if not len(scanned):
        return False
    luminance, chroma = scanned[:, 0], scanned[:, 1:]
    low, high = CHROMA_RANGE
    usual = float(((chroma >= low) & (chroma <= high)).all(axis=1).mean())
    grey = (np.abs(chroma - GREY_CHROMA) <= NEAR_GREY).all(axis=1) & (luminance > LUMINOUS)
    if usual > MOSTLY and float(grey.mean()) > TELLING_SHARE:
        return True
    spread = float(chroma.std(axis=0).max())
    return usual > 1 - TELLING_SHARE and spread < STEADY_CHROMA * float(luminance.std())


def _is_converted_twice(rgb: NDArray[np.uint8]) -> bool:
    """Whether glass has the colour of white taken for luminance and chroma, a bright magenta."""
    red, green, blue = (rgb[..., channel] for channel in range(3))
    magenta = (red >= SATURATED) & (blue >= SATURATED) & (green < STARVED)
    return bool(magenta.mean() > TELLING_SHARE)
