"""Low-resolution RGB of a slide to the same picture with glass of one neutral grey.

Scanners, mounting media and lamps tint glass and light it unevenly; limits on colour hold only
once that is taken away. What lies on the glass is not judged here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.tissue.absorption import DENSITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEUTRAL = 243.0
"""Grey level that glass is brought to: that of the slides which the limits on colour come from."""

LOOKED_AT_PX = 512
"""Longest side of the picture that glass is looked for in, px."""

SMOOTH = 6
"""Grey levels that neighbouring pixels of glass may differ by."""

DARKEST_GLASS = 0.2
"""Optical density that no channel of glass exceeds."""

STRONGEST_TINT = 0.13
"""Spread of optical density that tinted glass does not exceed."""

PINKEST_GLASS = 0.025
"""Density of green beyond the mean of red and blue that glass does not exceed; stains do."""

LEAST_SHARE = 0.01
"""Smallest share of the picture that proves the colour of its glass."""

FITTED_PX = 20_000
"""About how many pixels the colour of glass is fitted to."""

FREQUENT = 0.05
"""Share of what may be glass that one colour must have to be it."""

BIN = 0.01
"""Width of the classes of total density among which glass is the most frequent one."""

NEAR = np.array([0.02, 0.006, 0.02])
"""How far glass may be from its fitted colour: red, pinkness and blue, optical density."""

STEADY = 0.006
"""Range of fitted density below which light counts as even."""


@dataclass(frozen=True, slots=True)
class _Tint:
    """Fitted colour of glass: polynomials in x and y of red and of blue, and one pinkness."""

    terms: NDArray[np.float64]
    pinkness: float

    def density(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Optical density of glass at places in [0, 1], shape (3, ...)."""
        red, blue = np.tensordot(self.terms, _powers(x, y)[: self.terms.shape[1]], axes=1)
        return np.stack([red, (red + blue) / 2 + self.pinkness, blue])


def even_glass(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring glass to one neutral grey all over a picture.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide at low resolution.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        The picture as a white balanced scanner under even light would have given it; as it is
        where too little of it is glass to tell.

    Notes
    -----
    Glass is smooth, bright and not pink, as every mix of the stains is; among such pixels the
    brightest frequent colour is taken, or a darker one that is more frequent and no pinker, which
    lies beside blank parts that were never scanned. Its red and blue are followed over the slide
    by polynomials of up to second order; its pinkness is the same everywhere, so that pale tissue
    does not pass for uneven light.
    """
    tint = _find_tint(_shrunk(rgb))
    if tint is None:
        return rgb
    grid = np.linspace(0, 1, 33)
    density = tint.density(*np.meshgrid(grid, grid))
    gain = (NEUTRAL / 255 * 10.0**density).astype(np.float32)
    if np.ptp(density, axis=(1, 2)).max() < STEADY:
        levels = np.arange(256.0)[:, np.newaxis] * gain.mean(axis=(1, 2))
        table = np.rint(levels.clip(0, 255)).astype(np.uint8)
        return np.asarray(cv2.LUT(rgb, table[np.newaxis]), dtype=np.uint8)
    size = (rgb.shape[1], rgb.shape[0])
    planes = [
        cv2.multiply(plane, cv2.resize(gains, size), dtype=cv2.CV_8U)
        for plane, gains in zip(cv2.split(rgb), gain, strict=True)
    ]
    return np.asarray(cv2.merge(planes), dtype=np.uint8)


def glass_share(rgb: NDArray[np.uint8]) -> float:
    """Return the share of a picture, (h, w, 3), that looks like glass; 0 where none is found."""
    small = _shrunk(rgb)
    tint = _find_tint(small)
    if tint is None:
        return 0.0
    height, width = small.shape[:2]
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    away = np.abs(np.moveaxis(DENSITY[small], 2, 0) - tint.density(x, y))
    return float((away < NEAR[0]).all(axis=0).mean())


def _shrunk(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = min(1.0, LOOKED_AT_PX / max(rgb.shape[:2]))
    size = [max(1, round(side * scale)) for side in rgb.shape[1::-1]]
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _find_tint(rgb: NDArray[np.uint8]) -> _Tint | None:
    """Find the colour of glass, and how it changes over the picture."""
    planes = cv2.split(rgb)
    red, green, blue = (cv2.LUT(plane, DENSITY) for plane in planes)
    strongest = cv2.max(cv2.max(red, green), blue)
    pinkness = green - (red + blue) / 2
    box = np.ones((3, 3), dtype=np.uint8)
    steps = cv2.split(cv2.subtract(cv2.dilate(rgb, box), cv2.erode(rgb, box)))
    unevenness = cv2.max(cv2.max(*steps[:2]), steps[2])
    plain = (
        (unevenness <= SMOOTH)
        & (strongest < DARKEST_GLASS)
        & (strongest - cv2.min(cv2.min(red, green), blue) < STRONGEST_TINT)
        & (pinkness < PINKEST_GLASS)
        & (cv2.min(cv2.min(*planes[:2]), planes[2]) < 254)  # what was never scanned is white
    )
    if plain.mean() < LEAST_SHARE:
        return None
    row, col = np.nonzero(plain)
    few = slice(None, None, -(-len(row) // FITTED_PX))
    row, col = row[few], col[few]
    height, width = plain.shape
    colours = np.stack([plane[row, col] for plane in (red, pinkness, blue)]).astype(np.float64)
    return _follow(colours, (col + 0.5) / width, (row + 0.5) / height)


def _follow(
    colours: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> _Tint | None:
    """Fit the most frequent colour, then what lies near it, with ever more freedom."""
    start = _frequent(colours)
    if start is None:
        return None
    tint = _Tint(terms=start[[0, 2], np.newaxis], pinkness=float(start[1]))
    powers = _powers(x, y)
    for order in (1, 3, 3, 3, 6, 6, 6):
        near = _is_near(colours, tint, x, y)
        if order > 1 and not _spans(x[near], y[near]):
            break
        solved = np.linalg.lstsq(powers[:order, near].T, colours[::2, near].T, rcond=None)[0]
        tint = _Tint(terms=np.asarray(solved.T), pinkness=float(np.median(colours[1, near])))
    return tint


def _frequent(colours: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the colour of the cluster that is glass: red, pinkness, blue."""
    total = 1.5 * (colours[0] + colours[2]) + colours[1]
    classes = (total / BIN).clip(0).astype(np.int64)
    counts = np.convolve(np.bincount(classes), (0.25, 0.5, 0.25), mode="same")
    framed = np.pad(counts, 1)
    peak = (counts >= framed[:-2]) & (counts >= framed[2:])
    frequent = np.flatnonzero(peak & (counts >= FREQUENT * len(total)))
    if not len(frequent):
        return None
    medians = [np.median(colours[:, np.abs(classes - at) <= 1], axis=1) for at in frequent]
    no_pinker = [m[1] <= medians[0][1] + NEAR[1] / 2 for m in medians]
    chosen = max(np.flatnonzero(no_pinker), key=lambda at: counts[frequent[at]])
    return np.asarray(medians[chosen])


def _is_near(
    colours: NDArray[np.float64], tint: _Tint, x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.bool_]:
    red, _, blue = tint.density(x, y)
    away = np.abs(colours - np.stack([red, np.full_like(red, tint.pinkness), blue]))
    return np.asarray((away <= NEAR[:, np.newaxis]).all(axis=0))


def _spans(x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Whether glass lies so widely that a trend over the picture can be told from it."""
    spread = [np.subtract(*np.percentile(axis, (95, 5))) for axis in (x, y)] if len(x) else [0.0]
    return min(spread) > 0.5


def _powers(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = x - 0.5, y - 0.5
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
