"""QuPath GeoJSON -> named polygons in level-0 pixels.

Keeps areas only: points and lines are counted and left out. Nothing here knows of tiles.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon, Polygon

from wsi_pipeline.errors import AnnotationError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 2 * 1024**3
"""Largest annotation file that is read: a GeoJSON of a million nuclei has about half of this."""

_NO_AREA = frozenset({"Point", "MultiPoint", "LineString", "MultiLineString"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One outlined area of a slide.

    Attributes
    ----------
    geometry : shapely Polygon or MultiPolygon
        Valid and not empty; vertices are (x, y) in level-0 px.
    name : str
        Its class; its own name where it has no class; empty where it has neither.
    """

    geometry: Polygon | MultiPolygon
    name: str


def read_polygons(path: Path) -> tuple[Annotation, ...]:
    """Read the areas of an annotation file.

    Parameters
    ----------
    path : Path
        GeoJSON as QuPath exports it: a FeatureCollection, a Feature, an array of Features, or a
        bare geometry. Coordinates are level-0 px.

    Returns
    -------
    tuple of Annotation
        Polygons and multipolygons in the order of the file; holes stay holes, and outlines that
        cross themselves are repaired. Points, lines and areas of size 0 are left out.

    Raises
    ------
    AnnotationError
        If the file cannot be read as GeoJSON, naming the element that is wrong.
    """
    found: list[Annotation] = []
    skipped = 0
    for index, element in enumerate(_elements(_load(path), path)):
        try:
            areas = list(_areas(element))
        except (LookupError, AttributeError, TypeError, ValueError, ShapelyError) as error:
            raise AnnotationError(
                f"{path}: element {index} is not valid GeoJSON ({error!r}); export the "
                f"annotations again or remove the element",
                path=path,
            ) from error
        skipped += not areas
        found += areas
    if skipped:
        logger.info("%s: %d elements without an area left out", path, skipped)
    return tuple(found)


def _load(path: Path) -> Any:  # noqa: ANN401 -- whatever JSON holds
    try:
        return json.loads(_read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{path} cannot be read as JSON ({error}); export the annotations as GeoJSON",
            path=path,
        ) from error


def _read_text(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise ValueError(f"{size} bytes are more than the {MAX_FILE_BYTES} that are read")
    return path.read_text(encoding="utf-8-sig")


def _elements(document: Any, path: Path) -> list[Any]:  # noqa: ANN401 -- whatever JSON holds
    """Return the features or geometries of any of the four forms of a document."""
    if isinstance(document, list):
        return document
    if isinstance(document, dict) and document.get("type") != "FeatureCollection":
        return [document]
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        raise AnnotationError(
            f"{path} holds no GeoJSON object but {type(document).__name__}; export the "
            f"annotations as GeoJSON",
            path=path,
        )
    return features


def _areas(element: dict[str, Any]) -> Iterator[Annotation]:
    """Yield what one feature or bare geometry outlines."""
    if element["type"] != "Feature":
        yield from _valid_areas(element, "")
    elif element["geometry"] is not None:
        yield from _valid_areas(element["geometry"], _name(element.get("properties") or {}))


def _valid_areas(geometry: dict[str, Any], name: str) -> Iterator[Annotation]:
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _valid_areas(part, name)
    elif kind in ("Polygon", "MultiPolygon"):
        areas = _repair(_parse(kind, geometry["coordinates"]))
        if not areas.is_empty:
            yield Annotation(geometry=areas, name=name)
    elif kind not in _NO_AREA:
        raise ValueError(f"unknown geometry type {kind!r}")


def _parse(kind: str, coordinates: list[Any]) -> BaseGeometry:
    """Build a polygon or multipolygon; a third coordinate is dropped."""
    polygons = coordinates if kind == "MultiPolygon" else [coordinates]
    shape = MultiPolygon(
        [
            Polygon(_ring(rings[0]), [_ring(hole) for hole in rings[1:]])
            for rings in polygons
            if rings
        ]
    )
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        raise ValueError("a coordinate is not finite")
    return shape


def _ring(points: list[Any]) -> list[tuple[float, float]]:
    return [(float(point[0]), float(point[1])) for point in points]


def _repair(shape: BaseGeometry) -> Polygon | MultiPolygon:
    """Make a shape valid, and keep of it what has an area."""
    if not shape.is_valid:
        shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    parts = [part for part in shapely.get_parts(shape) if part.area > 0]
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def _name(properties: dict[str, Any]) -> str:
    """Prefer the class of a QuPath object to the name a person gave it."""
    classification = properties.get("classification") or {}
    if "names" in classification:
        return ": ".join(classification["names"])
    return str(classification.get("name") or properties.get("name") or "")
