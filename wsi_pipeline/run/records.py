"""The records of a folder: one file per slide and model, written when its work ends.

A folder of results is a small database of them. ``run.json``, ``index.html`` and ``summary.csv``
are views, made anew from all records; what is on record is not forgotten by a later run. Several
processes and machines may write at the same time, since no two write the same record.
"""

from __future__ import annotations

import json
import logging
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wsi_pipeline.errors import ReportError
from wsi_pipeline.files import checksum, locked, replace_atomically
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from wsi_pipeline.run.remote import RemoteFolder

logger = logging.getLogger(__name__)

DATABASE = ".wsi-pipeline"
"""Folder of the records in the folder of a run. Slide ids do not begin with a dot."""

PATCHES = "patches"
"""Name of the record of a slide alone; those of models end in :data:`OF_MODEL`."""

OF_MODEL = ".model"
SUFFIX = ".json"
LOCK = "lock"

_HEAD, _BETWEEN, _TAIL = b'{"crc32c": "', b'", "record": ', b"}\n"
_DIGITS = 8


class _Known(NamedTuple):
    stamp: tuple[int, int]
    outcome: SlideOutcome | None


class Records:
    """The records below the folder of a run.

    Parameters
    ----------
    out : Path
        Folder of the run; nothing is made in it before the first record.
    remote : RemoteFolder or None
        Bucket in which every record is kept too, once its slide is complete there.
    """

    def __init__(self, out: Path, remote: RemoteFolder | None = None) -> None:
        self.out = out
        self.remote = remote
        self.folder = out / DATABASE
        self._slides = self.folder / "slides"
        self._runs = self.folder / "runs"
        self._known: dict[str, _Known] = {}

    def read(self, slide_id: str, model: str = "") -> SlideOutcome | None:
        """Return the record of a slide and model; None if there is none, or it is damaged."""
        return self._read(self._file(slide_id, model))

    def write(self, outcome: SlideOutcome) -> None:
        """Keep a record; an older one of the same slide and model is replaced in one step.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        file = self._file(outcome.slide_id, outcome.model)
        _write(file, asdict(outcome))
        if self.remote is not None and outcome.status is not Status.UNFINISHED:
            self.remote.write(file.relative_to(self.out).as_posix(), file)

    def fetch(self) -> None:
        """Take the records of the bucket; what is only here is not complete there."""
        if self.remote is not None:
            for file in list(self._files()):
                file.unlink()
            self.remote.download(DATABASE, self.folder)

    def remove(self, slide_id: str, model: str = "") -> None:
        """Forget a slide and model."""
        self._file(slide_id, model).unlink(missing_ok=True)

    def all(self) -> list[SlideOutcome]:
        """Return all records that can be read, sorted by slide and model.

        Only files that are new or changed since the last call are read.
        """
        found = {os.fspath(file): self._look(file) for file in self._files()}
        self._known = found
        outcomes = [known.outcome for known in found.values() if known.outcome is not None]
        return sorted(outcomes, key=lambda outcome: (outcome.slide_id, outcome.model))

    def shown(self) -> list[SlideOutcome]:
        """Return the records that people see, sorted.

        Those of patches stand for a slide only where no model has been at work, or they failed.
        """
        records = self.all()
        predicted = {record.slide_id for record in records if record.model}
        return [
            record
            for record in records
            if record.model or record.slide_id not in predicted or record.status is Status.FAILED
        ]

    def damaged(self) -> list[Path]:
        """Return the files of records that cannot be read."""
        return [file for file in self._files() if self._look(file).outcome is None]

    def claim(self, slide_id: str) -> AbstractContextManager[None]:
        """Keep other runs from a slide while its work is under way; see :func:`locked`."""
        return locked(self._slides / slide_id, name=LOCK)

    def write_run(self, report: RunReport) -> None:
        """Keep what is known of a run, without its outcomes."""
        file = self._runs / f"{report.run}{SUFFIX}"
        _write(file, asdict(replace(report, outcomes=())))
        if self.remote is not None:
            self.remote.write(file.relative_to(self.out).as_posix(), file)

    def runs(self) -> list[RunReport]:
        """Return the runs that were at work in the folder, the oldest first, without outcomes."""
        found = []
        for file in sorted(self._runs.glob(f"*{SUFFIX}")):
            try:
                found.append(RunReport.from_dict(json.loads(_read(file))))
            except (OSError, ValueError) as error:
                logger.warning("%s is damaged: %s", file, error)
        return sorted(found, key=lambda report: report.started)

    def adopt(self, report_file: Path) -> None:
        """Make records of ``run.json`` in a folder of an earlier version, which had no others."""
        if self.folder.exists() or not report_file.is_file():
            return
        try:
            report = RunReport.read(report_file)
        except ReportError as error:
            logger.warning("%s", error)
            return
        name = str(report.model.get("name", ""))
        for outcome in report.outcomes:
            self.write(replace(outcome, model=name if outcome.class_shares else ""))
        self.write_run(replace(report, run=report.run or "earlier"))

    def log_file(self, run: str) -> Path:
        """Return where a run keeps its log."""
        return self.folder / "logs" / f"{run}.log"

    def _file(self, slide_id: str, model: str) -> Path:
        name = f"{model}{OF_MODEL}" if model else PATCHES
        return self._slides / slide_id / f"{name}{SUFFIX}"

    def _files(self) -> Iterator[Path]:
        if not self._slides.is_dir():
            return
        for slide in self._slides.iterdir():
            if slide.is_dir():
                for entry in slide.iterdir():
                    if entry.suffix == SUFFIX and not entry.name.startswith("."):
                        yield entry

    def _look(self, file: Path) -> _Known:
        try:
            stat = file.stat()
        except OSError:
            return _Known((0, 0), None)
        stamp = (stat.st_mtime_ns, stat.st_ino)
        known = self._known.get(os.fspath(file))
        if known is not None and known.stamp == stamp:
            return known
        return _Known(stamp, self._read(file))

    def _read(self, file: Path) -> SlideOutcome | None:
        try:
            return self._parse(file)
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            logger.warning("%s is a folder in the place of a record; remove it", file)
            return None
        except (OSError, ValueError) as error:
            logger.warning("record %s is damaged (%s): its slide counts as not done", file, error)
            return None

    def _parse(self, file: Path) -> SlideOutcome:
        outcome = SlideOutcome.from_json(_read(file))
        if _folded(file) != _folded(self._file(outcome.slide_id, outcome.model)):
            raise ValueError(f"it is that of {outcome.slide_id}")
        return outcome


def slide_prefix(slide_id: str) -> str:
    """Return the folder of the records of a slide, relative to that of the run."""
    return f"{DATABASE}/slides/{slide_id}"


def _folded(file: Path) -> str:
    """Return a name as file systems compare that keep neither case nor the form of letters."""
    return unicodedata.normalize("NFC", str(file)).casefold()


def _write(file: Path, values: dict[str, object]) -> None:
    body = json.dumps(values).encode()
    digits = f"{checksum(body):0{_DIGITS}x}".encode()
    with replace_atomically(file) as partial:
        partial.write_bytes(_HEAD + digits + _BETWEEN + body + _TAIL)


def _read(file: Path) -> bytes:
    """Read the JSON of a record against its checksum.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    content = file.read_bytes()
    start = len(_HEAD) + _DIGITS + len(_BETWEEN)
    body = content[start : -len(_TAIL)]
    digits = f"{checksum(body):0{_DIGITS}x}".encode()
    if content != _HEAD + digits + _BETWEEN + body + _TAIL:
        raise ValueError("its bytes do not agree with their checksum")
    return body
