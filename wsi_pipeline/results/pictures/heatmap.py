"""Slide records and a heatmap -> the picture of what was found on a slide."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from wsi_pipeline.results.pictures.frame import (
    SIDE_INCHES,
    SMALL,
    TEXT,
    heading,
    layout,
    paint,
    save,
    scale_bar,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wsi_pipeline.types import Heatmap, SlideRecords

OPACITY = (0.15, 0.7)
"""Opacity of a class at chance and at certainty; tissue stays visible below both."""
PROBABILITY_COLORS = colormaps["viridis"]
PROBABILITY_SCALE = "Probability of {name}"

LEGEND_ROW_INCHES = 0.27
LEGEND_SPARE_INCHES = 1.0
"""Height of the legend's heading and notes."""


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
    save(path, heatmap_figure(store, heatmap, class_name=class_name, scale=scale))


def heatmap_figure(
    store: SlideRecords,
    heatmap: Heatmap,
    *,
    class_name: str | None = None,
    scale: str = PROBABILITY_SCALE,
) -> Figure:
    """Draw classes over the thumbnail of a slide, with legend and scale bar."""
    figure, axes, side = layout(store, "predicted classes" if class_name is None else class_name)
    if class_name is None:
        paint(axes, class_overlay(heatmap), heatmap.cell_px)
        _class_legend(side, heatmap)
    else:
        if class_name not in heatmap.class_names:
            raise ValueError(f"{class_name!r} is not one of {', '.join(heatmap.class_names)}")
        index = heatmap.class_names.index(class_name)
        paint(axes, probability_overlay(heatmap, index), heatmap.cell_px)
        _probability_legend(side, scale.format(name=class_name))
    scale_bar(axes, store.slide)
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


def _class_legend(side: Axes, heatmap: Heatmap) -> None:
    """Write the classes, most frequent first, with their shares of the predicted area."""
    shares = class_shares(heatmap)
    y = heading(side, "Class", 0.0)
    side.text(
        SIDE_INCHES, 0, "share of area", fontsize=SMALL, va="top", ha="right", color="#444444"
    )
    room = int((-side.get_ylim()[0] - LEGEND_SPARE_INCHES) / LEGEND_ROW_INCHES)
    listed = legend_classes(shares, room)
    for index in listed:
        name, color = heatmap.class_names[index], heatmap.class_colors[index]
        _strip(side, _class_tones(color), (0, y, 0.6))
        side.text(0.72, y - 0.09, name, fontsize=TEXT, va="center")
        side.text(
            SIDE_INCHES, y - 0.09, f"{shares[index]:.1%}", fontsize=TEXT, va="center", ha="right"
        )
        y -= LEGEND_ROW_INCHES
    rest = np.delete(shares, listed)
    if rest.any():
        text = f"and {np.count_nonzero(rest)} more with {rest.sum():.1%} together"
        side.text(0, y, text, fontsize=TEXT, va="top")
        y -= 0.22
    if not shares.any():
        side.text(0, y, "no tile was predicted", fontsize=TEXT, va="top", color="#b71c1c")
        y -= 0.22
    chance = 1 / len(heatmap.class_names)
    note = f"The stronger the colour, the more probable: from {chance:.2f} (chance) to 1."
    side.text(0, y - 0.05, "\n".join(textwrap.wrap(note, 46)), fontsize=SMALL, va="top")


def _probability_legend(side: Axes, title: str) -> None:
    y = heading(side, title, 0.0)
    tones = 1 - OPACITY[1] * (1 - PROBABILITY_COLORS(np.linspace(0, 1, 64))[:, :3])
    _strip(side, tones, (0, y, 2.4))
    for x, text in ((0.0, "0"), (1.2, "0.5"), (2.4, "1")):
        side.text(x, y - 0.25, text, fontsize=SMALL, va="top", ha="center")


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
