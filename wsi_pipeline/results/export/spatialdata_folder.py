"""Result of a slide -> SpatialData: thumbnail, tissue, tiles as shapes and their table, in um."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from wsi_pipeline.files import replace_folder
from wsi_pipeline.results.export.anndata_file import build_anndata
from wsi_pipeline.results.export.geojson import boxes_of
from wsi_pipeline.results.export.optional import import_optional
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.heatmap import one_per_place

if TYPE_CHECKING:
    from wsi_pipeline.results.slide_result import SlideResult

TILES = "tiles"


def write_spatialdata(path: Path, result: SlideResult) -> None:
    """Write a slide as a SpatialData folder.

    Parameters
    ----------
    path : Path
        Folder to write; an older one is replaced once the new one is whole.
    result : SlideResult
        Of one slide.

    Notes
    -----
    ``images["thumbnail"]``, ``labels["tissue"]`` (number of the piece), ``shapes["tiles"]``
    (squares in level-0 px) and ``tables["table"]`` (as the export ``anndata``, a row per square).
    Squares are tiles, or cells of the lattice with the means of their tiles where these overlap.
    The coordinate system ``global`` is in um from the corner of the slide.

    Raises
    ------
    ExportError
        If spatialdata is not installed.
    """
    spatialdata = import_optional("spatialdata", "spatialdata")
    data = spatialdata.SpatialData(
        images={"thumbnail": _thumbnail(spatialdata, result)},
        labels={"tissue": _tissue(spatialdata, result)},
        shapes={TILES: _squares(spatialdata, result)},
        tables={"table": _table(spatialdata, result)},
    )
    with replace_folder(path) as partial:
        data.write(partial)


def _scaled(spatialdata: Any, x_um: float, y_um: float) -> dict[str, Any]:  # noqa: ANN401 -- a module
    """Place something whose unit has these sides, um."""
    scale = spatialdata.transformations.Scale([x_um, y_um], axes=("x", "y"))
    return {"global": scale}


def _thumbnail(spatialdata: Any, result: SlideResult) -> Any:  # noqa: ANN401 -- of the library
    pixels = result.records.thumbnail
    width, height = result.records.slide.size_wh
    x_um, y_um = width * result.mpp / pixels.shape[1], height * result.mpp / pixels.shape[0]
    return spatialdata.models.Image2DModel.parse(
        np.moveaxis(pixels, -1, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=_scaled(spatialdata, x_um, y_um),
    )


def _tissue(spatialdata: Any, result: SlideResult) -> Any:  # noqa: ANN401 -- of the library
    dx, dy = result.pieces.downsample
    return spatialdata.models.Labels2DModel.parse(
        result.pieces.labels,
        dims=("y", "x"),
        transformations=_scaled(spatialdata, dx * result.mpp, dy * result.mpp),
    )


def _squares(spatialdata: Any, result: SlideResult) -> Any:  # noqa: ANN401 -- of the library
    geopandas = import_optional("geopandas", "spatialdata")
    boxes = boxes_of(one_per_place(result.predictions))
    frame = geopandas.GeoDataFrame(geometry=shapely.box(*boxes.T.astype(np.float64)))
    return spatialdata.models.ShapesModel.parse(
        frame, transformations=_scaled(spatialdata, result.mpp, result.mpp)
    )


def _table(spatialdata: Any, result: SlideResult) -> Any:  # noqa: ANN401 -- of the library
    import pandas as pd  # comes with anndata

    table = build_anndata(result, per_place=True)
    # the thumbnail is an image of its own here, and names may hold no other characters
    del table.uns["spatial"]
    table.obs.columns = [re.sub(r"[^\w.-]", "_", name) for name in table.obs.columns]
    count = table.n_obs
    region = pd.Index([TILES], dtype=object)
    table.obs["region"] = pd.Categorical.from_codes(np.zeros(count, dtype=int), region)
    table.obs["square"] = np.arange(count)
    return spatialdata.models.TableModel.parse(
        table, region=TILES, region_key="region", instance_key="square"
    )


SPATIALDATA = Export(file="{slide_id}.spatialdata.zarr", write=write_spatialdata)
