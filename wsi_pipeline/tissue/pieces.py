"""Tissue mask -> the pieces of tissue on a slide, numbered as a person would count them.

Fragments that lie close together are one piece; what they show is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wsi_pipeline.types import TissueMask

GAP_UM = 100.0
"""Fragments closer than this belong to one piece: a torn section or core is one, and neighbouring
cores of a tissue microarray, which lie farther apart, are several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The pieces of tissue on a slide.

    Attributes
    ----------
    labels : ndarray of shape (h, w), int32
        Number of the piece that each mask pixel belongs to, from 1; 0 where there is no tissue.
    count : int
        How many pieces there are.
    downsample : tuple of float
        Level-0 px per mask px, in x and y.
    """

    labels: NDArray[np.int32]
    count: int
    downsample: tuple[float, float]

    def nearest(self, xy: NDArray[np.floating]) -> NDArray[np.int32]:
        """Tell which pieces places belong to.

        Parameters
        ----------
        xy : ndarray of shape (M, 2)
            Places, level-0 px, such as the centres of tiles.

        Returns
        -------
        ndarray of shape (M,), int32
            The piece at or nearest to each place; 0 where the slide has no tissue.
        """
        if not self.count or not len(xy):
            return np.zeros(len(xy), dtype=np.int32)
        glass = (self.labels == 0).view(np.uint8)
        _, parts = cv2.distanceTransformWithLabels(
            glass, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
        )
        piece_of_part = np.zeros(int(parts.max()) + 1, dtype=np.int32)
        tissue = self.labels > 0
        piece_of_part[parts[tissue]] = self.labels[tissue]
        limits = np.array(self.labels.shape[::-1]) - 1
        col, row = (xy / self.downsample).astype(np.int64).clip(0, limits).T
        return np.asarray(piece_of_part[parts[row, col]])


def find_pieces(mask: TissueMask, mpp: float, gap_um: float = GAP_UM) -> Pieces:
    """Tell the pieces of tissue apart.

    Parameters
    ----------
    mask : TissueMask
        Tissue of the slide.
    mpp : float
        Resolution at level 0, um/px.
    gap_um : float
        Fragments closer than this are one piece, um.

    Returns
    -------
    Pieces
        Numbered row by row from the top, and from left to right in each row. A piece belongs to a
        row if its middle is beside the piece that the row begins with.
    """
    tissue = mask.tissue.view(np.uint8)
    radius = round(gap_um / 2 / (mpp * max(mask.downsample)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(tissue, disc))
    numbers = np.zeros(count, dtype=np.int32)
    numbers[_reading_order(stats[1:]) + 1] = np.arange(1, count)
    labels = np.where(mask.tissue, numbers[parts], 0).astype(np.int32)
    return Pieces(labels=labels, count=count - 1, downsample=mask.downsample)


def pixel_edges(count: int, scale: float) -> NDArray[np.int64]:
    """Return where the pixels of a row or column of the mask begin and end, whole level-0 px."""
    return np.asarray(np.rint(np.arange(count + 1) * scale), dtype=np.int64)


def measure_tissue(mask: TissueMask, mpp: float) -> float:
    """Return the area of all tissue, mm^2: the sum over what maps and outlines are made of.

    Parameters
    ----------
    mask : TissueMask
        Tissue of the slide.
    mpp : float
        Resolution at level 0, um/px.
    """
    rows, cols = mask.tissue.shape
    widths, heights = pixel_edges(cols, mask.downsample[0]), pixel_edges(rows, mask.downsample[1])
    px = np.diff(heights) @ (mask.tissue @ np.diff(widths))
    return float(px) * (mpp / 1000) ** 2


def _reading_order(stats: NDArray[Any]) -> NDArray[np.intp]:
    """Sort bounding boxes (left, top, width, height, area) into rows, and rows from the left."""
    top = stats[:, cv2.CC_STAT_TOP]
    bottom = top + stats[:, cv2.CC_STAT_HEIGHT]
    row = np.zeros(len(stats), dtype=np.intp)
    end, number = -1.0, -1
    for index in np.argsort((top + bottom) / 2, kind="stable"):
        if (top[index] + bottom[index]) / 2 > end:
            number, end = number + 1, float(bottom[index])
        row[index] = number
    return np.lexsort((stats[:, cv2.CC_STAT_LEFT], row))
