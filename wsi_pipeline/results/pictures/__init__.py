"""Patch stores and heatmaps -> pictures for a person: what was kept, and what was found.

Draws what others have worked out and decides nothing. The only door to matplotlib here; it never
touches ``pyplot``, so drawing is safe in any thread.
"""

from wsi_pipeline.results.pictures.heatmap import draw_heatmap
from wsi_pipeline.results.pictures.qc import draw_qc

__all__ = ["draw_heatmap", "draw_qc"]
