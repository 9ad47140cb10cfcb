"""Low-resolution RGB of a slide to its areas: tissue, glass, pen ink, black border, glass edge.

Arrays in, arrays out: it reads no slides, cuts no tiles and does not judge the stain.
"""

from wsi_pipeline.tissue.colour_coding import find_miscoding
from wsi_pipeline.tissue.detect import detect_tissue, require_brightfield, sharpness
from wsi_pipeline.tissue.nuclei import typical_nucleus_um2
from wsi_pipeline.tissue.segmenters import TissueSegmenter, make_segmenter, segment_overview

__all__ = [
    "TissueSegmenter",
    "detect_tissue",
    "find_miscoding",
    "make_segmenter",
    "require_brightfield",
    "segment_overview",
    "sharpness",
    "typical_nucleus_um2",
]
