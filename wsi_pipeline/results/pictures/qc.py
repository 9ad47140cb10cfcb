"""Slide records -> the picture of what was kept of a slide, and why the rest was not."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle

from wsi_pipeline.results.pictures.frame import (
    PANEL_INCHES,
    SIDE_INCHES,
    SMALL,
    TEXT,
    heading,
    layout,
    paint,
    save,
    scale_bar,
)
from wsi_pipeline.types import Area, StainVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from wsi_pipeline.types import SlideRecords, StainMatrix

TISSUE_COLOR = "#00796b"
TILE_COLOR = "#0d47a1"
AREA_COLORS = {Area.PEN: "#d500f9", Area.BLACK: "#ffab00", Area.EDGE: "#ff3d00"}
VERDICT_COLORS = {
    StainVerdict.OK: "#2e7d32",
    StainVerdict.FLAGGED: "#e65100",
    StainVerdict.FALLBACK: "#b71c1c",
}


def draw_qc(path: Path, store: SlideRecords) -> None:
    """Write the picture that shows what was kept of a slide and why the rest was not.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    store : SlideRecords
        The slide's store, or other records of it; one without patches is drawn as well.
    """
    save(path, qc_figure(store))


def qc_figure(store: SlideRecords) -> Figure:
    """Draw thumbnail, tissue outline, artefacts, kept tiles, funnel and stain of a slide."""
    figure, axes, side = layout(store, "quality control")
    _tint_areas(axes, store)
    _outline_tissue(axes, store)
    _outline_tiles(axes, store)
    scale_bar(axes, store.slide)
    top = _write_funnel(side, store.funnel(), 0.0)
    top = _write_stain(side, store, top)
    _qc_legend(side, store, top)
    return figure


def stain_colors(matrix: StainMatrix) -> NDArray[np.float64]:
    """Return the RGB colours of both stains at their maximum concentration, shape (2, 3)."""
    od = matrix.vectors * matrix.max_concentration[:, None]
    return np.asarray((matrix.background * 10.0**-od / 255).clip(0, 1), dtype=np.float64)


def _tint_areas(axes: Axes, store: SlideRecords) -> None:
    areas = store.areas
    colors = np.zeros((len(Area), 4))
    for area, color in AREA_COLORS.items():
        colors[area] = (*to_rgb(color), 0.45)
    paint(axes, colors[areas], store.mask.downsample[0], store.mask.downsample[1])


def _outline_tissue(axes: Axes, store: SlideRecords) -> None:
    tissue = store.mask.tissue
    if not tissue.any() or min(tissue.shape) < 2:
        return
    dx, dy = store.mask.downsample
    # a frame of glass closes the outline of tissue that touches the border
    framed = np.pad(tissue.astype(np.float32), 1)
    x = (np.arange(framed.shape[1]) - 0.5) * dx
    y = (np.arange(framed.shape[0]) - 0.5) * dy
    axes.contour(x, y, framed, levels=[0.5], colors=[TISSUE_COLOR], linewidths=1.2, zorder=4)


def _outline_tiles(axes: Axes, store: SlideRecords) -> None:
    xy = store.xy.astype(np.float64)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * store.extent
    tile_points = store.extent * 72 * PANEL_INCHES / max(store.slide.size_wh)
    tiles = PolyCollection(
        list(xy[:, None, :] + corners),
        facecolors="none",
        edgecolors=TILE_COLOR,
        # lines of small tiles would hide the slide
        linewidths=float(np.clip(tile_points / 25, 0.12, 0.8)),
        zorder=3,
        label="kept tiles",
    )
    axes.add_collection(tiles, autolim=False)


def _write_funnel(side: Axes, funnel: dict[str, int], y: float) -> float:
    """Write how many candidate tiles were kept and why the others were not, with bars."""
    total = sum(funnel.values())
    y = heading(side, f"Tiles ({total:,} candidates)", y)
    for reason, count in funnel.items():
        share = count / max(1, total)
        kept = reason == "kept"
        bar = Rectangle((1.15, y - 0.13), 0.75 * share, 0.11)
        bar.set(facecolor=TILE_COLOR if kept else "#9e9e9e", edgecolor="none")
        side.add_patch(bar)
        weight = "bold" if kept else "normal"
        label = reason.replace("_", " ").replace("roi", "ROI")
        side.text(0, y, label, fontsize=TEXT, va="top", weight=weight)
        side.text(2.55, y, f"{count:,}", fontsize=TEXT, va="top", ha="right", weight=weight)
        side.text(SIDE_INCHES, y, f"{share:.1%}", fontsize=TEXT, va="top", ha="right")
        y -= 0.19
    return y - 0.15


def _write_stain(side: Axes, store: SlideRecords, y: float) -> float:
    """Write how far the stain matrix may be trusted, and show its two colours."""
    stain = store.stain
    y = heading(side, "Stain", y)
    side.text(
        0, y, str(stain.verdict), fontsize=TEXT, va="top", weight="bold",
        color=VERDICT_COLORS[stain.verdict],
    )  # fmt: skip
    angle = f"{stain.angle_deg:.1f}° between H and E, " if np.isfinite(stain.angle_deg) else ""
    side.text(0, y - 0.19, f"{angle}{stain.pixel_count:,} pixels", fontsize=SMALL, va="top")
    y -= 0.42
    names = ("hematoxylin", "eosin")
    for x, name, color in zip((0.0, 1.5), names, stain_colors(stain.matrix), strict=True):
        swatch = Rectangle((x, y - 0.22), 0.35, 0.22, facecolor=tuple(color), edgecolor="#666666")
        side.add_patch(swatch)
        side.text(x + 0.42, y - 0.11, name, fontsize=TEXT, va="center")
    y -= 0.36
    for reason in stain.reasons:
        lines = textwrap.wrap(reason, 46)
        side.text(0, y, "\n".join(lines), fontsize=SMALL, va="top", linespacing=1.25)
        y -= 0.15 * len(lines) + 0.05
    return y - 0.15


def _qc_legend(side: Axes, store: SlideRecords, y: float) -> None:
    handles = [
        Patch(facecolor="none", edgecolor=TISSUE_COLOR, linewidth=1.5, label="tissue"),
        Patch(facecolor="none", edgecolor=TILE_COLOR, label="kept tiles"),
    ]
    present = set(np.unique(store.areas).tolist())
    handles += [
        Patch(facecolor=(*to_rgb(color), 0.5), label=f"{area.name.lower()} (left out)")
        for area, color in AREA_COLORS.items()
        if area in present
    ]
    bottom, top = side.get_ylim()
    side.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, (y - bottom) / (top - bottom)),
        borderaxespad=0,
        borderpad=0,
        frameon=False,
        fontsize=TEXT,
    )
