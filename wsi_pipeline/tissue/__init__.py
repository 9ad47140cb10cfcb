"""Low-resolution RGB of a slide to its areas: tissue, glass, pen ink, black border, glass edge.

Arrays in, arrays out: it reads no slides, cuts no tiles and does not judge the stain.
"""

from wsi_pipeline.tissue.detect import detect_tissue, require_brightfield, sharpness

__all__ = ["detect_tissue", "require_brightfield", "sharpness"]
