"""A raster of labels -> the outline of every connected region, holes included.

Outlines follow the edges of cells exactly. What labels mean is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

if TYPE_CHECKING:
    from shapely.geometry import Polygon


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Connected cells of one label; cells that touch at a corner alone are not connected.

    Attributes
    ----------
    label : int
        The label.
    polygon : shapely Polygon
        Outline and holes, in the unit of the edges.
    cell_rc : tuple of int
        One of its cells.
    """

    label: int
    polygon: Polygon
    cell_rc: tuple[int, int]


def outline_regions(
    labels: NDArray[np.integer],
    x_edges: NDArray[np.int64],
    y_edges: NDArray[np.int64],
    background: int,
) -> list[Region]:
    """Outline the regions of a raster.

    Parameters
    ----------
    labels : ndarray of shape (rows, cols), int
        What each cell is.
    x_edges, y_edges : ndarray of shape (cols + 1,) and (rows + 1,), int64
        Where columns and rows begin and end.
    background : int
        Cells with labels up to this belong to no region.

    Returns
    -------
    list of Region
        Sorted by label, then from the top left. They do not overlap, and neighbours share edges.

    Notes
    -----
    Lines are drawn wherever neighbours differ, straight from corner to corner, and GEOS finds the
    faces between them.
    """
    framed = np.full(np.add(labels.shape, 2), background, dtype=np.int64)
    framed[1:-1, 1:-1] = np.maximum(labels, background)
    across = framed[:-1, 1:-1] != framed[1:, 1:-1]  # edges that lie along rows
    down = (framed[1:-1, :-1] != framed[1:-1, 1:]).T
    lines = np.concatenate(
        [
            _straight(across, _corners(down).T, x_edges, y_edges),
            _straight(down, _corners(across).T, y_edges, x_edges)[..., ::-1],
        ]
    )
    if not len(lines):
        return []
    faces = shapely.get_parts(shapely.polygonize(shapely.linestrings(lines)))
    inside = shapely.get_coordinates(shapely.point_on_surface(faces))
    rows = np.searchsorted(y_edges, inside[:, 1], side="right") - 1
    cols = np.searchsorted(x_edges, inside[:, 0], side="right") - 1
    found = labels[rows, cols]
    order = np.lexsort((cols, rows, found))
    return [
        Region(
            label=int(found[index]),
            polygon=faces[index],
            cell_rc=(int(rows[index]), int(cols[index])),
        )
        for index in order
        if found[index] > background
    ]


def _corners(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which vertices along the edges of one direction have an edge, shape (lines, n + 1)."""
    touched = np.zeros((edges.shape[0], edges.shape[1] + 1), dtype=np.bool_)
    touched[:, :-1] = edges
    touched[:, 1:] |= edges
    return touched


def _straight(
    edges: NDArray[np.bool_],
    corners: NDArray[np.bool_],
    along: NDArray[np.int64],
    across: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Join edges into lines that end where another direction meets them, shape (L, 2, 2)."""
    begins, ends = edges.copy(), edges.copy()
    begins[:, 1:] &= ~edges[:, :-1] | corners[:, 1:-1]
    ends[:, :-1] &= ~edges[:, 1:] | corners[:, 1:-1]
    line, start = np.nonzero(begins)
    _, stop = np.nonzero(ends)
    starts = np.stack([along[start], across[line]], axis=1)
    stops = np.stack([along[stop + 1], across[line]], axis=1)
    return np.stack([starts, stops], axis=1)
