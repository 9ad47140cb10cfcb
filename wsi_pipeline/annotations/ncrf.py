"""NCRF JSON, as the Camelyon16 lesions are published -> named areas in level-0 pixels.

The file knows two classes only; which of them wins where they overlap is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_pipeline.annotations.areas import Annotation, build_areas, collect_areas

CLASSES = ("positive", "negative")
"""The lists of an NCRF document, and the names of the areas read from them."""


def is_ncrf(document: Any) -> bool:  # noqa: ANN401 -- JSON
    """Tell whether a parsed JSON document has the form of NCRF."""
    return isinstance(document, dict) and "type" not in document and bool(document.keys() & CLASSES)


def read_ncrf(document: dict[str, Any], path: Path) -> tuple[Annotation, ...]:
    """Read the areas of an NCRF document.

    Parameters
    ----------
    document : dict
        Lists ``positive`` and ``negative`` of objects with ``vertices`` in level-0 px. An area
        of the second kind is often an island within one of the first.
    path : Path
        Its file, for messages.

    Returns
    -------
    tuple of Annotation
        Areas named ``positive``, then those named ``negative``.

    Raises
    ------
    AnnotationError
        If an object is malformed, naming its list and its number in it.
    """
    positive, negative = (_read_class(document.get(name, []), name, path) for name in CLASSES)
    return positive + negative


def _read_class(elements: list[Any], name: str, path: Path) -> tuple[Annotation, ...]:
    def areas(element: dict[str, Any]) -> Iterator[Annotation]:
        return build_areas(name, [[element["vertices"]]])

    return collect_areas(
        path, elements, areas, lambda index, _: f"{name}[{index}] is not a list of vertices"
    )
