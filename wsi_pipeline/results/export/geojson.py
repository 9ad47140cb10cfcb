"""Predictions -> GeoJSON that QuPath opens as classified objects.

Either one tile object per tile, written one at a time, or one annotation per connected region of
a class. Coordinates are level-0 px; no image is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry.polygon import orient

from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.types import Predictions

PROB_DECIMALS = 4


def write_geojson(path: Path, predictions: Predictions, *, merge: bool = False) -> None:
    """Write predictions as a FeatureCollection for QuPath 0.5 and later.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    predictions : Predictions
        Of one slide; N = 0 gives a collection without features.
    merge : bool
        Outline connected tiles of one class as annotations, which can be edited, instead of
        writing every tile with its probabilities. Where tiles overlap, so do the regions.

    Notes
    -----
    Objects carry ``objectType`` (``tile`` or ``annotation``) and ``classification`` (name and
    colour); tiles also carry ``measurements``, one probability per class and the entropy.
    """
    write_collection(path, _regions(predictions) if merge else _tiles(predictions))


def write_collection(path: Path, features: Iterable[dict[str, Any]]) -> None:
    """Write GeoJSON features as a collection, one at a time; an older file is replaced."""
    with replace_atomically(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in features:
            file.write(separator + json.dumps(feature, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")


def _tiles(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Yield one feature per tile."""
    classes = _classifications(predictions)
    measured = [*(f"prob {name}" for name in predictions.class_names), "entropy"]
    columns = np.column_stack([predictions.prob, predictions.entropy]).astype(np.float64)
    boxes, labels = _boxes(predictions), predictions.label
    for box, label, numbers in zip(boxes, labels, columns.round(PROB_DECIMALS), strict=True):
        properties = {
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


def _regions(predictions: Predictions) -> Iterator[dict[str, Any]]:
    """Yield one feature per connected region, class by class."""
    boxes, labels = _boxes(predictions), predictions.label
    for label, classification in enumerate(_classifications(predictions)):
        union = shapely.union_all(shapely.box(*boxes[labels == label].T))
        for region in shapely.get_parts(union):
            rings = [orient(region).exterior, *orient(region).interiors]
            yield {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [shapely.get_coordinates(r).astype(int).tolist() for r in rings],
                },
                "properties": {"objectType": "annotation", "classification": classification},
            }


def _boxes(predictions: Predictions) -> NDArray[np.int64]:
    return tile_boxes(predictions.rc, predictions.extent, predictions.pitch)


def tile_boxes(rc: NDArray[np.int32], extent: float, pitch: float) -> NDArray[np.int64]:
    """Return x0, y0, x1, y1 of every tile in whole level-0 px, shape (N, 4).

    Corners come from the lattice, so that tiles which touch share their edge after rounding too.
    """
    origin = rc[:, ::-1] * pitch
    corners = np.concatenate([origin, origin + extent], axis=1)
    # the first rounding takes away what floating point adds to equal corners
    return np.asarray(np.rint(corners.round(6)), dtype=np.int64)


def _classifications(predictions: Predictions) -> list[dict[str, Any]]:
    return [
        {"name": name, "color": list(bytes.fromhex(color.removeprefix("#")))}
        for name, color in zip(predictions.class_names, predictions.class_colors, strict=True)
    ]
