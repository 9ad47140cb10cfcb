"""Figures of a classifier -> a report of them: JSON, Markdown and a picture.

Computes nothing; the figures are those of :mod:`wsi_models.metrics`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_files.whole import replace_atomically
from wsi_models.curves import draw_evaluation

if TYPE_CHECKING:
    from wsi_models.metrics import Evaluation


def write_evaluation(
    evaluation: Evaluation, folder: Path, *, title: str, unit: str = "patches"
) -> dict[str, Path]:
    """Write ``evaluation.json``, ``.md`` and ``.png``.

    Parameters
    ----------
    evaluation : Evaluation
        The figures.
    folder : Path
        Where to write; made when missing.
    title : str
        What was evaluated on what.
    unit : str
        What was counted.

    Returns
    -------
    dict of str to Path
        The files, by kind.
    """
    files = {kind: folder / f"evaluation.{kind}" for kind in ("json", "md", "png")}
    with replace_atomically(files["json"]) as partial:
        partial.write_text(json.dumps(evaluation.to_dict(), indent=1) + "\n", encoding="utf-8")
    with replace_atomically(files["md"]) as partial:
        partial.write_text(describe(evaluation, title, unit), encoding="utf-8")
    draw_evaluation(files["png"], evaluation, title, unit)
    return files


def describe(evaluation: Evaluation, title: str, unit: str = "patches") -> str:
    """Write an evaluation of so many patches, or slides, as Markdown."""
    lines = [f"# {title}", "", f"{evaluation.count} {unit}, {len(evaluation.groups)} groups.", ""]
    lines += ["| figure | value |", "|---|---|"]
    lines += [
        f"| {name.replace('_', ' ')} | {value:.4f} |"
        for name, value in evaluation.headline().items()
    ]
    if evaluation.absent:
        lines += ["", f"Without {unit}, left out of averages: {', '.join(evaluation.absent)}."]
    lines += ["", f"| truth | {unit} | recall | " + " | ".join(evaluation.classes) + " |"]
    lines += ["|---|---|---|" + "---|" * len(evaluation.classes)]
    for name, row, recall in zip(
        evaluation.classes, evaluation.confusion, evaluation.recall, strict=True
    ):
        shown = "-" if recall is None else f"{recall:.4f}"
        lines.append(f"| {name} | {sum(row)} | {shown} | " + " | ".join(map(str, row)) + " |")
    lines += ["", "Rows are the truth, columns predictions.", ""]
    lines += [f"| group | {unit} | accuracy | balanced accuracy |", "|---|---|---|---|"]
    lines += [
        f"| {item.group} | {item.count} | {item.accuracy:.4f} | {item.balanced_accuracy:.4f} |"
        for item in evaluation.groups
    ]
    return "\n".join(lines) + "\n"
