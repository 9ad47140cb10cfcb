"""Tissue that a person has drawn, as outlines or as a picture -> a mask of any size.

Takes the place of what was detected; pen, black borders and glass edges beside it stay known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.annotations.crossings import unite
from wsi_pipeline.errors import AnnotationError
from wsi_pipeline.types import Area, TissueMask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_pipeline.types import SlideInfo

PICTURE_SUFFIXES = (".png", ".tif", ".tiff")
MAX_PROPORTION = 1.02
"""How much the proportions of a picture may differ from those of the slide: small pictures are a
whole number of pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnTissue:
    """Where a person says that there is tissue.

    Attributes
    ----------
    shapes : tuple of shapely geometries
        Outlines, level-0 px.
    pixels : ndarray of shape (h, w), bool, or None
        A picture of the whole slide in their place.
    """

    shapes: tuple[shapely.Geometry, ...] = ()
    pixels: NDArray[np.bool_] | None = None

    def at(self, shape: tuple[int, int], downsample: tuple[float, float]) -> NDArray[np.bool_]:
        """Tell which pixels of a mask are tissue.

        Parameters
        ----------
        shape : tuple of int
            Rows and columns of the mask.
        downsample : tuple of float
            Level-0 px per mask px, in x and y.

        Returns
        -------
        ndarray of ``shape``, bool
            True where the middle of the pixel lies in an outline, or where most of it is marked.
        """
        if self.pixels is None:
            return fill_shapes(self.shapes, shape, downsample)
        marked = self.pixels.astype(np.float32)
        smaller = marked.shape[0] > shape[0]
        kind = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST_EXACT
        return np.asarray(cv2.resize(marked, shape[::-1], interpolation=kind) >= 0.5)

    def replace_in(self, mask: TissueMask) -> TissueMask:
        """Return a mask with this tissue instead of that which was detected."""
        found = np.where(mask.tissue, np.uint8(Area.GLASS), mask.areas)
        drawn = self.at(mask.tissue.shape, mask.downsample)
        return replace(mask, areas=np.where(drawn, np.uint8(Area.TISSUE), found))


def read_drawn_tissue(path: Path, slide: SlideInfo) -> DrawnTissue:
    """Read where a person says that there is tissue.

    Parameters
    ----------
    path : Path
        Annotations of any format, all areas of which are tissue; or a PNG or TIFF of any size that
        shows the whole slide, in which everything but 0 is tissue.
    slide : SlideInfo
        The slide, whose frame annotations are in.

    Returns
    -------
    DrawnTissue
        The tissue.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or a picture has not the proportions of the slide.
    """
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        areas = read_annotations(path, slide.size_wh, bounds_xy=slide.bounds_xy)
        return DrawnTissue(shapes=tuple(area.geometry for area in areas))
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise AnnotationError(
            f"tissue mask {path} cannot be read as a picture; save it as PNG with one channel",
            path=path,
        )
    if pixels.ndim == 3:
        pixels = pixels[..., :3].max(axis=2)
    _require_proportions(path, pixels.shape[1::-1], slide.size_wh)
    return DrawnTissue(pixels=pixels > 0)


def fill_shapes(
    shapes: Sequence[shapely.Geometry], shape: tuple[int, int], downsample: tuple[float, float]
) -> NDArray[np.bool_]:
    """Tell which pixels of a raster have their middle inside a polygon.

    Parameters
    ----------
    shapes : sequence of shapely geometries
        Polygons, level-0 px; they may overlap.
    shape : tuple of int
        Rows and columns of the raster.
    downsample : tuple of float
        Level-0 px per pixel, in x and y.

    Returns
    -------
    ndarray of ``shape``, bool
        Along each row, a pixel is inside if an odd number of edges lies to its left.
    """
    rows, cols = shape
    rings = shapely.get_rings(shapely.get_parts(unite(shapes)))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    points = points / downsample - 0.5  # the middle of a pixel has whole numbers
    joined = ring[:-1] == ring[1:]
    begin, end = points[:-1][joined], points[1:][joined]
    low, high = (
        np.ceil(edge(begin[:, 1], end[:, 1])).clip(0, rows).astype(np.int64)
        for edge in (np.minimum, np.maximum)
    )
    crossed = high - low
    edge = np.repeat(np.arange(len(crossed)), crossed)
    row = np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed, crossed) + low[edge]
    (x0, y0), (x1, y1) = begin[edge].T, end[edge].T
    x = x0 + (row - y0) / (y1 - y0) * (x1 - x0)
    parity = np.zeros((rows, cols + 1), dtype=np.uint8)
    np.bitwise_xor.at(parity, (row, np.ceil(x).clip(0, cols).astype(np.int64)), np.uint8(1))
    return np.asarray(np.bitwise_xor.accumulate(parity, axis=1)[:, :-1], dtype=np.bool_)


def _require_proportions(path: Path, found_wh: Sequence[int], size_wh: tuple[int, int]) -> None:
    """Refuse a picture of another slide, or of a part of one."""
    # of a picture of few pixels, each side may be off by half of one
    slack = MAX_PROPORTION + 0.5 / min(found_wh)
    ratio = found_wh[0] / found_wh[1] / (size_wh[0] / size_wh[1])
    if not 1 / slack <= ratio <= slack:
        raise AnnotationError(
            f"tissue mask {path} has {found_wh[0]} x {found_wh[1]} px, but the slide "
            f"{size_wh[0]} x {size_wh[1]}: it must show the whole slide, at any scale",
            path=path,
        )
