"""Patches and what each stain says of them -> a sheet with a row per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from wsi_pipeline.types import StainMatrix

DPI = 150
SMALL, TEXT, HEADING = 7.5, 9.0, 11.0
"""Sizes of text, points."""

PANEL = 1.35
"""Side of a panel, inches."""

FOR, AGAINST = (0.70, 0.09, 0.17), (0.13, 0.40, 0.67)
"""Red and blue of a scale that people with any colour vision tell apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedPatch:
    """A patch and the class that it was given.

    Attributes
    ----------
    class_name, class_color : str
        The class.
    planes : ndarray of shape (2, P, P), float32
        Stored values of hematoxylin and eosin, in [0, 1].
    lead : tuple of float
        How far each stain puts the class above the mean of all.
    maps : ndarray of shape (2, h, w), float32
        The same at every place; their means are ``lead``.
    """

    class_name: str
    class_color: str
    planes: NDArray[np.float32]
    lead: tuple[float, float]
    maps: NDArray[np.float32]


def draw_explanations(
    path: Path, title: str, stains: StainMatrix, patches: list[ExplainedPatch]
) -> None:
    """Write the sheet as PNG; see :func:`explanations_figure`."""
    figure = explanations_figure(title, stains, patches)
    with replace_atomically(path) as partial:
        figure.savefig(partial, dpi=DPI, pil_kwargs={"compress_level": 1})


def explanations_figure(title: str, stains: StainMatrix, patches: list[ExplainedPatch]) -> Figure:
    """Draw patches, a row per class: its colours, and each stain with what it speaks for.

    Parameters
    ----------
    title : str
        What the patches are of.
    stains : StainMatrix
        Gives the patches their colours.
    patches : list of ExplainedPatch
        Patches of one class follow each other.

    Returns
    -------
    Figure
        Red places speak for the class, blue ones against it; one scale holds for the sheet.
    """
    names = list(dict.fromkeys(patch.class_name for patch in patches))
    rows = [[patch for patch in patches if patch.class_name == name] for name in names]
    per_row = max((len(row) for row in rows), default=1)
    width, height = 3 * per_row * PANEL + 0.4, max(1, len(rows)) * (PANEL + 0.5) + 0.9
    figure = Figure(figsize=(max(width, 6.0), height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    total = figure.get_size_inches()
    figure.text(
        0.2 / total[0],
        1 - 0.3 / total[1],
        title,
        fontsize=HEADING + 1,
        weight="bold",
        parse_math=False,
    )
    figure.text(
        0.2 / total[0],
        1 - 0.52 / total[1],
        "colours, hematoxylin, eosin; red speaks for the class, blue against it; numbers: how far "
        "the stain puts the class above the mean of all",
        fontsize=SMALL,
        color="#444444",
    )
    strongest = max((float(np.abs(patch.maps).max()) for patch in patches), default=0.0)
    for line, row in enumerate(rows):
        top = total[1] - 0.9 - line * (PANEL + 0.5)
        figure.text(
            0.2 / total[0],
            (top + 0.08) / total[1],
            row[0].class_name,
            fontsize=TEXT,
            weight="bold",
            color=row[0].class_color,
            parse_math=False,
        )
        for place, patch in enumerate(row):
            left = 0.2 + 3 * place * PANEL
            for panel in range(3):
                axes = figure.add_axes(
                    (
                        (left + panel * PANEL) / total[0],
                        (top - PANEL) / total[1],
                        0.96 * PANEL / total[0],
                        0.96 * PANEL / total[1],
                    )
                )
                _draw_panel(axes, patch, panel, stains, strongest)
    return figure


def _draw_panel(
    axes: Axes, patch: ExplainedPatch, panel: int, stains: StainMatrix, strongest: float
) -> None:
    axes.set(xticks=[], yticks=[])
    if panel == 0:
        axes.imshow(stain_colors_of(patch.planes, stains))
        return
    stain = panel - 1
    grey = 1 - 0.8 * patch.planes[stain][..., None].repeat(3, axis=2)
    side = patch.planes.shape[1]
    speaks = cv2.resize(patch.maps[stain], (side, side), interpolation=cv2.INTER_CUBIC)
    axes.imshow(_tinted(grey, speaks / (strongest or 1.0)))
    axes.set_xlabel(f"{'HE'[stain]} {patch.lead[stain]:+.2f}", fontsize=SMALL, labelpad=2)


def stain_colors_of(planes: NDArray[np.float32], stains: StainMatrix) -> NDArray[np.float64]:
    """Return the colours that stored planes stand for, shape (P, P, 3), in [0, 1]."""
    amounts = planes.transpose(1, 2, 0) * 2 * stains.max_concentration
    light = stains.background / 255 * 10 ** -(amounts @ stains.vectors)
    return np.asarray(light.clip(0, 1))


def _tinted(grey: NDArray[np.float32], speaks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Lay red where the values are above zero and blue where they are below."""
    strength = np.abs(speaks).clip(0, 1)[..., None] ** 0.7 * 0.75
    color = np.where(speaks[..., None] > 0, FOR, AGAINST)
    return np.asarray(((1 - strength) * grey + strength * color).clip(0, 1))
