"""Predictions of tiles -> a raster of class probability on the tile lattice.

Paints numbers, not colours; pictures are made elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import Heatmap, Predictions

MAX_CELLS_PER_PITCH = 4
"""Finest division of the lattice. Overlaps of a half, a third or a quarter are painted exactly,
others to the nearest cell, so that a stride of 255 in tiles of 256 px does not make 65,025 cells
of every tile."""

COLUMNS_AT_ONCE = 64
"""Columns of numbers averaged over tiles in one go, so that features take little memory."""

SAME_PX = 1e-6
"""What floating point makes of equal lengths."""


class Tiles(Protocol):
    """Tiles on a lattice, such as those of :class:`~wsi_pipeline.types.Predictions`."""

    @property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners, level-0 px, shape (N, 2)."""

    @property
    def rc(self) -> NDArray[np.int32]:
        """Lattice indices, shape (N, 2)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""

    @property
    def pitch(self) -> float:
        """Distance between neighbouring tiles, level-0 px."""


def paint_heatmap(predictions: Predictions) -> Heatmap:
    """Paint predictions on cells of which tile and pitch are whole multiples.

    Parameters
    ----------
    predictions : Predictions
        Of one slide; N = 0 is legal.

    Returns
    -------
    Heatmap
        Every cell holds the mean of the tiles that cover it, NaN where there is none. Tiles that
        neither overlap nor leave gaps give one cell each.
    """
    values, cell_px = paint_tiles(predictions.prob, predictions)
    return Heatmap(
        values=values,
        cell_px=cell_px,
        class_names=predictions.class_names,
        class_colors=predictions.class_colors,
    )


def one_per_place(predictions: Predictions) -> Predictions:
    """Turn tiles that overlap into cells that do not, each with the mean of what covers it.

    Parameters
    ----------
    predictions : Predictions
        Of one slide.

    Returns
    -------
    Predictions
        The cells of :func:`paint_heatmap` as tiles of their own; the same predictions where no
        tiles overlap.
    """
    cells = lay_cells(predictions)
    if cells is None:
        return predictions
    return replace(
        predictions,
        prob=cells.means(predictions.prob, predictions),
        xy=cells.xy,
        rc=cells.rc,
        shape=cells.shape,
        extent=cells.side,
        pitch=cells.side,
        piece=None,
        distance=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Squares without overlap that tiles with overlap cover.

    Attributes
    ----------
    rc : ndarray of shape (M, 2), int32
        Indices in a lattice of their own.
    xy : ndarray of shape (M, 2), int64
        Top-left corners, level-0 px.
    shape : tuple of int
        Rows and columns of that lattice.
    side : float
        Side of a cell, level-0 px.
    """

    rc: NDArray[np.int32]
    xy: NDArray[np.int64]
    shape: tuple[int, int]
    side: float

    def means(self, values: NDArray[np.float32], tiles: Tiles) -> NDArray[np.float32]:
        """Average numbers of the tiles, shape (N, K), over those that cover each cell: (M, K)."""
        means = np.empty((len(self.rc), values.shape[1]), dtype=np.float32)
        for first in range(0, values.shape[1], COLUMNS_AT_ONCE):
            some = slice(first, first + COLUMNS_AT_ONCE)
            means[:, some] = paint_tiles(values[:, some], tiles)[0][tuple(self.rc.T)]
        return means


def lay_cells(tiles: Tiles) -> Cells | None:
    """Cut what overlapping tiles cover into cells; None where no tiles overlap."""
    if tiles.extent <= tiles.pitch * (1 + SAME_PX) or not len(tiles.xy):
        return None
    covered, side = paint_tiles(np.ones((len(tiles.xy), 1), dtype=np.float32), tiles)
    end = tiles.xy.max(axis=0) + tiles.extent
    rc = np.argwhere(~np.isnan(covered[..., 0])).astype(np.int32)
    # where the last tiles were shifted inwards, their cells end beyond the slide
    rc = rc[(rc[:, ::-1] * side < end - SAME_PX).all(axis=1)]
    return Cells(
        rc=rc,
        xy=np.rint(rc[:, ::-1] * side).astype(np.int64),
        shape=(covered.shape[0], covered.shape[1]),
        side=side,
    )


def paint_tiles(values: NDArray[np.float32], tiles: Tiles) -> tuple[NDArray[np.float32], float]:
    """Paint numbers of tiles on cells of which tile and pitch are whole multiples.

    Parameters
    ----------
    values : ndarray of shape (N, K), float32
        What to paint.
    tiles : Tiles
        Where the N tiles lie; N = 0 is legal.

    Returns
    -------
    raster : ndarray of shape (rows, cols, K), float32
        The mean of the tiles that cover each cell, NaN where there is none.
    cell_px : float
        Side of a cell, level-0 px.
    """
    tile, pitch = _cells(tiles.extent, tiles.pitch)
    rows, cols = tiles.shape
    k = values.shape[1]
    # the last channel counts tiles
    corners = np.zeros((_span(rows, pitch), _span(cols, pitch), k + 1))
    corners[tiles.rc[:, 0] * pitch, tiles.rc[:, 1] * pitch, :k] = values
    corners[tiles.rc[:, 0] * pitch, tiles.rc[:, 1] * pitch, k] = 1
    sums = _spread(_spread(corners, tile, axis=0), tile, axis=1)
    count = sums[..., k:]
    raster = np.full((*sums.shape[:2], k), np.nan)
    np.divide(sums[..., :k], count, out=raster, where=count > 0)
    return raster.astype(np.float32), tiles.pitch / pitch


def paint_places(
    values: NDArray[np.float32], xy: NDArray[np.int64], extent: float
) -> tuple[NDArray[np.float32], float]:
    """Paint numbers of tiles that lie anywhere, on cells a quarter of a tile wide.

    Parameters
    ----------
    values : ndarray of shape (N, K), float32
        What to paint.
    xy : ndarray of shape (N, 2), int64
        Top-left corners of the tiles, level-0 px; N = 0 is legal.
    extent : float
        Side of a tile, level-0 px.

    Returns
    -------
    raster : ndarray of shape (rows, cols, K), float32
        The mean of the tiles that cover the middle of each cell, NaN where there is none.
    cell_px : float
        Side of a cell, level-0 px.
    """
    cell_px = extent / MAX_CELLS_PER_PITCH
    first = np.ceil(xy / cell_px - 0.5).astype(np.int64)  # the first cell whose middle is inside
    after = np.ceil((xy + extent) / cell_px - 0.5).astype(np.int64)
    cols, rows = after.max(axis=0).tolist() if len(xy) else (0, 0)
    sums = np.zeros((rows, cols, values.shape[1] + 1))  # the last channel counts tiles
    for (x, y), (right, below), row in zip(
        first.clip(0).tolist(), after.tolist(), values, strict=True
    ):
        sums[y:below, x:right, :-1] += row
        sums[y:below, x:right, -1] += 1
    count = sums[..., -1:]
    raster = np.full((rows, cols, values.shape[1]), np.nan)
    np.divide(sums[..., :-1], count, out=raster, where=count > 0)
    return raster.astype(np.float32), cell_px


def _cells(extent: float, pitch: float) -> tuple[int, int]:
    """Return the sides of a tile and of a lattice step in cells."""
    ratio = Fraction(extent / pitch).limit_denominator(MAX_CELLS_PER_PITCH)
    return max(1, ratio.numerator), ratio.denominator


def _span(count: int, pitch: int) -> int:
    """Return the distance from the first to the last corner, both included, in cells."""
    return (count - 1) * pitch + 1 if count else 0


def _spread(values: NDArray[np.float64], length: int, axis: int) -> NDArray[np.float64]:
    """Add to each cell the ``length - 1`` cells before it along ``axis``, which grows by them."""
    source = np.moveaxis(values, axis, 0)
    n = len(source)
    total = np.zeros((n + length - 1 if n else 0, *source.shape[1:]))
    for shift in range(length if n else 0):
        total[shift : shift + n] += source
    return np.moveaxis(total, 0, axis)
