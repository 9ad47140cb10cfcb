"""Attention of a slide's tiles -> a Parquet table and GeoJSON for QuPath.

Attention is a share of a decision, not a probability: over the tiles of a slide it sums to 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.errors import PredictionsError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.results.export.geojson import (
    boxes_of,
    tile_boxes,
    tile_feature,
    write_collection,
)
from wsi_pipeline.results.heatmap import lay_cells

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DECIMALS = 8
METADATA_KEY = b"wsi_pipeline"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileAttention:
    """How much each tile of a slide counted.

    Attributes
    ----------
    values : ndarray of shape (N, A), float32
        Columns sum to 1.
    names : tuple of str
        One per column.
    xy : ndarray of shape (N, 2), int64
        Top-left corners, level-0 px.
    rc : ndarray of shape (N, 2), int32
        Lattice indices.
    shape : tuple of int
        Rows and columns of the lattice.
    extent, pitch : float
        Side of a tile and distance between tiles, level-0 px.
    lattice : bool
        Whether the tiles lie on a lattice; if not, ``xy`` alone says where they are.
    """

    values: NDArray[np.float32]
    names: tuple[str, ...]
    xy: NDArray[np.int64]
    rc: NDArray[np.int32]
    shape: tuple[int, int]
    extent: float
    pitch: float
    lattice: bool = True

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.xy), len(self.names)):
            raise ValueError(
                f"values {self.values.shape} do not match {len(self.xy)} tiles and "
                f"{len(self.names)} names"
            )

    @property
    def percentile(self) -> NDArray[np.float32]:
        """Share of the tiles with less attention, equal ones counted half; shape (N, A)."""
        ranks = []
        for column in self.values.T:
            ordered = np.sort(column)
            below = np.searchsorted(ordered, column, side="left")
            up_to = np.searchsorted(ordered, column, side="right")
            ranks.append((below + up_to) / 2 / max(1, len(column)))
        return np.stack(ranks, axis=1).astype(np.float32)


def write_attention_table(path: Path, attention: TileAttention) -> None:
    """Write one row per tile.

    Parameters
    ----------
    path : Path
        Parquet file to write; an older one is replaced in one step.
    attention : TileAttention
        Of one slide.

    Notes
    -----
    Columns: ``x``, ``y`` (top-left corner, level-0 px), ``extent`` (side, level-0 px), ``row``,
    ``col`` (lattice index), then ``<name>`` (sums to 1) and ``<name>_percentile`` for each column
    of the attention.
    """
    columns: dict[str, Any] = {
        "x": attention.xy[:, 0],
        "y": attention.xy[:, 1],
        "extent": np.full(len(attention.xy), attention.extent),
        "row": attention.rc[:, 0],
        "col": attention.rc[:, 1],
    }
    for index, name in enumerate(attention.names):
        columns[name] = np.ascontiguousarray(attention.values[:, index])
        columns[f"{name}_percentile"] = np.ascontiguousarray(attention.percentile[:, index])
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    about = {
        "names": attention.names,
        "shape": attention.shape,
        "extent": attention.extent,
        "pitch": attention.pitch,
        "lattice": attention.lattice,
    }
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about)})
    with replace_atomically(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_attention_table(path: Path) -> TileAttention:
    """Read what :func:`write_attention_table` wrote.

    Raises
    ------
    PredictionsError
        If the file is missing, damaged, or no table of attention.
    """
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[METADATA_KEY])
        columns = {name: table[name].to_numpy() for name in table.column_names}
        rows, cols = about["shape"]
        return TileAttention(
            values=np.stack([columns[name] for name in about["names"]], axis=1),
            names=tuple(about["names"]),
            xy=np.stack([columns["x"], columns["y"]], axis=1),
            rc=np.stack([columns["row"], columns["col"]], axis=1).astype(np.int32),
            shape=(rows, cols),
            extent=about["extent"],
            pitch=about["pitch"],
            lattice=about.get("lattice", True),
        )
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise PredictionsError(
            f"{path} is not a table of attention ({error}); make it anew with 'wsi-pipeline mil "
            "predict'"
        ) from error


def write_attention_geojson(
    path: Path, attention: TileAttention, bounds_xy: tuple[int, int] = (0, 0)
) -> None:
    """Write one tile object per place, with its attention as measurements.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    attention : TileAttention
        Of one slide. In QuPath, *Measure > Show measurement maps* colours the tiles.
    bounds_xy : tuple of int
        Where QuPath begins to count on this slide, level-0 px: ``SlideInfo.bounds_xy``.

    Notes
    -----
    Where tiles overlap, cells of the lattice are written instead. Each has the mean of the tiles
    that cover it, scaled so that attention sums to 1 over the cells as it does over tiles.
    """
    write_collection(path, _tiles(attention), bounds_xy)


def _tiles(attention: TileAttention) -> Iterator[dict[str, Any]]:
    values, percentile, boxes = attention.values, attention.percentile, _boxes(attention)
    cells = lay_cells(attention) if attention.lattice else None
    if cells is not None:
        values, percentile = (cells.means(each, attention) for each in (values, percentile))
        values = values / values.sum(axis=0, dtype=np.float64)
        boxes = tile_boxes(cells.rc, cells.side, cells.side)
    names = [name for column in attention.names for name in (column, f"{column} percentile")]
    pairs = np.stack([values, percentile], axis=2).astype(np.float64)
    numbers = pairs.reshape(len(boxes), -1).round(DECIMALS)
    for box, row in zip(boxes.tolist(), numbers.tolist(), strict=True):
        yield tile_feature(box, {"measurements": dict(zip(names, row, strict=True))})


def _boxes(attention: TileAttention) -> NDArray[np.int64]:
    """Return x0, y0, x1, y1 of every tile, on a lattice or off it, shape (N, 4)."""
    if attention.lattice:
        return boxes_of(attention)
    ends = np.rint(attention.xy + attention.extent).astype(np.int64)
    return np.concatenate([attention.xy, ends], axis=1)
