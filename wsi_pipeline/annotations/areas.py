"""Rings of coordinates -> valid named areas, and the words for elements that are none.

What the readers of all formats share. It knows neither JSON nor XML.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import MultiPolygon, Polygon

from wsi_pipeline.annotations.crossings import cross_more_often
from wsi_pipeline.errors import AnnotationError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

logger = logging.getLogger(__name__)

MAX_COORDINATE = 1e8
"""Farthest place that an area may reach, level-0 px; the largest slides have a thousandth of it."""

MAX_REPAIRED_POINTS = 100_000
"""Most points of an outline that crosses itself and is repaired all the same."""

Element = TypeVar("Element")


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


def collect_areas(
    path: Path,
    elements: Iterable[Element],
    read: Callable[[Element], Iterable[Annotation]],
    describe: Callable[[int, Element], str],
) -> tuple[Annotation, ...]:
    """Read every element of a file, and name the one that is wrong.

    Parameters
    ----------
    path : Path
        The file, for messages.
    elements : iterable
        Its elements, in order.
    read : callable
        Gives the areas of an element; none for points and lines.
    describe : callable
        Names an element, from its index and itself, as a person would look for it.

    Returns
    -------
    tuple of Annotation
        All areas, in order. Elements without one are counted in the log.

    Raises
    ------
    AnnotationError
        If an element is malformed.
    """
    found: list[Annotation] = []
    skipped = 0
    for index, element in enumerate(elements):
        try:
            areas = list(read(element))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise _malformed(path, describe(index, element), error) from error
        except (shapely.errors.ShapelyError, RecursionError) as error:
            raise _malformed(path, describe(index, element), error) from error
        skipped += not areas
        found += areas
    if skipped:
        logger.info("%s: %d elements without an area left out", path, skipped)
    return tuple(found)


def _malformed(path: Path, element: str, error: Exception) -> AnnotationError:
    return AnnotationError(
        f"{path}: {element} ({error!r}); export the annotations again or remove the element",
        path=path,
    )


def build_areas(name: str, polygons: Iterable[Sequence[Sequence[Any]]]) -> Iterator[Annotation]:
    """Yield one area made of polygons, or nothing where they enclose nothing.

    Parameters
    ----------
    name : str
        Name of the area.
    polygons : iterable of polygons
        Each a sequence of rings, the outline first and then its holes; a ring is a sequence of
        points whose first two values are x and y. Open rings are closed.

    Yields
    ------
    Annotation
        The area. Outlines that cross themselves are repaired.

    Raises
    ------
    ValueError
        If a ring has fewer than three points, a coordinate is no number of a slide, or an outline
        crosses itself so often that it encloses nothing that a person drew.
    """
    shape = MultiPolygon(
        [
            Polygon(_ring(rings[0]), [_ring(hole) for hole in rings[1:]])
            for rings in polygons
            if rings
        ]
    )
    yield from keep_area(name, shape)


def keep_area(name: str, shape: BaseGeometry) -> Iterator[Annotation]:
    """Yield what of a shape has an area, made valid; nothing where there is none."""
    if not shape.is_valid:
        _require_repairable(shape)
        shape = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    parts = [part for part in shapely.get_parts(shape) if part.area > 0]
    if parts:
        yield Annotation(geometry=parts[0] if len(parts) == 1 else MultiPolygon(parts), name=name)


def _ring(points: Sequence[Any]) -> NDArray[np.float64]:
    ring = np.array([(_number(point[0]), _number(point[1])) for point in points])
    far = ~(np.abs(ring) <= MAX_COORDINATE)
    if far.any():
        raise ValueError(f"the coordinate {ring[far][0]} is not finite, or on no slide")
    return ring


def _number(value: Any) -> float:  # noqa: ANN401 -- JSON
    """Return a coordinate; ``"12"`` and ``true`` are none, though Python takes them for numbers."""
    if type(value) not in (int, float):
        raise TypeError(f"the coordinate {value!r} is not a number")
    return float(value)


def _require_repairable(shape: BaseGeometry) -> None:
    """Refuse an outline with more crossings than a hand makes: each becomes a corner of an area.

    Random points cross in a sixth of all pairs, which is more than can be kept for 3,000 of them.
    """
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(shape))]
    count = sum(map(len, rings))
    if count > MAX_REPAIRED_POINTS:
        raise ValueError(f"an outline of {count} points crosses itself; simplify it")
    limit = 8 * count + 1000
    if cross_more_often(rings, limit):
        raise ValueError(f"an outline of {count} points crosses itself more than {limit} times")
