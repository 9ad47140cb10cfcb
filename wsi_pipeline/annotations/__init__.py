"""Annotation files of people's tools -> named areas in level-0 pixels.

Tells QuPath GeoJSON, ASAP XML, Aperio ImageScope XML, caMicroscope JSON and NCRF JSON apart by
their content. Nothing here knows of tiles or classes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree
from shapely import affinity

from wsi_pipeline.annotations import asap, imagescope
from wsi_pipeline.annotations.areas import Annotation
from wsi_pipeline.annotations.camicroscope import is_camicroscope, read_camicroscope
from wsi_pipeline.annotations.geojson import read_geojson
from wsi_pipeline.annotations.ncrf import is_ncrf, read_ncrf
from wsi_pipeline.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_FILE_BYTES",
    "Annotation",
    "AnnotationFormat",
    "read_annotations",
    "read_polygons",
]

MAX_FILE_BYTES = 512 * 1024**2
"""Largest annotation file that is read."""

MAX_JSON_LISTS = 5_000_000
"""Most lists in a JSON file; a point is one, and takes some 150 bytes while the file is read."""

MAX_XML_TAGS = 1_000_000
"""Most tags in an XML file; a point is one, and takes some 900 bytes while the file is read."""


class AnnotationFormat(StrEnum):
    """Which tool wrote an annotation file."""

    AUTO = "auto"
    GEOJSON = "geojson"
    ASAP = "asap"
    IMAGESCOPE = "imagescope"
    CAMICROSCOPE = "camicroscope"
    NCRF = "ncrf"


_XML_READERS: dict[AnnotationFormat, Callable[[Element, Path], tuple[Annotation, ...]]] = {
    AnnotationFormat.ASAP: asap.read_asap,
    AnnotationFormat.IMAGESCOPE: imagescope.read_imagescope,
}
_ROOT_TAGS = {
    asap.ROOT_TAG: AnnotationFormat.ASAP,
    imagescope.ROOT_TAG: AnnotationFormat.IMAGESCOPE,
}


def read_annotations(
    path: Path,
    size_wh: tuple[int, int] | None = None,
    file_format: AnnotationFormat = AnnotationFormat.AUTO,
    *,
    bounds_xy: tuple[int, int] = (0, 0),
) -> tuple[Annotation, ...]:
    """Read the areas of an annotation file.

    Parameters
    ----------
    path : Path
        File of any :class:`AnnotationFormat`.
    size_wh : tuple of int or None
        Width and height of the slide, level-0 px; caMicroscope files cannot be read without it.
    file_format : AnnotationFormat
        Told by the content of the file if ``AUTO``.
    bounds_xy : tuple of int
        Where QuPath begins to count on this slide, level-0 px: ``SlideInfo.bounds_xy``. Places in
        GeoJSON are moved by it; all other formats count from the corner of the slide.

    Returns
    -------
    tuple of Annotation
        Areas in the order of the file; holes stay holes, and outlines that cross themselves are
        repaired. Points, lines and areas of size 0 are left out.

    Raises
    ------
    AnnotationError
        If the file is malformed, naming the element that is wrong, or needs ``size_wh``.
    """
    content = _read(path)
    wanted = file_format
    if wanted in _XML_READERS or (wanted is AnnotationFormat.AUTO and _is_xml(content)):
        root = _parse_xml(content, path)
        if wanted is AnnotationFormat.AUTO:
            wanted = _format_of_root(root, path)
        return _XML_READERS[wanted](root, path)
    document = _parse_json(content, path)
    if wanted is AnnotationFormat.AUTO:
        wanted = _format_of_document(document)
    areas = _read_document(document, path, wanted, size_wh)
    return _moved(areas, bounds_xy) if wanted is AnnotationFormat.GEOJSON else areas


def read_polygons(path: Path) -> tuple[Annotation, ...]:
    """Read the areas of a GeoJSON file, as :func:`read_annotations` does for every format."""
    return read_annotations(path, file_format=AnnotationFormat.GEOJSON)


def _read_document(
    document: Any,  # noqa: ANN401 -- JSON
    path: Path,
    file_format: AnnotationFormat,
    size_wh: tuple[int, int] | None,
) -> tuple[Annotation, ...]:
    try:
        if file_format is AnnotationFormat.CAMICROSCOPE:
            return read_camicroscope(document, path, size_wh)
        if file_format is AnnotationFormat.NCRF:
            return read_ncrf(document, path)
        return read_geojson(document, path)
    except (AttributeError, TypeError) as error:
        raise AnnotationError(
            f"{path} is not {file_format} ({error}); choose its format, or export it again",
            path=path,
        ) from error


def _moved(areas: tuple[Annotation, ...], by_xy: tuple[int, int]) -> tuple[Annotation, ...]:
    if by_xy == (0, 0):
        return areas
    return tuple(
        replace(area, geometry=affinity.translate(area.geometry, *by_xy)) for area in areas
    )


def _format_of_document(document: Any) -> AnnotationFormat:  # noqa: ANN401 -- JSON
    if is_camicroscope(document):
        return AnnotationFormat.CAMICROSCOPE
    return AnnotationFormat.NCRF if is_ncrf(document) else AnnotationFormat.GEOJSON


def _format_of_root(root: Element, path: Path) -> AnnotationFormat:
    if root.tag not in _ROOT_TAGS:
        raise AnnotationError(
            f"{path} is XML of {root.tag!r}, which is none of {', '.join(_ROOT_TAGS)}; export the "
            f"annotations as GeoJSON",
            path=path,
        )
    return _ROOT_TAGS[root.tag]


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_FILE_BYTES else b""
    except OSError as error:
        raise AnnotationError(
            f"{path} cannot be read ({error}); check the path and its rights", path=path
        ) from error
    if size > MAX_FILE_BYTES:
        raise AnnotationError(
            f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} that are read; split it",
            path=path,
        )
    return content


def _is_xml(content: bytes) -> bool:
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _parse_xml(content: bytes, path: Path) -> Element:
    """Parse XML; a document that defines entities or names others is refused, not expanded."""
    _require_few(content.count(b"<"), MAX_XML_TAGS, "tags", path)
    try:
        root: Element = SafeElementTree.fromstring(content, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise AnnotationError(
            f"{path} cannot be read as XML ({error}); export the annotations again", path=path
        ) from error
    return root


def _parse_json(content: bytes, path: Path) -> Any:  # noqa: ANN401 -- JSON
    _require_few(content.count(b"["), MAX_JSON_LISTS, "lists of coordinates", path)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{path} cannot be read as JSON ({error}); export the annotations as GeoJSON",
            path=path,
        ) from error


def _require_few(count: int, limit: int, what: str, path: Path) -> None:
    """Refuse a file that would take gigabytes once it is parsed."""
    if count > limit:
        raise AnnotationError(
            f"{path} has {count} {what}, more than the {limit} that are read; simplify the "
            f"outlines, or split the file",
            path=path,
        )
