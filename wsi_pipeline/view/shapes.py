"""Strokes of a brush and outlines, as a browser sends them -> GeoJSON areas in level-0 pixels.

Geometry only; which file an area goes to is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import LineString, MultiPolygon, Point, Polygon, mapping, shape

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

MAX_POINTS = 20_000
"""Most points of one stroke: minutes of drawing."""

MAX_VERTICES = 200_000
"""Most vertices of one area: the outline of a ragged section, pixel by pixel, has tens of
thousands."""

ROUNDNESS = 8
"""Edges of a quarter of a circle at the ends of a brush stroke."""

TOLERANCE = 0.05
"""How far an outline may be moved to save vertices, in radii of the brush."""

MAX_COORDINATE = 1e7
"""Largest coordinate, level-0 px; slides are smaller by far."""

DECIMALS = 2
"""Hundredths of a pixel are kept."""


class BadShape(ValueError):
    """What was drawn encloses nothing, or is no outline at all."""


def brush_area(points: Sequence[Sequence[float]], radius: float) -> BaseGeometry:
    """Return what a round brush covers that is moved along some points.

    Parameters
    ----------
    points : sequence of (x, y)
        Where its centre was, level-0 px.
    radius : float
        Of the brush, level-0 px.

    Raises
    ------
    BadShape
        If there is no point, or a number is not finite.
    """
    path = _points(points)
    if not np.isfinite(radius) or radius <= 0:
        raise BadShape(f"a brush needs a radius above 0, got {radius}")
    line = Point(path[0]) if len(path) == 1 else LineString(path)
    return line.simplify(TOLERANCE * radius).buffer(radius, quad_segs=ROUNDNESS)


def parse_area(geometry: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
    """Check an outline and make it valid.

    Parameters
    ----------
    geometry : parsed JSON
        A GeoJSON Polygon or MultiPolygon, level-0 px.

    Returns
    -------
    dict
        The same area as GeoJSON.

    Raises
    ------
    BadShape
        If it is neither, or encloses nothing.
    """
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise BadShape(f"an area is a Polygon or MultiPolygon, got {kind!r}")
    try:
        with np.errstate(invalid="ignore"):  # what is not finite is refused below
            found = shape(geometry)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise BadShape(f"an outline is malformed: {error}") from error
    if shapely.get_num_coordinates(found) > MAX_VERTICES:
        raise BadShape(f"an outline has more than {MAX_VERTICES} vertices")
    return to_geojson(found)


def erase(geometry: dict[str, Any], rubber: BaseGeometry) -> dict[str, Any] | None:
    """Take an area away from another; None where nothing is left.

    Parameters
    ----------
    geometry : dict
        GeoJSON area.
    rubber : shapely geometry
        What is taken away.

    Returns
    -------
    dict or None
        What is left; the very same object where the two do not meet.
    """
    area = shape(geometry)
    if not area.is_valid:
        area = shapely.make_valid(area, method="structure", keep_collapsed=False)
    if not area.intersects(rubber):
        return geometry
    left = area.difference(rubber)
    return to_geojson(left) if left.area > 0 else None


def to_geojson(area: BaseGeometry) -> dict[str, Any]:
    """Write a valid area as GeoJSON.

    Raises
    ------
    BadShape
        If it encloses nothing or lies beyond all slides.
    """
    if not (np.abs(area.bounds) <= MAX_COORDINATE).all():  # also if one is not finite
        raise BadShape(f"coordinates are numbers up to {MAX_COORDINATE:g} px, and some are needed")
    if not area.is_valid:
        area = shapely.make_valid(area, method="structure", keep_collapsed=False)
    parts = [part for part in shapely.get_parts(area) if isinstance(part, Polygon) and part.area]
    if not parts:
        raise BadShape("an outline encloses nothing")
    kept = parts[0] if len(parts) == 1 else MultiPolygon(parts)
    return dict(mapping(shapely.transform(kept, lambda xy: xy.round(DECIMALS))))


def _points(points: Any) -> list[tuple[float, float]]:  # noqa: ANN401 -- JSON
    try:
        path = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadShape(f"points must be pairs of numbers: {error}") from error
    if path.ndim != 2 or path.shape[1] != 2 or not 1 <= len(path) <= MAX_POINTS:
        raise BadShape(f"1 to {MAX_POINTS} points (x, y) are needed, got shape {path.shape}")
    if not (np.abs(path) <= MAX_COORDINATE).all():
        raise BadShape(f"coordinates are numbers up to {MAX_COORDINATE:g} px")
    return [(x, y) for x, y in path.tolist()]
