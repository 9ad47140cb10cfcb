"""The values that flow through the pipeline: frozen, validated, legal for N = 0.

Places on a slide are ``(x, y)`` in level-0 pixels and their names end in ``_xy`` (sizes in
``_wh``); arrays are indexed ``[row, col]`` and index names end in ``_rc``. Nothing here reads
or writes files.
"""

from wsi_pipeline.types.explanations import StainExplanations
from wsi_pipeline.types.predictions import (
    EncoderSpec,
    Heatmap,
    Interpolation,
    ModelSpec,
    Origin,
    PatchInput,
    PatchSpec,
    Predictions,
)
from wsi_pipeline.types.protocols import NoProgress, Progress, SlideRecords
from wsi_pipeline.types.slide import Area, DicomImage, MppSource, SlideInfo, TissueMask
from wsi_pipeline.types.stains import (
    BLUE_STAIN,
    BROWN_STAIN,
    CONVENTIONS,
    STAIN_CONVENTION,
    STAIN_NAMES,
    StainEstimate,
    StainMatrix,
    StainPair,
    StainVerdict,
)
from wsi_pipeline.types.tiles import OnGrid, TileGrid, TileReason

__all__ = [
    "BLUE_STAIN",
    "BROWN_STAIN",
    "CONVENTIONS",
    "STAIN_CONVENTION",
    "STAIN_NAMES",
    "Area",
    "DicomImage",
    "EncoderSpec",
    "Heatmap",
    "Interpolation",
    "ModelSpec",
    "MppSource",
    "NoProgress",
    "OnGrid",
    "Origin",
    "PatchInput",
    "PatchSpec",
    "Predictions",
    "Progress",
    "SlideInfo",
    "SlideRecords",
    "StainEstimate",
    "StainExplanations",
    "StainMatrix",
    "StainPair",
    "StainVerdict",
    "TileGrid",
    "TileReason",
    "TissueMask",
]
