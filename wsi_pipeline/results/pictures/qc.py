"""Slide records -> the picture of what was kept of a slide, and why the rest was not."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.results.palette import class_colors
from wsi_pipeline.results.pictures.sheet import COLUMN_PX, SMALL, TEXT, Sheet, rgb
from wsi_pipeline.types import Area, StainVerdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.types import SlideRecords, StainMatrix

TISSUE_COLOR = "#00796b"
TILE_COLOR = "#0d47a1"
AREA_COLORS = {
    Area.PEN: "#d500f9",
    Area.BLACK: "#ffab00",
    Area.EDGE: "#ff3d00",
    Area.FOLD: "#5d4037",
    Area.BLUR: "#0091ea",
    Area.BUBBLE: "#00bfa5",
}
TINT = 0.45
VERDICT_COLORS = {
    StainVerdict.OK: "#2e7d32",
    StainVerdict.FLAGGED: "#e65100",
    StainVerdict.FALLBACK: "#b71c1c",
}
LABEL_TINT = 0.4
SHIFT = 4
"""Places are drawn to a sixteenth of a pixel."""

FULL_LINES_PX = 26
"""Tiles that are smaller on the picture get fainter lines, which would hide the slide."""


def draw_qc(path: Path, records: SlideRecords) -> dict[str, Path]:
    """Write the picture that shows what was kept of a slide and why the rest was not.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    records : SlideRecords
        The slide's store, or other records of it; one without patches is drawn as well.

    Returns
    -------
    dict of str to Path
        The picture and a small one, by kind.
    """
    return qc_sheet(records).save_both(path)


def qc_sheet(records: SlideRecords) -> Sheet:
    """Draw tissue outline, artefacts, kept tiles and their labels, funnel and stain of a slide."""
    sheet = Sheet(records, "quality control")
    _tint_areas(sheet, records)
    _tint_labels(sheet, records)
    _outline_tiles(sheet, records)
    _outline_tissue(sheet, records)
    _write_funnel(sheet, records.funnel())
    _write_labels(sheet, records)
    _write_stain(sheet, records)
    _write_legend(sheet, records)
    return sheet


def stain_colors(matrix: StainMatrix) -> NDArray[np.float64]:
    """Return the RGB of both stains at their maximum concentration, to 255, shape (2, 3)."""
    od = matrix.vectors * matrix.max_concentration[:, None]
    return np.asarray((matrix.background * 10.0**-od).clip(0, 255), dtype=np.float64)


def _tint_areas(sheet: Sheet, records: SlideRecords) -> None:
    colors, tints = np.zeros((len(Area), 3), dtype=np.uint8), np.zeros(len(Area), dtype=np.float32)
    for area, color in AREA_COLORS.items():
        colors[area], tints[area] = rgb(color), TINT
    if not tints[np.unique(records.areas)].any():
        return
    (dx, dy), (x, y) = records.mask.downsample, sheet.places()
    rows, cols = records.areas.shape
    at = np.ix_((y // dy).astype(np.intp).clip(max=rows - 1),
                (x // dx).astype(np.intp).clip(max=cols - 1))  # fmt: skip
    areas = records.areas[at]
    sheet.blend(colors.take(areas, axis=0), tints.take(areas))


def _outline_tissue(sheet: Sheet, records: SlideRecords) -> None:
    rows, cols = sheet.panel.shape[:2]
    tissue = cv2.resize(records.mask.tissue.astype(np.uint8) * 255, (cols, rows))
    outlines, _ = cv2.findContours(
        (tissue > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    color = rgb(TISSUE_COLOR).tolist()
    cv2.drawContours(sheet.panel, outlines, -1, color, 2, cv2.LINE_AA)


def _corners(sheet: Sheet, records: SlideRecords) -> NDArray[np.int32]:
    """Return the corners of the kept tiles in parts of a pixel of the panel, shape (N, 4, 2)."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * records.extent
    limits = np.array(sheet.panel.shape[1::-1]) - 1
    # lines along the border of the slide are drawn inside it
    places = ((records.xy[:, None, :] + corners) * sheet.scale - 0.5).clip(0, limits)
    return np.asarray(np.rint(places * 2**SHIFT), dtype=np.int32)


def _outline_tiles(sheet: Sheet, records: SlideRecords) -> None:
    drawn = sheet.panel.copy()
    color = rgb(TILE_COLOR).tolist()
    cv2.polylines(drawn, list(_corners(sheet, records)), True, color, 1, cv2.LINE_AA, SHIFT)
    opacity = float(np.clip(records.extent * sheet.scale / FULL_LINES_PX, 0.2, 1))
    # tiles of a pixel or two would hide the slide
    cv2.addWeighted(drawn, opacity, sheet.panel, 1 - opacity, 0, dst=sheet.panel)


def _tint_labels(sheet: Sheet, records: SlideRecords) -> None:
    """Fill the tiles that have a class with its colour."""
    if not records.label_names:
        return
    drawn = sheet.panel.copy()
    corners = _corners(sheet, records)
    for index, color in enumerate(class_colors(len(records.label_names))):
        for tile in corners[records.label == index]:
            cv2.fillConvexPoly(drawn, tile, rgb(color).tolist(), cv2.LINE_8, SHIFT)
    cv2.addWeighted(drawn, LABEL_TINT, sheet.panel, 1 - LABEL_TINT, 0, dst=sheet.panel)


def _write_funnel(sheet: Sheet, funnel: dict[str, int]) -> None:
    """Write how many candidate tiles were kept and why the others were not, with bars."""
    total = sum(funnel.values())
    sheet.heading(f"Tiles ({total:,} candidate{'' if total == 1 else 's'})")
    for reason, count in funnel.items():
        share = count / max(1, total)
        kept = reason == "kept"
        sheet.write(0, reason.replace("_", " ").replace("roi", "ROI"), bold=kept)
        sheet.write_right(385, f"{count:,}")
        sheet.write_right(COLUMN_PX, f"{share:.1%}")
        sheet.y += 3
        sheet.bar(172, 112 * share, 16, TILE_COLOR if kept else "#9e9e9e")
        sheet.y += 25
    sheet.y += 22


def _write_labels(sheet: Sheet, records: SlideRecords) -> None:
    """Write how many tiles each class has, and how much area they cover."""
    if not records.label_names:
        return
    sheet.heading("Labels")
    tile_mm2 = (records.extent * records.slide.mpp / 1000) ** 2
    colors = class_colors(len(records.label_names))
    for index, (name, color) in enumerate(zip(records.label_names, colors, strict=True)):
        count = int((records.label == index).sum())
        sheet.swatch(0, 40, 20, rgb(color)[None])
        sheet.write(52, name)
        sheet.write_right(385, f"{count:,}")
        sheet.write_right(COLUMN_PX, f"{count * tile_mm2:.3g} mm²", SMALL)
        sheet.y += 28
    without = int((records.label < 0).sum())
    if without:
        sheet.write(52, "no class")
        sheet.write_right(385, f"{without:,}")
        sheet.y += 28
    patients = sorted(set(records.group))
    if patients:
        sheet.paragraph(textwrap.wrap(f"patient {', '.join(patients)}", 46))
    sheet.y += 18


def _write_stain(sheet: Sheet, records: SlideRecords) -> None:
    """Write how far the stain matrix may be trusted, and show its two colours."""
    stain = records.stain
    sheet.heading("Stain")
    sheet.write(0, str(stain.verdict), color=VERDICT_COLORS[stain.verdict], bold=True)
    sheet.y += 29
    angle = f"{stain.angle_deg:.1f}° between H and E, " if np.isfinite(stain.angle_deg) else ""
    sheet.write(0, f"{angle}{stain.pixel_count:,} pixels", SMALL)
    sheet.y += 34
    for x, name, color in zip((0, 225), stain.names, stain_colors(stain.matrix), strict=True):
        sheet.swatch(x, 53, 33, color[None])
        sheet.y += 5
        sheet.write(x + 63, name)
        sheet.y -= 5
    sheet.y += 54
    for reason in stain.reasons:
        sheet.paragraph(textwrap.wrap(reason, 46))
        sheet.y += 8
    sheet.y += 16


def _write_legend(sheet: Sheet, records: SlideRecords) -> None:
    present = set(np.unique(records.areas).tolist())
    for color, thickness, text in ((TISSUE_COLOR, 3, "tissue"), (TILE_COLOR, 2, "kept tiles")):
        sheet.box(0, 40, 16, color, thickness=thickness)
        sheet.y -= 3
        sheet.write(52, text, TEXT)
        sheet.y += 33
    for area, color in AREA_COLORS.items():
        if area in present:
            sheet.swatch(0, 40, 16, 255 - TINT * (255.0 - rgb(color))[None])
            sheet.y -= 3
            sheet.write(52, f"{area.name.lower()} (left out)", TEXT)
            sheet.y += 33
