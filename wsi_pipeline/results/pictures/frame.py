"""The sheet that every picture of a slide is drawn on: thumbnail, title, scale bar, a text column.

Knows what a slide is, not what is shown of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from wsi_pipeline.types import SlideInfo, SlideRecords

PANEL_INCHES = 8.0
SIDE_INCHES = 3.1
MARGIN_INCHES = 0.2
TITLE_INCHES = 0.55
SCALE_BAR_INCHES = 0.3
MIN_HEIGHT_INCHES = 5.6
DPI = 150

SMALL, TEXT, HEADING = 7.5, 9.0, 11.0
"""Sizes of text, points."""


def layout(store: SlideRecords, subject: str) -> tuple[Figure, Axes, Axes]:
    """Make a figure with the thumbnail on the left and an empty column for text on the right."""
    width, height = store.slide.size_wh
    scale = PANEL_INCHES / max(width, height)
    panel_w, panel_h = width * scale, height * scale
    total_w = panel_w + SIDE_INCHES + 3 * MARGIN_INCHES
    total_h = max(panel_h + SCALE_BAR_INCHES, MIN_HEIGHT_INCHES) + TITLE_INCHES + MARGIN_INCHES
    figure = Figure(figsize=(total_w, total_h), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    top = 1 - TITLE_INCHES / total_h
    axes = figure.add_axes(
        (MARGIN_INCHES / total_w, top - panel_h / total_h, panel_w / total_w, panel_h / total_h)
    )
    # level-0 px are the coordinates, so that whatever is drawn needs no conversion
    axes.imshow(store.thumbnail, extent=(0, width, height, 0), interpolation="antialiased")
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    left = (panel_w + 2 * MARGIN_INCHES) / total_w
    bottom = MARGIN_INCHES / total_h
    side = figure.add_axes((left, bottom, SIDE_INCHES / total_w, top - bottom))
    # inches, downwards from the top left
    side.set(xlim=(0, SIDE_INCHES), ylim=((bottom - top) * total_h, 0))
    side.set_axis_off()
    _write_title(figure, store, subject, MARGIN_INCHES / total_w)
    return figure, axes, side


def paint(axes: Axes, rgba: NDArray[np.float64], cell_w: float, cell_h: float = 0.0) -> None:
    """Lay colours over the slide, the first cell in its top-left corner."""
    rows, cols = rgba.shape[:2]
    if not rows or not cols:
        return
    limits = axes.get_xlim(), axes.get_ylim()
    extent = (0, cols * cell_w, rows * (cell_h or cell_w), 0)
    axes.imshow(rgba, extent=extent, interpolation="nearest", zorder=2)
    axes.set(xlim=limits[0], ylim=limits[1])


def scale_bar(axes: Axes, slide: SlideInfo) -> None:
    """Draw a bar of a round length below the slide, where it hides nothing."""
    width, height = slide.size_wh
    length_um = nice_length_um(width * slide.mpp)
    length = length_um / slide.mpp
    inch = max(width, height) / PANEL_INCHES
    bar = Rectangle((0, height + 0.1 * inch), length, 0.06 * inch)
    bar.set(facecolor="black", edgecolor="none", clip_on=False)
    axes.add_patch(bar)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    axes.text(length / 2, height + 0.2 * inch, text, ha="center", va="top", fontsize=TEXT)


def nice_length_um(width_um: float) -> float:
    """Return the longest of 1, 2, 5, 10, ... um that is at most a quarter of a width."""
    limit = width_um / 4
    decade = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= limit))


def heading(side: Axes, text: str, y: float) -> float:
    """Write a heading in the column; return where the next line goes, in inches from the top."""
    side.text(0, y, text, fontsize=HEADING, weight="bold", va="top")
    return y - 0.28


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, in one step."""
    with replace_atomically(path) as partial:
        # compressing as hard as is usual takes three times as long and saves little
        figure.savefig(partial, dpi=DPI, pil_kwargs={"compress_level": 1})


def _write_title(figure: Figure, store: SlideRecords, subject: str, left: float) -> None:
    slide = store.slide
    _, height = figure.get_size_inches()
    figure.text(
        left,
        1 - 0.24 / height,
        f"{slide.slide_id}: {subject}",
        fontsize=HEADING + 1,
        weight="bold",
    )
    size_mm = " × ".join(f"{side * slide.mpp / 1000:.1f}" for side in slide.size_wh)
    facts = (
        f"{slide.size_wh[0]:,} × {slide.size_wh[1]:,} px, {size_mm} mm, {slide.mpp:.4g} µm/px "
        f"({slide.mpp_source}), {slide.vendor};  {len(store):,} tiles of {store.patch_px} px "
        f"at {store.mpp:.4g} µm/px"
    )
    figure.text(left, 1 - 0.43 / height, facts, fontsize=SMALL, color="#444444")
