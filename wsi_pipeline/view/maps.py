"""Predictions, attention and the tile grid of a slide -> rasters of bytes that a page can colour.

One byte per cell and class: a page changes class, threshold and colours without asking again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.results.attention import paint_attention
from wsi_pipeline.results.export.attention import read_attention_table
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.results.heatmap import paint_heatmap
from wsi_pipeline.types import Predictions, TileReason

if TYPE_CHECKING:
    from wsi_pipeline.types import TileGrid
    from wsi_pipeline.view.folder import MapFile

NO_TILE = 255
"""Byte of a cell without a tile; probabilities take 0 to 254."""

ATTENTION_COLOR = "#000000"
"""Not shown: attention has a scale of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """A map of a slide as bytes.

    Attributes
    ----------
    values : ndarray of shape (rows, cols, K), uint8
        Probability times 254, or :data:`NO_TILE`.
    cell_px : float
        Side of a cell, level-0 px; the first lies at (0, 0).
    names, colors : tuple of str
        One per class, or per column of attention.
    kind : str
        ``classes`` or ``attention``.
    counts : tuple of int
        Tiles whose most probable class is each; empty for attention.
    pitch : float
        Distance between neighbouring tiles, level-0 px; 0 for attention.
    """

    values: NDArray[np.uint8]
    cell_px: float
    names: tuple[str, ...]
    colors: tuple[str, ...]
    kind: str
    counts: tuple[int, ...] = ()
    pitch: float = 0.0

    def describe(self, mpp: float) -> dict[str, Any]:
        """Return what a page must know beside the bytes; areas in mm^2."""
        rows, cols, _ = self.values.shape
        mm2 = (self.pitch * mpp / 1000) ** 2
        return {
            "kind": self.kind,
            "rows": rows,
            "cols": cols,
            "cell_px": self.cell_px,
            "names": self.names,
            "colors": self.colors,
            "mm2": [count * mm2 for count in self.counts],
        }


def read_raster(file: MapFile) -> Raster:
    """Read a map from disk.

    Raises
    ------
    PredictionsError
        If the file is damaged.
    """
    if file.kind == "classes":
        return raster_of(read_predictions(file.path))
    table = read_attention_table(file.path)
    values, cell_px = paint_attention(table)
    return Raster(
        values=_to_bytes(values),
        cell_px=cell_px,
        names=table.names,
        colors=(ATTENTION_COLOR,) * len(table.names),
        kind="attention",
    )


def raster_of(predictions: Predictions) -> Raster:
    """Turn predictions into a raster."""
    painted = paint_heatmap(predictions)
    counts = np.bincount(predictions.label, minlength=len(predictions.class_names))
    return Raster(
        values=_to_bytes(painted.values),
        cell_px=painted.cell_px,
        names=predictions.class_names,
        colors=predictions.class_colors,
        kind="classes",
        counts=tuple(counts.tolist()),
        pitch=predictions.pitch,
    )


def _to_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    empty = np.isnan(values)
    scaled = np.rint(np.where(empty, 0, values) * (NO_TILE - 1)).astype(np.uint8)
    scaled[empty] = NO_TILE
    return np.asarray(scaled)


def describe_grid(grid: TileGrid) -> dict[str, Any]:
    """Return what a page must know of the lattice of tiles; their reasons travel as bytes."""
    rows, cols = grid.shape
    return {
        "rows": rows,
        "cols": cols,
        "pitch": grid.pitch,
        "extent": grid.extent,
        "mpp": grid.mpp,
        "patch_px": grid.patch_px,
        "lattice": grid.corners is None,
        "reasons": [reason.name.lower().replace("_", " ") for reason in TileReason],
    }
