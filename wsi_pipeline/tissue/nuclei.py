"""Hematoxylin of patches to how large nuclei are: what a wrong resolution cannot hide.

A coarse measure of many nuclei, not a segmentation of each: clumps and lattices are left out, and
large pieces count more than the specks that texture makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SMOOTH_UM = 0.75
"""Standard deviation of the Gaussian that takes texture away, um."""

SURROUNDINGS_UM = 50.0
"""Side of the square whose mean a nucleus exceeds, um."""

SMALLEST_PIECE_UM2 = 3.0
"""Pieces below are texture, um^2."""

SOLID = 0.88
"""Share of its convex hull that a nucleus fills, at least."""

STOUT = 0.4
"""Shorter over longer side of the box around a nucleus, at least."""

FEWEST = 50
"""Pieces that a typical size rests on, at least."""

_DISC = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=np.uint8)


def typical_nucleus_um2(patches: Iterable[NDArray[np.float32]], mpp: float) -> float | None:
    """Measure how large the nuclei of a slide are.

    Parameters
    ----------
    patches : iterable of ndarray of shape (H, W), float32
        Concentration of hematoxylin.
    mpp : float
        Resolution, um/px; 0.5 is what the measure was tried at.

    Returns
    -------
    float or None
        Half of the area of all nuclei belongs to larger ones, um^2; None where fewer than
        :data:`FEWEST` are found.
    """
    areas = np.sort([area for patch in patches for area in nucleus_areas(patch, mpp)])
    if len(areas) < FEWEST:
        return None
    running = np.cumsum(areas)
    return float(areas[np.searchsorted(running, running[-1] / 2)])


def nucleus_areas(hematoxylin: NDArray[np.float32], mpp: float) -> list[float]:
    """List the areas of pieces that are darker than their surroundings and solid, um^2.

    Parameters
    ----------
    hematoxylin : ndarray of shape (H, W), float32
        Concentration.
    mpp : float
        Resolution, um/px.

    Returns
    -------
    list of float
        Pieces cut by the border are left out.
    """
    plane = cv2.GaussianBlur(hematoxylin, (0, 0), SMOOTH_UM / mpp)
    side = 2 * round(SURROUNDINGS_UM / mpp / 2) + 1
    low, high = np.percentile(plane[::2, ::2], (1, 99))
    if high - low < 1e-3:
        return []
    grey = np.clip((plane - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
    limit, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    dark = ((grey > limit) & (plane > cv2.blur(plane, (side, side)))).astype(np.uint8)
    dark = cv2.morphologyEx(dark, cv2.MORPH_OPEN, _DISC)
    outlines, _ = cv2.findContours(dark, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [_area_of(outline, dark.shape[:2]) * mpp**2 for outline in outlines]
    return [area for area in areas if area >= SMALLEST_PIECE_UM2]


def _area_of(outline: cv2.typing.MatLike, shape: tuple[int, ...]) -> float:
    """Area of a piece, px; 0 where it has not the shape of a nucleus."""
    x, y, width, height = cv2.boundingRect(outline)
    if x < 1 or y < 1 or x + width >= shape[1] or y + height >= shape[0]:
        return 0.0
    area, hull = cv2.contourArea(outline), cv2.contourArea(cv2.convexHull(outline))
    is_nucleus = area >= SOLID * hull and min(width, height) >= STOUT * max(width, height)
    return float(area) if is_nucleus else 0.0
