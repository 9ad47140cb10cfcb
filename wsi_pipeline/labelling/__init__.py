"""Annotated areas of a slide -> tiles with classes: names, rules and reasons.

Pure geometry over the types of the pipeline: no slide and no annotation file is read here.
"""

from __future__ import annotations

from wsi_pipeline.labelling.classes import UNLABELLED, ClassArea, find_group, to_classes
from wsi_pipeline.labelling.places import (
    AreaTiles,
    is_annotated,
    label_by_centre,
    label_by_majority,
    lay_in_areas,
    outranked,
)
from wsi_pipeline.labelling.tiles import LabelledTiles, label_tiles, lay_contained_tiles

__all__ = [
    "UNLABELLED",
    "AreaTiles",
    "ClassArea",
    "LabelledTiles",
    "find_group",
    "is_annotated",
    "label_by_centre",
    "label_by_majority",
    "label_tiles",
    "lay_contained_tiles",
    "lay_in_areas",
    "outranked",
    "to_classes",
]
