"""Patches and what each stain says of them -> a sheet with a row per class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

LEFT, HEAD, ROW = 0.2, 0.9, PANEL + 0.5
"""Margin, height of the title, and height of a row, inches."""

LEGEND = (
    "colours, then each stain; red speaks for the class, blue against it; numbers: how far the "
    "stain puts the class above the mean of all"
)

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
    width = max(3 * per_row * PANEL + 2 * LEFT, 6.0)
    figure = Figure(figsize=(width, max(1, len(rows)) * ROW + HEAD), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    _write(figure, 0.3, title, fontsize=HEADING + 1, weight="bold")
    _write(figure, 0.52, LEGEND, fontsize=SMALL, color="#444444")
    strongest = max((float(np.abs(patch.maps).max()) for patch in patches), default=0.0)
    for line, row in enumerate(rows):
        top = HEAD + line * ROW
        color = row[0].class_color
        _write(figure, top - 0.08, names[line], fontsize=TEXT, weight="bold", color=color)
        for place, patch in enumerate(row):
            for panel in range(3):
                axes = _add_panel(figure, LEFT + (3 * place + panel) * PANEL, top)
                _draw_panel(axes, patch, panel, stains, strongest)
    return figure


def _write(figure: Figure, below: float, text: str, **look: Any) -> None:  # noqa: ANN401
    """Write a line so many inches below the top; names are written as they are."""
    width, height = figure.get_size_inches()
    figure.text(LEFT / width, 1 - below / height, text, parse_math=False, **look)


def _add_panel(figure: Figure, left: float, below: float) -> Axes:
    """Make room for a picture, its place in inches from the left and the top."""
    width, height = figure.get_size_inches()
    side = 0.96 * PANEL
    return figure.add_axes(
        (left / width, 1 - (below + PANEL) / height, side / width, side / height)
    )


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
