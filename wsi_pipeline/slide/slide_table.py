"""A table of slides (CSV) -> a job for every row, or an error that names row and column."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from wsi_files import UnreadableError
from wsi_files.tables import read_table
from wsi_pipeline.config import MAX_MPP, MIN_MPP
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.job import SlideJob

if TYPE_CHECKING:
    from wsi_files.tables import Row

COLUMNS = ("path", "mpp", "slide_id", "roi", "labels", "tissue_mask", "group")
"""Of a slide table; ``path`` must be there."""

OTHER_NAMES = {
    "slide_mpp": "mpp",
    "patient": "group",
    "case_id": "group",
    "wsi": "path",
    "slide_path": "path",
    "filename": "path",
}
"""What these columns are called after an option, in tables of labels and by other programs."""


def read_slide_table(path: Path) -> list[SlideJob]:
    """Read the jobs of a slide table.

    Parameters
    ----------
    path : Path
        CSV file with the columns :data:`COLUMNS`; its own folder is where relative paths begin.

    Returns
    -------
    list of SlideJob
        One per row, in the order of the table; without ``slide_id`` where the row gives none.

    Raises
    ------
    ConfigError
        If a column, a value or a name is not valid, or the table has no row.
    """
    try:
        table = read_table(path, OTHER_NAMES)
        table.require(["path"], f"columns are {', '.join(COLUMNS)}")
        table.require_no_others(COLUMNS)
        jobs = [(row, _read_row(path.parent, row)) for row in table.rows]
        for row, job in jobs:
            _require_name(row, job)
    except UnreadableError as error:
        raise ConfigError(f"slide table {error}") from error
    if not jobs:
        raise ConfigError(f"slide table {path} names no slide; add a line for each")
    _require_own_names(jobs)
    return [job for _, job in jobs]


def _read_row(folder: Path, row: Row) -> SlideJob:
    name = row.required("path", "name the slide file, or remove the line")
    mpp = row.number("mpp")
    if mpp is not None and not MIN_MPP <= mpp <= MAX_MPP:
        raise row.wrong(
            "mpp",
            f"{mpp:g} um/px must be above 0 and a resolution of slides, {MIN_MPP:g} to {MAX_MPP:g}",
        )
    return SlideJob(
        path=_place(folder, row, "path", name),
        slide_id=row.text("slide_id") or "",
        mpp=mpp,
        roi=_place_or_none(folder, row, "roi"),
        labels=_place_or_none(folder, row, "labels"),
        tissue_mask=_place_or_none(folder, row, "tissue_mask"),
        group=row.text("group"),
    )


def _place(folder: Path, row: Row, column: str, name: str) -> Path:
    r"""Find what a cell names; ``\`` of Windows parts folders where no file has it in its name."""
    path, named = folder / name, PureWindowsPath(name)
    if "\\" not in name or os.path.lexists(path):
        return path
    if named.drive or named.root:
        raise row.wrong(column, f"{name!r} is a place on a Windows machine; say where it is here")
    return folder / named.as_posix()


def _place_or_none(folder: Path, row: Row, column: str) -> Path | None:
    name = row.text(column)
    return None if name is None else _place(folder, row, column, name)


def _require_name(row: Row, job: SlideJob) -> None:
    """Refuse what no file system takes for a name."""
    for column, path in (("path", job.path), ("roi", job.roi), ("labels", job.labels)):
        try:
            if path is not None:
                path.lstat()
        except OSError as error:
            # a file that is missing fails when its turn comes, with the others done
            if error.errno == errno.ENAMETOOLONG:
                raise row.wrong(column, f"{str(path)[:80]}... is too long for a name") from error


def _require_own_names(jobs: Sequence[tuple[Row, SlideJob]]) -> None:
    """Refuse two lines of one name: of the results only the last would be left."""
    lines: dict[str, Row] = {}
    for row, job in jobs:
        name = job.slide_id or str(job.path)
        if name in lines:
            column = "slide_id" if job.slide_id else "path"
            raise ConfigError(
                f"slide table {row.where}, column {column}: {name!r} and the same in "
                f"{lines[name].where} occur twice; give each its own slide_id"
            )
        lines[name] = row
