"""Named areas and a label map -> areas of numbered classes, in order of priority.

Decides which names mean what; which tile lies in which area is decided elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.config import LabelConfig, LabelTiles, Unmapped
from wsi_pipeline.errors import AnnotationError, ConfigError

if TYPE_CHECKING:
    from shapely.geometry import MultiPolygon, Polygon

    from wsi_pipeline.annotations import Annotation

UNLABELLED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassArea:
    """An annotated area with the class it stands for.

    Attributes
    ----------
    geometry : shapely Polygon or MultiPolygon
        In level-0 px, or in whatever unit the tiles it is compared with have.
    label : int
        Index of its class, or :data:`UNLABELLED` for an area that is annotated as no class.
    rank : int
        Of several areas at one place, the one of the lowest rank gives the class.
    """

    geometry: Polygon | MultiPolygon
    label: int
    rank: int


def to_classes(
    annotations: Sequence[Annotation], config: LabelConfig, source: Path
) -> tuple[ClassArea, ...]:
    """Give each annotated area its class.

    Parameters
    ----------
    annotations : sequence of Annotation
        Named areas.
    config : LabelConfig
        Names by class, ignored names, priority of classes.
    source : Path
        Their file, for messages.

    Returns
    -------
    tuple of ClassArea
        One per annotation, in their order; ignored ones too, since a place in one of them is
        not outside the annotations. Where tiles outside are asked for, names do not matter and
        no area has a class.

    Raises
    ------
    ConfigError
        If there is no class at all.
    AnnotationError
        If names are in no class and not ignored.
    """
    if config.label_tiles is LabelTiles.OUTSIDE:
        return tuple(
            ClassArea(geometry=annotation.geometry, label=UNLABELLED, rank=0)
            for annotation in annotations
        )
    found = Counter(annotation.name for annotation in annotations)
    if not config.classes:
        raise ConfigError(
            f"{source} has areas named {_listed(found)}, but there are no classes; say which name "
            f"stands for which class with --label-map"
        )
    labels = {name: label for label, names in enumerate(config.classes.values()) for name in names}
    unmapped = Counter({name: n for name, n in found.items() if name not in labels})
    for name in config.ignored:
        unmapped.pop(name, None)
    if unmapped and config.unmapped is Unmapped.ERROR:
        raise AnnotationError(
            f"{source} has areas of no known class: {_listed(unmapped)}; add them to a class or to "
            f"'ignored' of the label map, or pass --unmapped ignore",
            path=source,
        )
    ranks = _ranks(config)
    return tuple(
        ClassArea(geometry=annotation.geometry, label=label, rank=ranks[label])
        for annotation in annotations
        for label in [labels.get(annotation.name, UNLABELLED)]
    )


def find_group(name: str, pattern: str) -> str:
    """Find the group (patient, slide or prototype) in the name of a slide or an image.

    Parameters
    ----------
    name : str
        Name of the slide, or of the image with its folders.
    pattern : str
        Regular expression; its first capture is the group, or all it matches without one.

    Returns
    -------
    str
        The group.

    Raises
    ------
    ConfigError
        If the pattern is none, or is not found: a guess could put one patient on both sides of a
        split.

    Examples
    --------
    >>> find_group("TCGA-B0-5710-01Z-00-DX1", "TCGA-..-....")
    'TCGA-B0-5710'
    """
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}") from error
    found = None if match is None else match[1 if match.re.groups else 0]
    if not found:
        raise ConfigError(
            f"{pattern!r} finds no group in {name}; correct the pattern, or give the groups in a "
            f"table"
        )
    return str(found)


def _ranks(config: LabelConfig) -> dict[int, int]:
    """Rank the labels by priority, areas of no class last."""
    order = list(config.priority or config.classes)
    ranks = {label: order.index(name) for label, name in enumerate(config.classes)}
    return {**ranks, UNLABELLED: len(order)}


def _listed(names: Counter[str]) -> str:
    return ", ".join(f"{name!r} ({count})" for name, count in names.most_common(8))
