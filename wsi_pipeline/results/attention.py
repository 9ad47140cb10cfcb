"""Attention of a slide's tiles and its patch store -> table, GeoJSON and a picture of it.

Where attention comes from is not known here. The picture shows percentiles: attention itself is
spread over thousands of tiles and a few of them hold most of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.results.export.attention import (
    TileAttention,
    write_attention_geojson,
    write_attention_table,
)
from wsi_pipeline.results.heatmap import paint_places, paint_tiles
from wsi_pipeline.results.pictures import draw_probability
from wsi_pipeline.types import Heatmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.store.features import SlideFeatures

COLOR = "#000000"
"""Not shown: the picture of one column has a scale of its own."""


def write_attention(
    store: PatchStore,
    features: SlideFeatures,
    values: NDArray[np.float32],
    names: Sequence[str],
    folder: Path,
) -> dict[str, Path]:
    """Write where on a slide a model looked.

    Parameters
    ----------
    store : PatchStore
        The slide's store.
    features : SlideFeatures
        What was judged.
    values : ndarray of shape (N, A), float32
        Attention of each patch; columns sum to 1.
    names : sequence of A str
        What each column is called.
    folder : Path
        Where to write; made when missing.

    Returns
    -------
    dict of str to Path
        ``attention.parquet``, ``attention.geojson`` and one picture per column.

    Raises
    ------
    FeaturesError
        If the features are not those of the store's patches.
    """
    attention = _place(store, features, values, names)
    files = {"table": folder / "attention.parquet", "geojson": folder / "attention.geojson"}
    write_attention_table(files["table"], attention)
    write_attention_geojson(files["geojson"], attention, store.slide.bounds_xy)
    raster, cell_px = paint_attention(attention)
    painted = Heatmap(
        values=raster,
        cell_px=cell_px,
        class_names=attention.names,
        class_colors=(COLOR,) * len(attention.names),
    )
    for name in attention.names:
        files[name] = folder / f"{name}.png"
        draw_probability(files[name], store, painted, name, scale="Percentile of attention")
    return files


def paint_attention(attention: TileAttention) -> tuple[NDArray[np.float32], float]:
    """Paint the percentiles of attention where its tiles lie, on a lattice or off it.

    Returns
    -------
    raster : ndarray of shape (rows, cols, A), float32
        NaN where there is no tile.
    cell_px : float
        Side of a cell, level-0 px.
    """
    if attention.lattice:
        return paint_tiles(attention.percentile, attention)
    return paint_places(attention.percentile, attention.xy, attention.extent)


def _place(
    store: PatchStore, features: SlideFeatures, values: NDArray[np.float32], names: Sequence[str]
) -> TileAttention:
    """Bring attention and places together, after checking that they belong together."""
    if features.xy is None or not np.array_equal(features.xy, store.xy):
        raise FeaturesError(
            f"the features of {features.slide_id} are not those of the {len(store)} patches in "
            f"{store.path}; compute them with 'wsi-pipeline features' from this store"
        )
    return TileAttention(
        values=values,
        names=tuple(names),
        xy=store.xy,
        rc=store.rc,
        shape=store.grid_shape,
        extent=store.extent,
        pitch=store.pitch,
        lattice=store.grid.corners is None,
    )
