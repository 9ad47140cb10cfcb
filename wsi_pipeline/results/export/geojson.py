"""Predictions -> GeoJSON that QuPath opens as classified objects, one tile object per tile.

Objects are written one at a time. Coordinates are level-0 px, counted from where QuPath
does; no image is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import numpy as np
import shapely
from shapely.geometry.polygon import orient

from wsi_pipeline.files import replace_atomically
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.heatmap import one_per_place

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from shapely.geometry import Polygon

    from wsi_pipeline.results.heatmap import Tiles
    from wsi_pipeline.results.slide_result import SlideResult
    from wsi_pipeline.types import Predictions

PROB_DECIMALS = 4
NAMESPACE = UUID("6a3c1f0e-5b7d-4c52-9d51-1f0c2f7ab9d4")
"""Makes ids of areas unlike those of anything else."""


def write_geojson(
    path: Path, predictions: Predictions, bounds_xy: tuple[int, int] = (0, 0)
) -> None:
    """Write predictions as a FeatureCollection for QuPath 0.5 and later.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    predictions : Predictions
        Of one slide; N = 0 gives a collection without features.
    bounds_xy : tuple of int
        Where QuPath begins to count on this slide, level-0 px: ``SlideInfo.bounds_xy``.

    Notes
    -----
    Where tiles overlap, cells of the lattice are written instead, with the mean of the tiles that
    cover each. Objects carry ``objectType`` (``tile``), ``classification`` (name and colour) and
    ``measurements``: one probability per class, the entropy and, where it is known, the number of
    the piece of tissue.
    """
    write_collection(path, _tiles(one_per_place(predictions)), bounds_xy)


def write_tiles(path: Path, result: SlideResult) -> None:
    """Write the predictions of a slide, as :func:`write_geojson`."""
    write_geojson(path, result.predictions, result.records.slide.bounds_xy)


def write_collection(
    path: Path, features: Iterable[dict[str, Any]], bounds_xy: tuple[int, int] = (0, 0)
) -> None:
    """Write GeoJSON features as a collection, one at a time; an older file is replaced.

    Parameters
    ----------
    path : Path
        File to write.
    features : iterable of dict
        Places are level-0 px, counted from the corner of the slide.
    bounds_xy : tuple of int
        Where QuPath begins to count on this slide, level-0 px: ``SlideInfo.bounds_xy``.
    """
    with replace_atomically(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in features:
            geometry = feature["geometry"]
            geometry["coordinates"] = _counted_from(bounds_xy, geometry["coordinates"])
            file.write(separator + json.dumps(feature, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")


def _counted_from(bounds_xy: tuple[int, int], coordinates: list[Any]) -> list[Any]:
    """Move the points in nested lists of coordinates."""
    if bounds_xy == (0, 0):
        return coordinates
    if isinstance(coordinates[0], list):
        return [_counted_from(bounds_xy, inner) for inner in coordinates]
    return [place - start for place, start in zip(coordinates, bounds_xy, strict=True)]


def _tiles(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Yield one feature per tile."""
    classes = classifications(predictions.class_names, predictions.class_colors)
    measured = [*(f"prob {name}" for name in predictions.class_names), "entropy"]
    columns = np.column_stack([predictions.prob, predictions.entropy]).astype(np.float64)
    if predictions.piece is not None:
        measured.append("piece")
        columns = np.column_stack([columns, predictions.piece])
    boxes, labels = boxes_of(predictions), predictions.label
    names = predictions.core or repeat(None, len(predictions))
    rows = zip(boxes, labels, columns.round(PROB_DECIMALS), names, strict=True)
    for box, label, numbers, core in rows:
        properties = {
            **({} if core is None else {"name": core}),
            "classification": classes[label],
            "measurements": dict(zip(measured, numbers.tolist(), strict=True)),
        }
        yield tile_feature(box.tolist(), properties)


def tile_feature(box: Sequence[int], properties: dict[str, Any]) -> dict[str, Any]:
    """Describe a tile, given x0, y0, x1, y1 in level-0 px, as a tile object of QuPath."""
    x0, y0, x1, y1 = box
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "tile", **properties},
    }


def annotation_feature(
    polygons: Sequence[Polygon],
    classification: dict[str, Any],
    *,
    name: str | None = None,
    measurements: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Describe an area as an annotation of QuPath, which can be edited.

    Parameters
    ----------
    polygons : sequence of shapely Polygon
        Outlines and holes, whole level-0 px; several are one object of several parts.
    classification : dict
        Name and colour of its class.
    name : str or None
        Its own name.
    measurements : dict of str to float or None
        Numbers that QuPath shows in its tables.
    """
    shapes = [
        [shapely.get_coordinates(ring).astype(int).tolist() for ring in (p.exterior, *p.interiors)]
        for p in map(orient, polygons)
    ]
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": shapes[0]}
    if len(shapes) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": shapes}
    properties: dict[str, Any] = {"objectType": "annotation", "classification": classification}
    if name is not None:
        properties["name"] = name
    if measurements:
        properties["measurements"] = measurements
    return {
        "type": "Feature",
        # equal areas have equal ids, so that importing a file twice makes no second object
        "id": str(uuid5(NAMESPACE, json.dumps([geometry, classification["name"]]))),
        "geometry": geometry,
        "properties": properties,
    }


def boxes_of(tiles: Tiles) -> NDArray[np.int64]:
    """Return what each of the tiles stands for: x0, y0, x1, y1, level-0 px, shape (N, 4)."""
    boxes = tile_boxes(tiles.rc, tiles.extent, tiles.pitch)
    # tiles that were shifted inwards stand for what is left of the slide
    ends = np.rint(tiles.xy + tiles.extent).astype(np.int64)
    shifted = boxes[:, :2] - tiles.xy > 1
    boxes[:, 2:] = np.where(shifted, ends, boxes[:, 2:])
    return boxes


def tile_boxes(rc: NDArray[np.int32], extent: float, pitch: float) -> NDArray[np.int64]:
    """Return x0, y0, x1, y1 of every tile in whole level-0 px, shape (N, 4).

    Corners come from the lattice, so that tiles which touch share their edge after rounding too.
    """
    origin = rc[:, ::-1] * pitch
    corners = np.concatenate([origin, origin + extent], axis=1)
    # the first rounding takes away what floating point adds to equal corners
    return np.asarray(np.rint(corners.round(6)), dtype=np.int64)


def classifications(names: Sequence[str], colors: Sequence[str]) -> list[dict[str, Any]]:
    """Describe classes as QuPath has them: a name and a colour as three numbers."""
    return [
        {"name": name, "color": list(bytes.fromhex(color.removeprefix("#")))}
        for name, color in zip(names, colors, strict=True)
    ]


TILES = Export(file="predictions.geojson", write=write_tiles)
