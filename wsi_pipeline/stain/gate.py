"""Pixels of tissue tiles to those that an H&E slide can show: ink, black and clipped ones go.

It judges each pixel alone; what takes shape or neighbourhood is the tissue mask's task.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.stain.separate import density_planes

_BLACK = 25
_CLIPPED = 5
_GREY_CHROMA, _GREY_LEVEL = 20, 100
_INK_DENSITY = 0.3


def gate_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell pixels that an H&E slide can show from ink, black and clipped ones.

    Parameters
    ----------
    pixels : ndarray of shape (N, 3), uint8
        RGB.

    Returns
    -------
    ndarray of shape (N,), bool
        False for black (brightest channel below 25), black ink (dark without colour), clipped
        pixels (two channels below 5, whose densities are unknown) and green, cyan or blue ink.

    Notes
    -----
    Ink is told by each channel's share of the optical density. Hematoxylin and eosin of the 420
    slides published with CLASS-M put 3-44 % into red, 31-61 % into green and 7-63 % into blue;
    green ink puts under 30 % into green, blue ink hardly any into blue, and both most into red.
    A brown pigment also spares green but absorbs most in blue, and passes.
    Red ink has the colour of red blood cells and cannot be told by a pixel: finding it takes its
    shape, which is the tissue mask's task. Glass passes: it is no artefact and has no direction.
    """
    check_pixels(pixels)
    planes = np.ascontiguousarray(pixels.T)
    return gate_planes(planes, density_planes(planes))


def gate_planes(rgb: NDArray[np.uint8], od: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Do what :func:`gate_pixels` does with pixels (3, N) and their optical density (3, N)."""
    red, green, blue = rgb
    brightest = np.maximum(np.maximum(red, green), blue)
    darkest = np.minimum(np.minimum(red, green), blue)
    black = brightest < _BLACK
    black_ink = (brightest < _GREY_LEVEL) & (brightest - darkest < _GREY_CHROMA)
    no_red, no_green, no_blue = red < _CLIPPED, green < _CLIPPED, blue < _CLIPPED
    clipped = (no_red & no_green) | (no_red & no_blue) | (no_green & no_blue)
    return np.asarray(~(black | black_ink | clipped | _is_coloured_ink(od)))


def check_pixels(pixels: NDArray[np.uint8]) -> None:
    """Raise ValueError unless ``pixels`` is (N, 3) uint8."""
    if pixels.ndim != 2 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be (N, 3) uint8, got {pixels.shape} {pixels.dtype}")


def _is_coloured_ink(od: NDArray[np.float64]) -> NDArray[np.bool_]:
    red, green, blue = od
    total = red + green + blue
    green_ink = (green < 0.30 * total) & (red > blue)
    blue_ink = (blue < 0.13 * total) & (red > green + 0.03 * total)
    cyan_ink = red > 0.56 * total
    # in fainter pixels noise decides the shares
    dense = red**2 + green**2 + blue**2 >= _INK_DENSITY**2
    return np.asarray(dense & (green_ink | blue_ink | cyan_ink))
