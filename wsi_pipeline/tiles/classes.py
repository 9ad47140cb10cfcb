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


def find_group(slide_id: str, pattern: str) -> str:
    """Find the patient in the name of a slide.

    Parameters
    ----------
    slide_id : str
        Name of the slide.
    pattern : str
        Regular expression; its first group is the patient, or all it matches without a group.

    Returns
    -------
    str
        The patient.

    Raises
    ------
    ConfigError
        If the pattern is not found: a guess could put one patient on both sides of a split.

    Examples
    --------
    >>> find_group("TCGA-B0-5710-01Z-00-DX1", "TCGA-..-....")
    'TCGA-B0-5710'
    """
    match = re.search(pattern, slide_id)
    if match is None or not (match[1] if match.re.groups else match[0]):
        raise ConfigError(
            f"--group {pattern!r} finds no patient in the slide id {slide_id!r}; correct the "
            f"pattern, or give a column 'group' in a slide table"
        )
    return str(match[1] if match.re.groups else match[0])


def _ranks(config: LabelConfig) -> dict[int, int]:
    """Rank the labels by priority, areas of no class last."""
    order = list(config.priority or config.classes)
    ranks = {label: order.index(name) for label, name in enumerate(config.classes)}
    return {**ranks, UNLABELLED: len(order)}


def _listed(names: Counter[str]) -> str:
    return ", ".join(f"{name!r} ({count})" for name, count in names.most_common(8))
