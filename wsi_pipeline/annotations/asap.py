"""ASAP XML -> named areas in level-0 pixels.

Dots, point sets and measurements are counted and left out; the tree of groups is not read, only
the group that an annotation names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.annotations.areas import Annotation, build_areas, collect_areas

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ROOT_TAG = "ASAP_Annotations"

_AREAS = frozenset({"Polygon", "Rectangle", "Spline"})
_NO_AREA = frozenset({"Dot", "PointSet", "Measurement", "None"})


def read_asap(root: Element, path: Path) -> tuple[Annotation, ...]:
    """Read the areas of an ASAP document.

    Parameters
    ----------
    root : Element
        ``ASAP_Annotations``. Coordinates are level-0 px, sorted by their ``Order``.
    path : Path
        Its file, for messages.

    Returns
    -------
    tuple of Annotation
        Polygons, rectangles and splines (by their control points) in the order of the file. The
        name is that of the group, else the annotation's own.

    Raises
    ------
    AnnotationError
        If an annotation is malformed.
    """
    return collect_areas(
        path,
        root.iterfind("Annotations/Annotation"),
        _areas,
        lambda index, element: (
            f"Annotation {index} (Name {element.get('Name')!r}) is not valid ASAP XML"
        ),
    )


def _areas(element: Element) -> Iterator[Annotation]:
    kind = element.attrib["Type"]
    if kind in _NO_AREA:
        return
    if kind not in _AREAS:
        raise ValueError(f"unknown Type {kind!r}")
    group = element.get("PartOfGroup", "None")
    name = element.get("Name", "") if group == "None" else group
    points = sorted(
        (int(point.attrib["Order"]), float(point.attrib["X"]), float(point.attrib["Y"]))
        for point in element.iterfind("Coordinates/Coordinate")
    )
    yield from build_areas(name, [[[(x, y) for _, x, y in points]]])
