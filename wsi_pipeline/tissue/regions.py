"""Boolean regions to other regions: components by size or seed, discs, distances.

Sizes are given in micrometres and turned into pixels here; what a region shows is not known here.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Region = NDArray[np.bool_]
"""Boolean mask of shape (h, w)."""


def connected_to(seeds: Region, region: Region) -> Region:
    """Keep the components of ``seeds | region`` that hold a seed."""
    count, label = cv2.connectedComponents((seeds | region).view(np.uint8))
    keep = np.zeros(count, dtype=np.bool_)
    keep[label[seeds]] = True
    return np.asarray(keep[label])


def keep_by_area(
    region: Region,
    mpp: float,
    *,
    least_um2: float = 0.0,
    most_um2: float = np.inf,
    connectivity: int = 8,
) -> Region:
    """Keep the components of a region whose area lies between the limits."""
    _, label, stats, _ = cv2.connectedComponentsWithStats(
        region.view(np.uint8), connectivity=connectivity
    )
    area_um2 = stats[:, cv2.CC_STAT_AREA] * mpp**2
    keep = (area_um2 >= least_um2) & (area_um2 <= most_um2)
    keep[0] = False
    return np.asarray(keep[label])


def opened(region: Region, radius_px: int) -> Region:
    """Keep what a disc fits into."""
    return _morph(region, cv2.MORPH_OPEN, radius_px)


def closed(region: Region, radius_px: int) -> Region:
    """Add the gaps that a disc does not fit into."""
    return _morph(region, cv2.MORPH_CLOSE, radius_px)


def within(region: Region, distance_um: float, mpp: float) -> Region:
    """Grow a region by a distance; an empty region stays empty."""
    if not region.any():
        return region.copy()
    away_px = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
    return np.asarray(away_px * mpp <= distance_um)


def _morph(region: Region, operation: int, radius_px: int) -> Region:
    side = 2 * radius_px + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.morphologyEx(region.view(np.uint8), operation, disc).view(np.bool_))
