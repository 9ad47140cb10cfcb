"""GeoJSON as QuPath exports it -> named areas in level-0 pixels.

Keeps areas only: points and lines are counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_pipeline.annotations.areas import Annotation, build_areas, collect_areas
from wsi_pipeline.errors import AnnotationError

_NO_AREA = frozenset({"Point", "MultiPoint", "LineString", "MultiLineString"})


def read_geojson(document: Any, path: Path) -> tuple[Annotation, ...]:  # noqa: ANN401 -- JSON
    """Read the areas of a GeoJSON document.

    Parameters
    ----------
    document : parsed JSON
        A FeatureCollection, a Feature, an array of Features or geometries, or a bare geometry.
        Coordinates are level-0 px; a third one is dropped.
    path : Path
        Its file, for messages.

    Returns
    -------
    tuple of Annotation
        Polygons and multipolygons in the order of the file, but for cores that are missing. The
        name is the class of the object (``classification.name``, or ``classification.names``
        joined), else its own ``name``.

    Raises
    ------
    AnnotationError
        If the document or one of its elements is not GeoJSON.
    """
    return collect_areas(
        path,
        _elements(document, path),
        _areas,
        lambda index, _: f"element {index} is not valid GeoJSON",
    )


def _elements(document: Any, path: Path) -> list[Any]:  # noqa: ANN401 -- JSON
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
        yield from _geometry_areas(element, "")
    elif element["geometry"] is not None:
        properties = element.get("properties") or {}
        if not properties.get("isMissing"):  # a place of a tissue microarray without a core
            yield from _geometry_areas(element["geometry"], _name(properties))


def _geometry_areas(geometry: dict[str, Any], name: str) -> Iterator[Annotation]:
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _geometry_areas(part, name)
    elif kind == "Polygon":
        yield from build_areas(name, [geometry["coordinates"]])
    elif kind == "MultiPolygon":
        yield from build_areas(name, geometry["coordinates"])
    elif kind not in _NO_AREA:
        raise ValueError(f"unknown geometry type {kind!r}")


def _name(properties: dict[str, Any]) -> str:
    """Prefer the class of a QuPath object to the name a person gave it."""
    classification = properties.get("classification") or {}
    if "names" in classification:
        return ": ".join(classification["names"])
    return str(classification.get("name") or properties.get("name") or "")
