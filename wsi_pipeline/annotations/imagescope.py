"""Aperio ImageScope XML -> named areas in level-0 pixels.

A region drawn as negative cuts a hole into the others of its layer. Rulers, arrows and points
are counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import shapely
from shapely import affinity

from wsi_pipeline.annotations.areas import Annotation, build_areas, collect_areas, keep_area
from wsi_pipeline.annotations.crossings import require_few_crossings

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ROOT_TAG = "Annotations"

_ELLIPSE = "2"
_PLACEHOLDER = "Description"
"""Name that ImageScope gives to the first attribute of every layer."""


def read_imagescope(root: Element, path: Path) -> tuple[Annotation, ...]:
    """Read the areas of an ImageScope document.

    Parameters
    ----------
    root : Element
        ``Annotations``: layers (``Annotation``) of regions. Coordinates are level-0 px.
    path : Path
        Its file, for messages.

    Returns
    -------
    tuple of Annotation
        Regions in the order of the file, without the parts under a region of the same layer that
        has ``NegativeROA="1"``. The name is that of the layer; else the value, else the name of
        its first attribute; else the text of the region. An ellipse with two vertices, the
        corners of its box, becomes a polygon.

    Raises
    ------
    AnnotationError
        If a region is malformed, naming its layer and its Id.
    """
    found: list[Annotation] = []
    for layer in root.iterfind("Annotation"):
        found += _read_layer(layer, path)
    return tuple(found)


def _read_layer(layer: Element, path: Path) -> Iterator[Annotation]:
    name = _layer_name(layer)
    regions: dict[str, list[Element]] = {"0": [], "1": []}
    for region in layer.iterfind("Regions/Region"):
        regions["1" if region.get("NegativeROA", "0") == "1" else "0"].append(region)

    def read(kind: str) -> tuple[Annotation, ...]:
        return collect_areas(
            path,
            regions[kind],
            lambda region: _areas(region, name or region.get("Text", "")),
            lambda _, region: (
                f"Annotation {layer.get('Id')!r} Region {region.get('Id')!r} is not valid "
                f"ImageScope XML"
            ),
        )

    areas, own = read("0"), [hole.geometry for hole in read("1")]
    if own:
        require_few_crossings([*own, *(area.geometry for area in areas)])
    holes = shapely.union_all(own)
    for area in areas:
        if holes.is_empty:
            yield area
        else:
            yield from keep_area(area.name, area.geometry.difference(holes))


def _layer_name(layer: Element) -> str:
    attribute = layer.find("Attributes/Attribute")
    if layer.get("Name") or attribute is None:
        return layer.get("Name", "")
    name = attribute.get("Name", "")
    return attribute.get("Value") or ("" if name == _PLACEHOLDER else name)


def _areas(region: Element, name: str) -> Iterator[Annotation]:
    points = [
        (float(vertex.attrib["X"]), float(vertex.attrib["Y"]))
        for vertex in region.iterfind("Vertices/Vertex")
    ]
    if not points:
        raise ValueError("the region has no Vertices")
    if len(points) == 2 and region.get("Type") == _ELLIPSE:
        yield from _ellipse(points, name)
    elif len(points) > 2:
        yield from build_areas(name, [[points]])


def _ellipse(corners: list[tuple[float, float]], name: str) -> Iterator[Annotation]:
    """Yield the ellipse inscribed in a box, as a polygon of 256 vertices."""
    (x0, y0), (x1, y1) = corners
    circle = shapely.Point((x0 + x1) / 2, (y0 + y1) / 2).buffer(1.0, quad_segs=64)
    yield from keep_area(name, affinity.scale(circle, abs(x1 - x0) / 2, abs(y1 - y0) / 2))
