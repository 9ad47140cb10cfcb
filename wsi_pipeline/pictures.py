"""Patch stores and heatmaps -> pictures for a person: what was kept, and what was found.

Draws what others have worked out and decides nothing. This is the only module that imports
matplotlib, and it never touches ``pyplot``, so drawing is safe in any thread.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from wsi_pipeline.files import replace_atomically
from wsi_pipeline.types import Area, Heatmap, SlideInfo, StainMatrix, StainVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from wsi_pipeline.types import SlideRecords

PANEL_INCHES = 8.0
SIDE_INCHES = 3.1
MARGIN_INCHES = 0.2
TITLE_INCHES = 0.55
SCALE_BAR_INCHES = 0.3
MIN_HEIGHT_INCHES = 5.6
DPI = 150

TISSUE_COLOR = "#00796b"
TILE_COLOR = "#0d47a1"
AREA_COLORS = {Area.PEN: "#d500f9", Area.BLACK: "#ffab00", Area.EDGE: "#ff3d00"}
VERDICT_COLORS = {
    StainVerdict.OK: "#2e7d32",
    StainVerdict.FLAGGED: "#e65100",
    StainVerdict.FALLBACK: "#b71c1c",
}
OPACITY = (0.15, 0.7)
"""Opacity of a class at chance and at certainty; tissue stays visible below both."""
PROBABILITY_COLORS = colormaps["viridis"]
PROBABILITY_SCALE = "Probability of {name}"

LEGEND_ROW_INCHES = 0.27
LEGEND_SPARE_INCHES = 1.0
"""Height of the legend's heading and notes."""

_SMALL, _TEXT, _HEADING = 7.5, 9.0, 11.0


def draw_qc(path: Path, store: SlideRecords) -> None:
    """Write the picture that shows what was kept of a slide and why the rest was not.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    store : SlideRecords
        The slide's store, or other records of it; one without patches is drawn as well.
    """
    _save(path, qc_figure(store))


def draw_heatmap(
    path: Path,
    store: SlideRecords,
    heatmap: Heatmap,
    *,
    class_name: str | None = None,
    scale: str = PROBABILITY_SCALE,
) -> None:
    """Write the picture that shows what was found on a slide.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    store : SlideRecords
        The slide's store, or other records of it, for thumbnail and scale.
    heatmap : Heatmap
        The classes.
    class_name : str or None
        Show this class's probability; the most probable class if None.
    scale : str
        What the values of one class are, over their legend; ``{name}`` becomes the class.

    Raises
    ------
    ValueError
        If there is no class of that name.
    """
    _save(path, heatmap_figure(store, heatmap, class_name=class_name, scale=scale))


def qc_figure(store: SlideRecords) -> Figure:
    """Draw thumbnail, tissue outline, artefacts, kept tiles, funnel and stain of a slide."""
    figure, axes, side = _layout(store, "quality control")
    _tint_areas(axes, store)
    _outline_tissue(axes, store)
    _outline_tiles(axes, store)
    _scale_bar(axes, store.slide)
    top = _write_funnel(side, store.funnel(), 0.0)
    top = _write_stain(side, store, top)
    _qc_legend(side, store, top)
    return figure


def heatmap_figure(
    store: SlideRecords,
    heatmap: Heatmap,
    *,
    class_name: str | None = None,
    scale: str = PROBABILITY_SCALE,
) -> Figure:
    """Draw classes over the thumbnail of a slide, with legend and scale bar."""
    figure, axes, side = _layout(store, "predicted classes" if class_name is None else class_name)
    if class_name is None:
        _paint(axes, class_overlay(heatmap), heatmap.cell_px)
        _class_legend(side, heatmap)
    else:
        if class_name not in heatmap.class_names:
            raise ValueError(f"{class_name!r} is not one of {', '.join(heatmap.class_names)}")
        index = heatmap.class_names.index(class_name)
        _paint(axes, probability_overlay(heatmap, index), heatmap.cell_px)
        _probability_legend(side, scale.format(name=class_name))
    _scale_bar(axes, store.slide)
    return figure


def class_overlay(heatmap: Heatmap) -> NDArray[np.float64]:
    """Colour each cell by its most probable class, more opaque where it is more probable.

    Returns
    -------
    ndarray of shape (rows, cols, 4), float64
        RGBA in [0, 1]; fully transparent where nothing was predicted.
    """
    rgba = np.zeros((*heatmap.values.shape[:2], 4))
    painted = ~np.isnan(heatmap.values[..., 0])
    prob = heatmap.values[painted].astype(np.float64)
    colors = np.array([to_rgb(color) for color in heatmap.class_colors])
    chance = 1 / len(heatmap.class_names)
    certainty = (prob.max(axis=-1) - chance) / max(1 - chance, 1e-9)
    rgba[painted, :3] = colors[prob.argmax(axis=-1)]
    rgba[painted, 3] = OPACITY[0] + (OPACITY[1] - OPACITY[0]) * certainty.clip(0, 1)
    return rgba


def probability_overlay(heatmap: Heatmap, index: int) -> NDArray[np.float64]:
    """Colour each cell by the probability of one class, on a scale unlike any stain.

    Returns
    -------
    ndarray of shape (rows, cols, 4), float64
        RGBA in [0, 1]; fully transparent where nothing was predicted.
    """
    prob = heatmap.values[..., index].astype(np.float64)
    rgba = PROBABILITY_COLORS(np.nan_to_num(prob))
    rgba[..., 3] = np.where(np.isnan(prob), 0, OPACITY[1])
    return np.asarray(rgba, dtype=np.float64)


def class_shares(heatmap: Heatmap) -> NDArray[np.float64]:
    """Return the share of the painted cells that each class has, shape (K,); 0 without cells."""
    painted = heatmap.values[~np.isnan(heatmap.values[..., 0])]
    counts = np.bincount(painted.argmax(axis=-1), minlength=len(heatmap.class_names))
    return np.asarray(counts / max(1, len(painted)), dtype=np.float64)


def legend_classes(shares: NDArray[np.float64], room: int) -> NDArray[np.intp]:
    """Choose the classes that a legend lists.

    Parameters
    ----------
    shares : ndarray of shape (K,)
        Share of the area that each class has.
    room : int
        Classes that the legend has room for.

    Returns
    -------
    ndarray of int
        Indices, most frequent class first: all where there is room for all, else the most
        frequent of those that have an area at all.
    """
    order = np.argsort(-shares, kind="stable")
    if len(order) <= room:
        return order
    return order[: min(room, np.count_nonzero(shares))]


def stain_colors(matrix: StainMatrix) -> NDArray[np.float64]:
    """Return the RGB colours of both stains at their maximum concentration, shape (2, 3)."""
    od = matrix.vectors * matrix.max_concentration[:, None]
    return np.asarray((matrix.background * 10.0**-od / 255).clip(0, 1), dtype=np.float64)


def nice_length_um(width_um: float) -> float:
    """Return the longest of 1, 2, 5, 10, ... um that is at most a quarter of a width."""
    limit = width_um / 4
    decade = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * decade for step in (1, 2, 5) if step * decade <= limit))


def _layout(store: SlideRecords, subject: str) -> tuple[Figure, Axes, Axes]:
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


def _write_title(figure: Figure, store: SlideRecords, subject: str, left: float) -> None:
    slide = store.slide
    _, height = figure.get_size_inches()
    figure.text(
        left,
        1 - 0.24 / height,
        f"{slide.slide_id}: {subject}",
        fontsize=_HEADING + 1,
        weight="bold",
    )
    size_mm = " × ".join(f"{side * slide.mpp / 1000:.1f}" for side in slide.size_wh)
    facts = (
        f"{slide.size_wh[0]:,} × {slide.size_wh[1]:,} px, {size_mm} mm, {slide.mpp:.4g} µm/px "
        f"({slide.mpp_source}), {slide.vendor};  {len(store):,} tiles of {store.patch_px} px "
        f"at {store.mpp:.4g} µm/px"
    )
    figure.text(left, 1 - 0.43 / height, facts, fontsize=_SMALL, color="#444444")


def _tint_areas(axes: Axes, store: SlideRecords) -> None:
    areas = store.areas
    colors = np.zeros((len(Area), 4))
    for area, color in AREA_COLORS.items():
        colors[area] = (*to_rgb(color), 0.45)
    _paint(axes, colors[areas], store.mask.downsample[0], store.mask.downsample[1])


def _paint(axes: Axes, rgba: NDArray[np.float64], cell_w: float, cell_h: float = 0.0) -> None:
    """Lay colours over the slide, the first cell in its top-left corner."""
    rows, cols = rgba.shape[:2]
    if not rows or not cols:
        return
    limits = axes.get_xlim(), axes.get_ylim()
    extent = (0, cols * cell_w, rows * (cell_h or cell_w), 0)
    axes.imshow(rgba, extent=extent, interpolation="nearest", zorder=2)
    axes.set(xlim=limits[0], ylim=limits[1])


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


def _scale_bar(axes: Axes, slide: SlideInfo) -> None:
    """Draw a bar of a round length below the slide, where it hides nothing."""
    width, height = slide.size_wh
    length_um = nice_length_um(width * slide.mpp)
    length = length_um / slide.mpp
    inch = max(width, height) / PANEL_INCHES
    bar = Rectangle((0, height + 0.1 * inch), length, 0.06 * inch)
    bar.set(facecolor="black", edgecolor="none", clip_on=False)
    axes.add_patch(bar)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    axes.text(length / 2, height + 0.2 * inch, text, ha="center", va="top", fontsize=_TEXT)


def _heading(side: Axes, text: str, y: float) -> float:
    """Write a heading in the column; return where the next line goes, in inches from the top."""
    side.text(0, y, text, fontsize=_HEADING, weight="bold", va="top")
    return y - 0.28


def _write_funnel(side: Axes, funnel: dict[str, int], y: float) -> float:
    """Write how many candidate tiles were kept and why the others were not, with bars."""
    total = sum(funnel.values())
    y = _heading(side, f"Tiles ({total:,} candidates)", y)
    for reason, count in funnel.items():
        share = count / max(1, total)
        kept = reason == "kept"
        bar = Rectangle((1.15, y - 0.13), 0.75 * share, 0.11)
        bar.set(facecolor=TILE_COLOR if kept else "#9e9e9e", edgecolor="none")
        side.add_patch(bar)
        weight = "bold" if kept else "normal"
        label = reason.replace("_", " ").replace("roi", "ROI")
        side.text(0, y, label, fontsize=_TEXT, va="top", weight=weight)
        side.text(2.55, y, f"{count:,}", fontsize=_TEXT, va="top", ha="right", weight=weight)
        side.text(SIDE_INCHES, y, f"{share:.1%}", fontsize=_TEXT, va="top", ha="right")
        y -= 0.19
    return y - 0.15


def _write_stain(side: Axes, store: SlideRecords, y: float) -> float:
    """Write how far the stain matrix may be trusted, and show its two colours."""
    stain = store.stain
    y = _heading(side, "Stain", y)
    side.text(
        0, y, str(stain.verdict), fontsize=_TEXT, va="top", weight="bold",
        color=VERDICT_COLORS[stain.verdict],
    )  # fmt: skip
    angle = f"{stain.angle_deg:.1f}° between H and E, " if np.isfinite(stain.angle_deg) else ""
    side.text(0, y - 0.19, f"{angle}{stain.pixel_count:,} pixels", fontsize=_SMALL, va="top")
    y -= 0.42
    names = ("hematoxylin", "eosin")
    for x, name, color in zip((0.0, 1.5), names, stain_colors(stain.matrix), strict=True):
        swatch = Rectangle((x, y - 0.22), 0.35, 0.22, facecolor=tuple(color), edgecolor="#666666")
        side.add_patch(swatch)
        side.text(x + 0.42, y - 0.11, name, fontsize=_TEXT, va="center")
    y -= 0.36
    for reason in stain.reasons:
        lines = textwrap.wrap(reason, 46)
        side.text(0, y, "\n".join(lines), fontsize=_SMALL, va="top", linespacing=1.25)
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
        fontsize=_TEXT,
    )


def _class_legend(side: Axes, heatmap: Heatmap) -> None:
    """Write the classes, most frequent first, with their shares of the predicted area."""
    shares = class_shares(heatmap)
    y = _heading(side, "Class", 0.0)
    side.text(
        SIDE_INCHES, 0, "share of area", fontsize=_SMALL, va="top", ha="right", color="#444444"
    )
    room = int((-side.get_ylim()[0] - LEGEND_SPARE_INCHES) / LEGEND_ROW_INCHES)
    listed = legend_classes(shares, room)
    for index in listed:
        name, color = heatmap.class_names[index], heatmap.class_colors[index]
        _strip(side, _class_tones(color), (0, y, 0.6))
        side.text(0.72, y - 0.09, name, fontsize=_TEXT, va="center")
        side.text(
            SIDE_INCHES, y - 0.09, f"{shares[index]:.1%}", fontsize=_TEXT, va="center", ha="right"
        )
        y -= LEGEND_ROW_INCHES
    rest = np.delete(shares, listed)
    if rest.any():
        text = f"and {np.count_nonzero(rest)} more with {rest.sum():.1%} together"
        side.text(0, y, text, fontsize=_TEXT, va="top")
        y -= 0.22
    if not shares.any():
        side.text(0, y, "no tile was predicted", fontsize=_TEXT, va="top", color="#b71c1c")
        y -= 0.22
    chance = 1 / len(heatmap.class_names)
    note = f"The stronger the colour, the more probable: from {chance:.2f} (chance) to 1."
    side.text(0, y - 0.05, "\n".join(textwrap.wrap(note, 46)), fontsize=_SMALL, va="top")


def _probability_legend(side: Axes, heading: str) -> None:
    y = _heading(side, heading, 0.0)
    tones = 1 - OPACITY[1] * (1 - PROBABILITY_COLORS(np.linspace(0, 1, 64))[:, :3])
    _strip(side, tones, (0, y, 2.4))
    for x, text in ((0.0, "0"), (1.2, "0.5"), (2.4, "1")):
        side.text(x, y - 0.25, text, fontsize=_SMALL, va="top", ha="center")


def _class_tones(color: str) -> NDArray[np.float64]:
    """Return what a class looks like on white, from chance to certainty, shape (n, 3)."""
    alpha = np.linspace(*OPACITY, 64)[:, None]
    return np.asarray(1 - alpha * (1 - np.array(to_rgb(color))), dtype=np.float64)


def _strip(side: Axes, tones: NDArray[np.float64], place: tuple[float, float, float]) -> None:
    """Draw tones from left to right; ``place`` is left, top and width, in inches."""
    x, y, width = place
    extent = (x, x + width, y - 0.18, y)
    limits = side.get_xlim(), side.get_ylim()
    side.imshow(tones[None], extent=extent, aspect="auto", interpolation="bilinear")
    side.set(xlim=limits[0], ylim=limits[1])
    frame = Rectangle((x, y - 0.18), width, 0.18)
    frame.set(facecolor="none", edgecolor="#666666", linewidth=0.8)
    side.add_patch(frame)


def _save(path: Path, figure: Figure) -> None:
    with replace_atomically(path) as partial:
        figure.savefig(partial, dpi=DPI)
