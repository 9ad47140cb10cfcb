"""What people name (files, folders, globs, tables) -> the list of slides to process.

No slide is opened here; whether a file is a readable slide is found out when its turn comes.
"""

from __future__ import annotations

import csv
import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_pipeline.errors import ConfigError

SLIDE_SUFFIXES = frozenset(
    {
        ".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu",
        ".dcm",
    }
)  # fmt: skip
"""Files that a folder contributes. Plain images (PNG, JPEG) must be named: folders of slides
often hold thumbnails and labels beside them."""

ANNOTATION_SUFFIXES = (".geojson", ".json", ".xml")
"""How annotation files of a folder may end; the first that exists is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One of several equal parts of a list of slides.

    Attributes
    ----------
    index : int
        Which part, from 0.
    count : int
        How many parts there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"shard index {self.index} of {self.count} shards does not exist; they count "
                f"from 0 to {self.count - 1} (sbatch --array=0-{self.count - 1})"
            )

    def of(self, jobs: Sequence[SlideJob]) -> list[SlideJob]:
        """Return every ``count``-th slide: each is in one part, and parts differ by one slide."""
        return list(jobs[self.index :: self.count])


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideJob:
    """One slide to process.

    Attributes
    ----------
    path : Path
        The file, or the folder of a DICOM series.
    slide_id : str
        Names the folder of its results; unique among the jobs of a run.
    mpp : float or None
        Resolution from the slide table, um/px.
    roi : Path or None
        Annotation file whose polygons bound the tiles.
    labels : Path or None
        Annotation file whose areas give the tiles their classes.
    group : str or None
        Patient, from the slide table.
    """

    path: Path
    slide_id: str
    mpp: float | None = None
    roi: Path | None = None
    labels: Path | None = None
    group: str | None = None


def find_slides(
    inputs: Sequence[str], roi: Path | None = None, labels: Path | None = None
) -> list[SlideJob]:
    """Turn the names given by a person into slides.

    Parameters
    ----------
    inputs : sequence of str
        Slide files, folders (the slides in it and the DICOM folders below it), glob patterns, or
        CSV slide tables with a column ``path`` and optional ``mpp``, ``slide_id``, ``roi``,
        ``labels`` and ``group``; relative paths in a table count from the table's folder.
    roi : Path or None
        Annotation file for every slide, or a folder with one ``<slide_id>.geojson`` (or ``.json``
        or ``.xml``) per slide; slides without one are processed whole.
    labels : Path or None
        As ``roi``; but every slide must have a file.

    Returns
    -------
    list of SlideJob
        Sorted within each input, without repetition.

    Raises
    ------
    ConfigError
        If an input names nothing, a table is malformed, or a slide has no labels where others do.
    """
    jobs: dict[Path, SlideJob] = {}
    for name in inputs:
        for job in _expand(name):
            jobs.setdefault(job.path.resolve(), job)
    named = _with_unique_ids(jobs.values())
    found = [
        replace(
            job,
            roi=job.roi or _file_for(job.slide_id, roi),
            labels=job.labels or _file_for(job.slide_id, labels),
        )
        for job in named
    ]
    _require_labels(found, labels)
    return found


def _expand(name: str) -> list[SlideJob]:
    path = Path(name)
    if path.suffix.lower() == ".csv":
        return _read_table(path)
    if path.is_dir():
        slides = _slides_in(path)
    elif path.exists():
        slides = [path]
    else:
        slides = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207 -- absolute patterns
    if not slides:
        raise ConfigError(
            f"{name} names no slide; give a slide file, a folder that holds slides "
            f"({', '.join(sorted(SLIDE_SUFFIXES))}), a glob in quotes or a CSV table"
        )
    return [SlideJob(path=slide, slide_id="") for slide in slides]


def _slides_in(folder: Path) -> list[Path]:
    if _holds_dicom(folder):
        return [folder]
    slides = [
        entry
        for entry in folder.iterdir()
        if (entry.is_file() and entry.suffix.lower() in SLIDE_SUFFIXES)
        or (entry.is_dir() and _holds_dicom(entry))
    ]
    return sorted(slides)


def _holds_dicom(folder: Path) -> bool:
    """Whether the folder is itself a DICOM series: nothing in it but instances."""
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    return bool(files) and all(entry.suffix.lower() == ".dcm" for entry in files)


def _read_table(path: Path) -> list[SlideJob]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"slide table {path} cannot be read: {error}") from error
    return [_read_row(path, number, row) for number, row in enumerate(rows, start=2)]


def _read_row(table: Path, number: int, row: dict[str, str]) -> SlideJob:
    name = (row.get("path") or "").strip()
    if not name:
        raise ConfigError(
            f"slide table {table} line {number} has no path; the first line must name the "
            f"columns path and, as needed, mpp, slide_id, roi, labels, group"
        )
    text = (row.get("mpp") or "").strip()
    try:
        mpp = float(text) if text else None
    except ValueError as error:
        raise ConfigError(
            f"slide table {table} line {number}: mpp {text!r} is not a number; give um/px"
        ) from error
    if mpp is not None and not mpp > 0:
        raise ConfigError(f"slide table {table} line {number}: mpp must be above 0, got {mpp}")
    roi, labels, group = ((row.get(key) or "").strip() for key in ("roi", "labels", "group"))
    return SlideJob(
        path=table.parent / name,
        slide_id=(row.get("slide_id") or "").strip(),
        mpp=mpp,
        roi=table.parent / roi if roi else None,
        labels=table.parent / labels if labels else None,
        group=group or None,
    )


def _with_unique_ids(jobs: Iterable[SlideJob]) -> list[SlideJob]:
    """Name each slide by its stem, or by its whole file name where stems repeat."""
    listed = list(jobs)
    stems = Counter(job.slide_id or slide_stem(job.path) for job in listed)
    named = []
    for job in listed:
        stem = slide_stem(job.path)
        unique = job.slide_id or (stem if stems[stem] == 1 else job.path.name)
        named.append(replace(job, slide_id=unique))
    repeated = [slide_id for slide_id, n in Counter(job.slide_id for job in named).items() if n > 1]
    if repeated:
        raise ConfigError(
            f"{len(repeated)} slide ids occur twice, such as {repeated[0]!r}; give each slide its "
            f"own slide_id in a CSV table"
        )
    return named


def slide_stem(path: Path) -> str:
    """Return the file name without its slide suffixes: ``a.ome.tif`` gives ``a``."""
    if path.is_dir():
        return path.name
    stem = path.stem
    return stem[: -len(".ome")] if stem.lower().endswith(".ome") else stem


def _file_for(slide_id: str, given: Path | None) -> Path | None:
    """Return the annotation file of a slide: the one for all, or its own in a folder."""
    if given is None or not given.is_dir():
        return given
    candidates = (given / f"{slide_id}{suffix}" for suffix in ANNOTATION_SUFFIXES)
    return next((file for file in candidates if file.exists()), None)


def _require_labels(jobs: Sequence[SlideJob], labels: Path | None) -> None:
    """Refuse slides without labels: their tiles would silently count as unlabelled."""
    without = [job.slide_id for job in jobs if job.labels is None]
    if labels is not None and without:
        raise ConfigError(
            f"{len(without)} slides have no annotation file in {labels}, such as {without[0]!r}; "
            f"add <slide_id>{ANNOTATION_SUFFIXES[0]}, or name the files in the column 'labels' of "
            f"a slide table"
        )
