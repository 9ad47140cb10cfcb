"""Options that are one of a few words."""

from __future__ import annotations

from enum import StrEnum


class ReaderName(StrEnum):
    """Which of our readers opens a slide."""

    AUTO = "auto"
    TIFF = "tiff"
    OPENSLIDE = "openslide"


class HeValues(StrEnum):
    """How H/E concentrations are stored."""

    UINT8 = "uint8"
    FLOAT16 = "float16"


class Precision(StrEnum):
    """Arithmetic of inference."""

    AUTO = "auto"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class DamagedTiles(StrEnum):
    """What is done about tiles whose pixels cannot be read."""

    ERROR = "error"
    DROP = "drop"


class LabelMode(StrEnum):
    """How tiles get the class of an annotated area."""

    CENTRE = "centre"
    MAJORITY = "majority"
    CONTAINMENT = "containment"


class LabelTiles(StrEnum):
    """Which tiles are kept where a slide is annotated."""

    LABELLED = "labelled"
    OUTSIDE = "outside"
    ALL = "all"


class SmallPolygons(StrEnum):
    """What is done about areas of a few tiles."""

    ADAPTIVE = "adaptive"
    STRICT = "strict"


class Overlaps(StrEnum):
    """What is done about tiles in areas of several classes."""

    PRIORITY = "priority"
    BOTH = "both"


class Unmapped(StrEnum):
    """What is done about annotated areas of no known class."""

    ERROR = "error"
    IGNORE = "ignore"
