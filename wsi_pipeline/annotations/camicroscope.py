"""caMicroscope JSON, as CLASS-M publishes its ccRCC polygons -> named areas in level-0 pixels.

Coordinates in the file are shares of the slide's width and height, so the slide's size must be
known; no slide is opened here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_pipeline.annotations.areas import Annotation, build_areas, collect_areas
from wsi_pipeline.errors import AnnotationError


def is_camicroscope(document: Any) -> bool:  # noqa: ANN401 -- JSON
    """Tell whether a parsed JSON document is a list of caMicroscope annotations."""
    return isinstance(document, list) and any(
        isinstance(element, dict) and "geometries" in element for element in document
    )


def read_camicroscope(
    document: list[Any], path: Path, size_wh: tuple[int, int] | None
) -> tuple[Annotation, ...]:
    """Read the areas of a caMicroscope document.

    Parameters
    ----------
    document : list
        Annotations; the features of each lie at ``geometries.features``, its name at
        ``properties.annotations.notes``.
    path : Path
        Its file, for messages.
    size_wh : tuple of int or None
        Width and height of the slide, level-0 px.

    Returns
    -------
    tuple of Annotation
        Polygons, and lines closed to polygons: the release outlines seven areas so. Points are
        left out. Blanks around a name are stripped and those within it become underscores, so
        ``High NC`` is ``High_NC``, as in the names of the published tiles.

    Raises
    ------
    AnnotationError
        If an annotation is malformed, or the size of the slide is not known.
    """
    if size_wh is None:
        raise AnnotationError(
            f"{path} states places as shares of the slide's size; give the size of the slide",
            path=path,
        )
    return collect_areas(
        path,
        document,
        lambda element: _areas(element, size_wh),
        lambda index, _: f"annotation {index} is not valid caMicroscope JSON",
    )


def _areas(element: dict[str, Any], size_wh: tuple[int, int]) -> Iterator[Annotation]:
    name = element["properties"]["annotations"]["notes"].strip().replace(" ", "_")
    for feature in element["geometries"]["features"]:
        geometry = feature["geometry"]
        kind = geometry["type"]
        if kind == "Polygon":
            rings = geometry["coordinates"]
        elif kind == "LineString":
            rings = [_points_of_line(geometry["coordinates"])]
        elif kind in ("Point", "MultiPoint"):
            continue
        else:
            raise ValueError(f"unknown geometry type {kind!r}")
        yield from build_areas(name, [[_to_level_0(ring, size_wh) for ring in rings]])


def _points_of_line(coordinates: list[Any]) -> list[Any]:
    """Return the points of a line; caMicroscope may nest them one deeper, like a ring."""
    nested = isinstance(coordinates[0][0], list)
    return list(coordinates[0]) if nested else coordinates


def _to_level_0(ring: list[Any], size_wh: tuple[int, int]) -> list[tuple[float, float]]:
    width, height = size_wh
    points = [(float(point[0]), float(point[1])) for point in ring]
    if not all(0 <= share <= 1 for point in points for share in point):
        raise ValueError("a coordinate is not a share of the slide's size, in [0, 1]")
    return [(x * width, y * height) for x, y in points]
