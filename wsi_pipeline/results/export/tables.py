"""Result of a slide -> CSV: probabilities of tiles in WSInfer's form, and areas in mm2."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_files.tables import text_cell
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.results.export.geojson import boxes_of
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.heatmap import one_per_place

if TYPE_CHECKING:
    from wsi_pipeline.results.class_map import ClassAreas
    from wsi_pipeline.results.slide_result import SlideResult


def write_tile_table(path: Path, result: SlideResult) -> None:
    """Write one row per tile, with the columns that WSInfer writes.

    Parameters
    ----------
    path : Path
        CSV to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide.

    Notes
    -----
    Columns: ``minx``, ``miny``, ``width``, ``height`` (level-0 px), then ``prob_<class>``. Where
    tiles overlap, a row is a cell of the lattice, with the mean of the tiles that cover it.
    """
    found = one_per_place(result.predictions)
    boxes = boxes_of(found)
    places = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    names = ["minx", "miny", "width", "height", *(f"prob_{name}" for name in found.class_names)]
    # the shortest text that reads back as the same number of 32 bits
    numbers = found.prob.astype(str).tolist()
    _write(path, names, ([*p, *q] for p, q in zip(places, numbers, strict=True)))


def write_area_table(path: Path, result: SlideResult) -> None:
    """Write the areas of tissue and classes: a row for the slide, then one per piece.

    Parameters
    ----------
    path : Path
        CSV to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide.

    Notes
    -----
    Columns: ``slide_id``, ``piece`` (empty for the whole slide), ``core`` (its name on a tissue
    microarray), ``tissue_mm2``, then for each
    class ``<class>_mm2`` and ``<class>_share`` (of the tissue that has a class), then
    ``undecided_mm2`` (the rule gives it to no class) and ``unpredicted_mm2`` (no tile covers it).
    """
    cores = ("", *result.cores)
    rows = [area_row(result.slide_id, areas, cores[areas.piece]) for areas in result.areas]
    _write(path, list(rows[0]), (list(row.values()) for row in rows))


def area_row(slide_id: str, areas: ClassAreas, core: str = "") -> dict[str, Any]:
    """Return one row of the table of areas, by column."""
    classified = sum(areas.class_mm2.values())
    row: dict[str, Any] = {
        "slide_id": slide_id,
        "piece": areas.piece or "",
        "core": core,
        "tissue_mm2": round(areas.tissue_mm2, 6),
    }
    for name, mm2 in areas.class_mm2.items():
        row[f"{name}_mm2"] = round(mm2, 6)
        row[f"{name}_share"] = round(mm2 / classified, 6) if classified else 0.0
    row["undecided_mm2"] = round(areas.undecided_mm2, 6)
    row["unpredicted_mm2"] = round(areas.unpredicted_mm2, 6)
    return row


def _write(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (
        replace_atomically(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(text_cell, names))
        writer.writerows(
            [text_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
        )


AREAS = Export(file="areas.csv", write=write_area_table)
TILES = Export(file="{slide_id}.csv", write=write_tile_table)
