"""The records of a folder -> ``summary.csv``: a row per slide and model, for spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_files.tables import text_cell
from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from wsi_pipeline.run.outcome import SlideOutcome

COLUMNS = (
    "slide", "model", "status", "reason", "tissue_mm2", "pieces", "stain", "mpp", "mpp_source",
    "tiles",
)  # fmt: skip


def write_summary(path: Path, outcomes: Sequence[SlideOutcome]) -> None:
    """Write the table.

    Parameters
    ----------
    path : Path
        File to write.
    outcomes : sequence of SlideOutcome
        One row each.

    Notes
    -----
    Besides :data:`COLUMNS` there are ``mm2_<class>`` and ``share_<class>`` for each class of any
    model, and ``seconds_<stage>``. Cells without a value are empty. Areas of classes are those of
    the steps of the lattice, so that overlapping tiles count once. Text that a spreadsheet would
    take for a formula begins with an apostrophe.
    """
    classes = _names(outcome.class_shares for outcome in outcomes)
    stages = _names(outcome.seconds for outcome in outcomes)
    header = [
        *COLUMNS,
        *(f"{what}_{name}" for name in classes for what in ("mm2", "share")),
        *(f"seconds_{name.replace(' ', '_')}" for name in stages),
    ]
    with (
        replace_atomically(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow([text_cell(name) for name in header])
        table.writerows(_row(outcome, classes, stages) for outcome in outcomes)


def _row(outcome: SlideOutcome, classes: Sequence[str], stages: Sequence[str]) -> list[Any]:
    kept = outcome.funnel.get("kept", 0)
    row: list[Any] = [
        text_cell(outcome.slide_id),
        text_cell(outcome.model),
        outcome.status.value,
        text_cell(outcome.error or ""),
        _number(outcome.tissue_mm2) if outcome.slide else "",
        outcome.pieces or "",
        text_cell(str(outcome.stain.get("verdict", ""))),
        text_cell(str(outcome.slide.get("mpp", ""))),
        text_cell(str(outcome.slide.get("mpp_source", ""))),
        kept if outcome.funnel else "",
    ]
    for name in classes:
        share = outcome.class_shares.get(name)
        if share is None:
            row += ["", ""]
        else:
            row += [_number(share * outcome.classified_mm2), _number(share)]
    return row + [
        _number(outcome.seconds[name]) if name in outcome.seconds else "" for name in stages
    ]


def _names(tables: Iterable[dict[str, float]]) -> list[str]:
    """List the keys of all tables once, in the order of their first appearance."""
    return list(dict.fromkeys(name for table in tables for name in table))


def _number(value: float) -> str:
    return f"{value:.6g}"
