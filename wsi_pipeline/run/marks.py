"""What a stage was made from and what it left -> whether it is still there, in a few stats.

A file whose size and time of change are those on record is trusted; one that was touched is read
again. Damage that leaves no trace in them is found by ``wsi-pipeline verify`` and by whoever reads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from wsi_pipeline.files import checksum, file_checksum


class Stage(StrEnum):
    """What a slide's results are made in; each is recognised and redone on its own."""

    STORE = "store"
    QC = "qc"
    PREDICTIONS = "predictions"
    EXPORTS = "exports"
    FEATURES = "features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """How a file, or the files of a folder, were when a stage ended.

    Attributes
    ----------
    size : int
        Bytes; of a folder the sum.
    stamp : int
        Time of change, ns; of a folder the checksum of the names, sizes and times of its files.
    crc32c : int or None
        Checksum of a file; None for a folder, whose files carry their own.
    """

    size: int
    stamp: int
    crc32c: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A stage that ended.

    Attributes
    ----------
    made_from : dict
        Plain values of everything that decides its results.
    left : dict of str to Seal
        Files and folders it left, relative to the run's folder.
    """

    made_from: dict[str, Any]
    left: dict[str, Seal] = field(default_factory=dict)


def make_mark(out: Path, made_from: dict[str, Any], files: Mapping[str, str]) -> Mark:
    """Mark a stage as ended.

    Parameters
    ----------
    out : Path
        Folder of the run.
    made_from : dict
        What decides its results.
    files : mapping of str to str
        What it left, by kind, relative to ``out``.

    Returns
    -------
    Mark
        With the seals of the files as they are now.
    """
    return Mark(made_from=made_from, left={name: seal(out / name) for name in files.values()})


def seal(path: Path) -> Seal:
    """Take down how a file or folder is now; a file is read once for its checksum."""
    found = stamp(path)
    if path.is_dir():
        return found
    return replace(found, crc32c=file_checksum(path))


def stamp(path: Path) -> Seal:
    """Take down size and time of change of a file or of the files in a folder; reads none.

    Raises
    ------
    OSError
        If it is not there.
    """
    if not path.is_dir():
        stat = path.stat()
        return Seal(size=stat.st_size, stamp=stat.st_mtime_ns)
    size, lines = 0, []
    for place, _, names in os.walk(path):
        for name in names:
            file = os.path.join(place, name)  # noqa: PTH118 -- hundreds of files of every slide
            stat = os.stat(file)  # noqa: PTH116 -- as above
            size += stat.st_size
            lines.append(f"{os.path.relpath(file, path)}\t{stat.st_size}\t{stat.st_mtime_ns}")
    text = "\n".join(sorted(lines))
    return Seal(size=size, stamp=checksum(text.encode("utf-8", "surrogateescape")))


def is_untouched(mark: Mark, out: Path) -> bool:
    """Tell whether all that a stage left is there as it was; nothing is read.

    Parameters
    ----------
    mark : Mark
        The stage.
    out : Path
        Folder of the run.

    Returns
    -------
    bool
        False also if something is missing.
    """
    try:
        return all(
            (now := stamp(out / name)).size == then.size and now.stamp == then.stamp
            for name, then in mark.left.items()
        )
    except OSError:
        return False


def find_damage(mark: Mark, out: Path) -> dict[str, str]:
    """Read the files that a stage left against their checksums; folders are for others to read.

    Parameters
    ----------
    mark : Mark
        The stage.
    out : Path
        Folder of the run.

    Returns
    -------
    dict of str to str
        What is wrong, by file, relative to ``out``; empty if all is well.
    """
    problems = {name: _damage(out / name, then) for name, then in mark.left.items()}
    return {name: problem for name, problem in problems.items() if problem is not None}


def _damage(path: Path, then: Seal) -> str | None:
    if not path.exists():
        return "missing"
    if then.crc32c is None or path.is_dir():
        return None
    try:
        return None if file_checksum(path) == then.crc32c else "its checksum is another"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
