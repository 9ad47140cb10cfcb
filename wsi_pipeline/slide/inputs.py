"""What people name (files, folders, globs, tables) -> the list of slides to process.

No slide is opened here; whether a file is a readable slide is found out when its turn comes.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.slide.ids import readable, slide_stem
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.readers.dicom import dicom_files, one_per_series, series_uid
from wsi_pipeline.slide.readers.registry import foreign_suffixes
from wsi_pipeline.slide.slide_table import read_slide_table

SLIDE_SUFFIXES = frozenset(
    {
        ".bif", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".tif", ".tiff", ".vms", ".vmu",
        ".avs", ".czi", ".dcm",
    }
)  # fmt: skip
"""Files that a folder contributes. Plain images (PNG, JPEG) must be named: folders of slides
often hold thumbnails and labels beside them."""

TABLE_SUFFIXES = frozenset({".csv", ".tsv"})

_DICOM = ".dcm"
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

MASK_SUFFIXES = (".geojson", ".json", ".xml", ".png", ".tif", ".tiff")
"""How files that say where the tissue is may end."""

ANNOTATION_SUFFIXES = (".geojson", ".json", ".xml")
"""How annotation files of a folder may end; the first that exists is read."""


def find_slides(
    inputs: Sequence[str],
    roi: Path | None = None,
    labels: Path | None = None,
    tissue_mask: Path | None = None,
) -> list[SlideJob]:
    """Turn the names given by a person into slides.

    Parameters
    ----------
    inputs : sequence of str
        Slide files, folders (the slides and DICOM folders in it, however deep), glob patterns, or
        CSV slide tables with a column ``path`` and optional ``mpp``, ``slide_id``, ``roi``,
        ``labels``, ``tissue_mask`` and ``group``; relative paths in a table count from the table's
        folder.
    roi : Path or None
        Annotation file for every slide, or a folder with one ``<slide_id>.geojson`` (or ``.json``
        or ``.xml``) per slide; slides without one are processed whole.
    labels : Path or None
        As ``roi``; a slide without a file is unlabelled.
    tissue_mask : Path or None
        As ``roi``, or pictures, ``<slide_id>.png`` or ``.tif``; the tissue of slides without a file
        is detected.

    Returns
    -------
    list of SlideJob
        Sorted within each input. Every row of a table is a job; of a file that is named in other
        ways besides, or several times, there is one.

    Raises
    ------
    ConfigError
        If an input names nothing, a table is malformed, or labels are asked for and no slide has
        any.
    """
    found = [
        replace(
            job,
            roi=job.roi or _file_for(job.slide_id, roi),
            labels=job.labels or _file_for(job.slide_id, labels),
            tissue_mask=job.tissue_mask or _file_for(job.slide_id, tissue_mask, MASK_SUFFIXES),
        )
        for job in _with_unique_ids(_every_job(inputs))
    ]
    _require_labels(found, labels)
    return found


def _every_job(inputs: Sequence[str]) -> list[SlideJob]:
    """Gather what all inputs name; what a table says of a file beats its bare name."""
    names = [str(path) for path in _join_instances([Path(name) for name in inputs])]
    expanded = [(Path(name).suffix.lower() in TABLE_SUFFIXES, _expand(name)) for name in names]
    said = {job.path.resolve() for is_table, jobs in expanded if is_table for job in jobs}
    gathered = []
    for is_table, jobs in expanded:
        for job in jobs:
            place = job.path.resolve()
            if is_table or place not in said:
                gathered.append(job)
                said.add(place)
    return gathered


def _expand(name: str) -> list[SlideJob]:
    path = Path(name)
    if path.suffix.lower() in TABLE_SUFFIXES:
        return read_slide_table(path)
    try:
        slides = _named(path, name)
    except OSError as error:
        raise ConfigError(f"{name} cannot be looked into: {error}") from error
    if not slides:
        raise ConfigError(f"{name} names no slide; {_what_was_meant(path)}")
    return [SlideJob(path=slide, slide_id="") for slide in slides]


def _what_was_meant(path: Path) -> str:
    """Say which command does what somebody who names this may have in mind."""
    if path.is_dir() and (path.name == "patches.zarr" or any(path.glob("**/patches.zarr"))):
        return f"it holds patch stores, which 'wsi-pipeline predict {path}' sends through a model"
    images = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in path.rglob("*"))
    if images:
        kinds = f"{images} PNG or JPEG image{'' if images == 1 else 's'}"
        return (
            f"it holds {kinds}: if these are slides, name them in quotes, '{path}/*.png', and pass "
            f"--slide-mpp; if they are labelled patches, use 'wsi-pipeline ingest {path}'"
        )
    return (
        "give a slide file, a folder that holds slides "
        f"({', '.join(sorted(SLIDE_SUFFIXES))}), a glob in quotes or a CSV table"
    )


def _named(path: Path, name: str) -> list[Path]:
    if path.is_dir():
        return sorted(_slides_below(path))
    if os.path.lexists(path):
        # a link to nothing is a slide that fails with its reason, not one that was never there
        return [path]
    matches = (Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207 -- absolute patterns
    return _join_instances(sorted(match for match in matches if not _is_hidden(match.name)))


def _slides_below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield the slides in a folder and in those below it, but for results and hidden ones.

    ``above`` holds the folders on the way, so that a link to one of them is not followed.
    """
    above = above | {folder.resolve()}
    suffixes = SLIDE_SUFFIXES - {_DICOM} | foreign_suffixes()
    yield from _series_of(folder)
    for entry in folder.iterdir():
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            if entry.resolve() not in above and not _holds_results(entry):
                yield from _slides_below(entry, above)
        elif entry.suffix.lower() in suffixes:
            yield entry


def _is_hidden(name: str) -> bool:
    """Whether a program put a file there, not a person: ``._a.svs`` of macOS is no slide."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def _holds_results(folder: Path) -> bool:
    """Whether a folder holds what was made of slides, not slides."""
    return folder.suffix == ".zarr" or (folder / "run.json").exists()


def _series_of(folder: Path) -> list[Path]:
    """Name the DICOM slides in a folder: by the folder itself where there is no other slide."""
    series = one_per_series(dicom_files(folder))
    if len(series) == 1 and not any(
        entry.suffix.lower() in SLIDE_SUFFIXES - {_DICOM} for entry in folder.iterdir()
    ):
        return [folder]
    return series


def _join_instances(files: Sequence[Path]) -> list[Path]:
    """Put one name in place of the several files of a DICOM series; others stay as they are."""
    together: dict[tuple[Path, str], list[Path]] = {}
    instances = {file for file in files if file.suffix.lower() == _DICOM and file.is_file()}
    others = _other_objects(instances)
    for file in files:
        if file in others:
            continue
        key = (file.parent, series_uid(file)) if file in instances else (file, "")
        together.setdefault(key, []).append(file)
    joined = []
    for (folder, _), members in together.items():
        named = _series_of(folder) if len(members) > 1 else members
        joined.append(folder if named == [folder] else members[0])
    return joined


def _other_objects(instances: Collection[Path]) -> set[Path]:
    """Find annotations and reports that a pattern took along with the instances of a slide."""
    others: set[Path] = set()
    for folder in {file.parent for file in instances} if len(instances) > 1 else ():
        named = {file for file in instances if file.parent == folder}
        slides = named & set(dicom_files(folder))
        others |= named - slides if slides else set()
    return others


def _with_unique_ids(jobs: Sequence[SlideJob]) -> list[SlideJob]:
    """Name each slide by its stem; where stems repeat, by its file, or its folder and file."""
    named = list(jobs)
    for name_of in (_by_stem, _by_file, _by_folder):
        names = [job.slide_id or name_of(job.path) for job in named]
        counts = Counter(names)
        named = [
            job if counts[name] > 1 else replace(job, slide_id=name)
            for job, name in zip(named, names, strict=True)
        ]
    return _require_ids(named)


def _require_ids(jobs: list[SlideJob]) -> list[SlideJob]:
    nameless = [job for job in jobs if not job.slide_id]
    counts = Counter(job.slide_id for job in jobs if job.slide_id)
    repeated = [slide_id for slide_id, count in counts.items() if count > 1]
    if nameless or repeated:
        name = repeated[0] if repeated else _by_stem(nameless[0].path)
        raise ConfigError(
            f"{len(nameless) + sum(counts[slide_id] for slide_id in repeated)} slides share a "
            f"name, such as {name!r}: slide ids must not occur twice; give each slide its own "
            f"slide_id in a CSV table"
        )
    return jobs


def _by_stem(path: Path) -> str:
    return readable(slide_stem(path))


def _by_file(path: Path) -> str:
    return readable(path.name)


def _by_folder(path: Path) -> str:
    return readable(f"{path.absolute().parent.name}_{slide_stem(path)}")


def _file_for(
    slide_id: str, given: Path | None, suffixes: Sequence[str] = ANNOTATION_SUFFIXES
) -> Path | None:
    """Return the annotation file of a slide: the one for all, or its own in a folder."""
    if given is None or not given.is_dir():
        return given
    candidates = (given / f"{slide_id}{suffix}" for suffix in suffixes)
    return next((file for file in candidates if file.exists()), None)


def _require_labels(jobs: Sequence[SlideJob], labels: Path | None) -> None:
    """Refuse labels of which none is of a slide: a folder or ending was mistaken."""
    if labels is not None and jobs and all(job.labels is None for job in jobs):
        raise ConfigError(
            f"no slide has an annotation file in {labels}, which would be "
            f"{jobs[0].slide_id}{ANNOTATION_SUFFIXES[0]}, for instance; name files after their "
            f"slides, or give them in the column 'labels' of a slide table"
        )
