"""What was found on a slide -> the picture of it: its classes, or how probable one of them is."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.results.pictures.sheet import (
    COLUMN_PX,
    GREY,
    RED,
    SMALL,
    Sheet,
    rgb,
)

if TYPE_CHECKING:
    from wsi_pipeline.results.class_map import ClassAreas, ClassMap
    from wsi_pipeline.results.slide_result import SlideResult
    from wsi_pipeline.types import Heatmap, SlideRecords

OPACITY = (0.25, 0.75)
"""Opacity of a class at chance and at certainty; tissue stays visible below both."""
PROBABILITY_SCALE = "Probability of {name}"

LEGEND_ROW_PX = 40
LEGEND_SPARE_PX = 190
"""Height of the legend's heading and notes."""


def draw_classes(path: Path, result: SlideResult) -> dict[str, Path]:
    """Write the picture of the classes of a slide's tissue.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide; its rule says what has which class.

    Returns
    -------
    dict of str to Path
        The picture and a small one, by kind.
    """
    return classes_sheet(result).save_both(path)


def draw_probability(
    path: Path,
    records: SlideRecords,
    heatmap: Heatmap,
    class_name: str,
    *,
    scale: str = PROBABILITY_SCALE,
) -> None:
    """Write the picture of one number of each tile, such as the probability of a class.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    records : SlideRecords
        What is known of the slide.
    heatmap : Heatmap
        The numbers, between 0 and 1.
    class_name : str
        Which of them.
    scale : str
        What they are, over their legend; ``{name}`` becomes the class.

    Raises
    ------
    ValueError
        If there is no class of that name.
    """
    probability_sheet(records, heatmap, class_name, scale=scale).save(path)


def classes_sheet(result: SlideResult) -> Sheet:
    """Draw the classes of a slide's tissue over it, with a legend of areas."""
    sheet = Sheet(result.records, "predicted classes")
    laid = result.class_map
    labels = laid.at(*sheet.places())
    opacity = _at_places(sheet, class_opacity(result.heatmap), result.heatmap.cell_px)
    opacity[labels < 0] = 0
    colors = np.array([rgb(color) for color in laid.class_colors])
    sheet.blend(colors.take(labels, axis=0, mode="clip"), opacity)
    _class_legend(sheet, result)
    return sheet


def probability_sheet(
    records: SlideRecords, heatmap: Heatmap, class_name: str, *, scale: str = PROBABILITY_SCALE
) -> Sheet:
    """Draw one number of each tile over the slide, on a scale unlike any stain."""
    if class_name not in heatmap.class_names:
        raise ValueError(f"{class_name!r} is not one of {', '.join(heatmap.class_names)}")
    sheet = Sheet(records, class_name)
    plane = heatmap.values[..., heatmap.class_names.index(class_name)]
    values = _at_places(sheet, plane, heatmap.cell_px)
    opacity = np.where(np.isnan(values), 0, OPACITY[1]).astype(np.float32)
    sheet.blend(viridis(np.nan_to_num(values)), opacity)
    _probability_legend(sheet, scale.format(name=class_name))
    return sheet


def class_opacity(heatmap: Heatmap) -> NDArray[np.float32]:
    """Say how strongly each cell is coloured, the more the more probable its class is.

    Returns
    -------
    ndarray of shape (rows, cols), float32
        Between the two of :data:`OPACITY`, from chance to certainty; NaN where there is no tile.
    """
    chance = 1 / len(heatmap.class_names)
    certainty = (heatmap.values.max(axis=-1) - chance) / max(1 - chance, 1e-9)
    span = OPACITY[1] - OPACITY[0]
    return np.asarray(OPACITY[0] + span * certainty.clip(0, 1), dtype=np.float32)


def viridis(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the colours of numbers between 0 and 1, RGB, shape (..., 3)."""
    steps = np.arange(256, dtype=np.uint8)
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    table = cv2.applyColorMap(steps[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    return np.asarray(table.take(levels, axis=0), dtype=np.uint8)


def legend_classes(mm2: NDArray[np.float64], room: int) -> NDArray[np.intp]:
    """Choose the classes that a legend lists.

    Parameters
    ----------
    mm2 : ndarray of shape (K,)
        Area that each class has.
    room : int
        Classes that the legend has room for.

    Returns
    -------
    ndarray of int
        Indices, largest class first: all where there is room for all, else the largest of those
        that have an area at all.
    """
    order = np.argsort(-mm2, kind="stable")
    if len(order) <= room:
        return order
    return order[: min(room, np.count_nonzero(mm2))]


def _at_places(sheet: Sheet, cells: NDArray[np.float32], cell_px: float) -> NDArray[np.float32]:
    """Look up the cell of each pixel of the panel; NaN where there is none."""
    x, y = sheet.places()
    cols, rows = (x // cell_px).astype(np.intp), (y // cell_px).astype(np.intp)
    # one cell of nothing beyond the last row and column
    framed = np.pad(cells, ((0, 1), (0, 1)), constant_values=np.nan)
    limit_rows, limit_cols = cells.shape
    at = np.ix_(rows.clip(max=limit_rows), cols.clip(max=limit_cols))
    return np.asarray(framed[at], dtype=np.float32)


def _class_legend(sheet: Sheet, result: SlideResult) -> None:
    """Write the classes, largest first, with their areas and shares of the classified tissue."""
    laid, areas = result.class_map, result.areas[0]
    mm2 = np.array(list(areas.class_mm2.values()))
    total = max(float(mm2.sum()), 1e-12)
    sheet.write_right(COLUMN_PX, "share", SMALL, color=GREY)
    sheet.write_right(COLUMN_PX - 75, "mm²", SMALL, color=GREY)
    sheet.heading("Class")
    listed = legend_classes(mm2, int((sheet.room - LEGEND_SPARE_PX) / LEGEND_ROW_PX))
    for index in listed:
        sheet.swatch(0, 90, 27, _class_tones(laid, int(index)))
        sheet.y += 3
        sheet.write(108, laid.class_names[index])
        sheet.write_right(COLUMN_PX - 75, f"{mm2[index]:.3g}")
        sheet.write_right(COLUMN_PX, f"{mm2[index] / total:.1%}")
        sheet.y += LEGEND_ROW_PX - 3
    rest = np.delete(mm2, listed)
    if rest.any():
        share = rest.sum() / total
        sheet.write(0, f"and {np.count_nonzero(rest)} more with {share:.1%} together")
        sheet.y += 34
    if not mm2.any():
        sheet.write(0, "no tissue has a class", color=RED)
        sheet.y += 34
    _rest_of_tissue(sheet, areas)
    for doubt in result.predictions.doubts:
        sheet.y += 8
        sheet.paragraph(textwrap.wrap(doubt, 46), color=RED)
    sheet.y += 8
    chance = 1 / len(laid.class_names)
    note = f"The stronger the colour, the more probable: from {chance:.2f} (chance) to 1."
    sheet.paragraph(textwrap.wrap(note, 46))


def _rest_of_tissue(sheet: Sheet, areas: ClassAreas) -> None:
    """Write how much tissue there is, and how much of it has no class and why."""
    rows = [
        ("all tissue", areas.tissue_mm2),
        ("below the threshold", areas.undecided_mm2),
        ("in no tile", areas.unpredicted_mm2),
    ]
    for name, mm2 in rows:
        if mm2 or name == "all tissue":
            sheet.write(0, name, SMALL, color=GREY)
            sheet.write_right(COLUMN_PX - 75, f"{mm2:.3g}", SMALL, color=GREY)
            sheet.y += 24


def _probability_legend(sheet: Sheet, title: str) -> None:
    sheet.heading(title)
    tones = 255 - OPACITY[1] * (255 - viridis(np.linspace(0, 1, 64)).astype(np.float64))
    sheet.swatch(0, 360, 27, tones)
    sheet.y += 33
    for x, text in ((12, "0"), (192, "0.5"), (366, "1")):
        sheet.write_right(x, text, SMALL)
    sheet.y += 24


def _class_tones(laid: ClassMap, index: int) -> NDArray[np.float64]:
    """Return what a class looks like on white, from chance to certainty, shape (n, 3)."""
    alpha = np.linspace(*OPACITY, 64)[:, None]
    return np.asarray(255 - alpha * (255.0 - rgb(laid.class_colors[index])), dtype=np.float64)
