"""Slides -> slides whose names say nothing, and a table kept apart that tells them."""

from __future__ import annotations

import csv
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_files import UnreadableError
from wsi_files.tables import Row, read_table, text_cell
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from wsi_pipeline.slide.job import SlideJob

COLUMNS = ("kind", "pseudonym", "name")
SLIDE, PATIENT = "slide", "patient"


@dataclass(frozen=True, slots=True)
class Redaction:
    """Takes the names of a slide out of what is said of it.

    Attributes
    ----------
    names : tuple of str
        What is not to be said, the longest first.
    pseudonym : str
        What is said instead.
    """

    names: tuple[str, ...]
    pseudonym: str

    def __call__(self, text: str) -> str:
        """Return a text without the names."""
        for name in self.names:
            # as a word of its own: a slide may be called by one letter
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", lambda _: self.pseudonym, text)
        return text


def pseudonymise(jobs: Sequence[SlideJob], table: Path, out: Path) -> list[SlideJob]:
    """Give slides and patients pseudonyms; the same as before, where the table has them.

    Parameters
    ----------
    jobs : sequence of SlideJob
        The slides.
    table : Path
        CSV with the columns ``kind`` (slide or patient), ``pseudonym`` and ``name``; made, or added
        to. Only its owner may read it.
    out : Path
        Folder of the results, in which the table may not lie.

    Returns
    -------
    list of SlideJob
        With random ids and groups, whose results say nothing of path and name.

    Raises
    ------
    ConfigError
        If the table lies among the results, or is not such a table.
    """
    if table.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"{table} lies in {out}; names are kept apart from results: name another")
    known = _read(table) if table.exists() else {}
    slides = [(SLIDE, job.slide_id) for job in jobs]
    patients = [(PATIENT, job.group) for job in jobs if job.group is not None]
    for key in dict.fromkeys([*slides, *patients]):
        known.setdefault(key, f"{key[0]}-{secrets.token_hex(5)}")
    _write(table, known)
    return [
        replace(
            job,
            slide_id=known[SLIDE, job.slide_id],
            group=None if job.group is None else known[PATIENT, job.group],
            redaction=Redaction(_names(job), known[SLIDE, job.slide_id]),
        )
        for job in jobs
    ]


def _names(job: SlideJob) -> tuple[str, ...]:
    """List what tells a slide, the longest first, so that no part of a path is left."""
    paths = [path for path in (job.path, job.roi, job.labels) if path is not None]
    said: Iterable[str] = (
        text
        for path in paths
        for text in (os.fspath(path.absolute()), os.fspath(path), path.name, path.stem)
    )
    return tuple(sorted({*said, job.slide_id, job.group or ""} - {""}, key=len, reverse=True))


def _read(table: Path) -> dict[tuple[str, str], str]:
    try:
        rows = read_table(table)
        rows.require(COLUMNS, f"columns are {', '.join(COLUMNS)}")
        return {
            (row.required("kind", ""), _name(row)): row.required("pseudonym", "")
            for row in rows.rows
        }
    except UnreadableError as error:
        raise ConfigError(f"table of pseudonyms {error}") from error


def _cell(name: str) -> str:
    """Return a name so that no spreadsheet takes it for a formula, and :func:`_name` finds it."""
    return f"'{name}" if name.startswith("'") else text_cell(name)


def _name(row: Row) -> str:
    return row.required("name", "").removeprefix("'")


def _write(table: Path, known: dict[tuple[str, str], str]) -> None:
    with replace_atomically(table) as partial:
        partial.touch(mode=0o600)
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(
                (kind, pseudonym, _cell(name)) for (kind, name), pseudonym in known.items()
            )
