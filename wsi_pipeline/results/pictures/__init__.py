"""Patch stores and results -> pictures for a person: what was kept, and what was found.

Draws what others have worked out and decides nothing. The only door to Pillow here; drawing is
safe in any thread.
"""

from wsi_pipeline.results.pictures.heatmap import draw_classes, draw_probability
from wsi_pipeline.results.pictures.qc import draw_qc

__all__ = ["draw_classes", "draw_probability", "draw_qc"]
