"""TCGA-KIRC slides and the published ccRCC annotations -> slide tables and a split by patient.

The first step of the recipe in README.md: it decides who trains, selects and tests, and reads no
pixel.
"""

from __future__ import annotations

import argparse
import csv
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from openpyxl import load_workbook

ROLES = {
    "unlabel": "unlabelled",
    "label": "labelled",
    "validation": "validation",
    "test": "test",
}
"""Words of the summary, and the roles of this recipe."""

PARTS = {
    "unlabelled": "train",
    "labelled": "train",
    "validation": "validation",
    "test": "test",
}
SUMMARY_NAME = "summary_of_polygon_annotations.xlsx"
DETAILS_NAME = "polygon_annotation_details"
SLIDE_SUFFIXES = (".svs", ".tif", ".tiff")


class RecipeError(Exception):
    """Something that the recipe needs is missing or not as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One slide of the published summary.

    Attributes
    ----------
    index : int
        Number in the summary, from 1.
    role : str
        One of the values of :data:`ROLES`.
    patient : str
        TCGA case.
    stem : str
        Name of the slide file without its suffix.
    annotation : str
        Name of its annotation file.
    """

    index: int
    role: str
    patient: str
    stem: str
    annotation: str

    @property
    def slide_id(self) -> str:
        """TCGA barcode of the slide, without the file's UUID."""
        return self.stem.split(".")[0]


def read_summary(path: Path) -> list[Row]:
    """Read the published table of slides.

    Parameters
    ----------
    path : Path
        ``summary_of_polygon_annotations.xlsx``.

    Returns
    -------
    list of Row
        In the order of the table.

    Raises
    ------
    RecipeError
        If a row is not as published.
    """
    workbook = load_workbook(path, read_only=True)
    lines = workbook.worksheets[0].iter_rows(values_only=True)
    columns = [str(cell) for cell in next(lines)]
    rows: list[Row] = []
    for line in lines:
        cells = dict(zip(columns, line, strict=True))
        try:
            number, word = str(cells["studyid"]).split()
            row = Row(
                index=int(number),
                role=ROLES[word],
                patient=str(cells["clinicaltrialsubjectid"]),
                stem=Path(str(cells["imagepath"])).stem,
                annotation=str(cells["path"]),
            )
        except (KeyError, ValueError) as error:
            raise RecipeError(
                f"{path}: row {len(rows) + 2} is not as published: {error!r}"
            ) from error
        rows.append(row)
    workbook.close()
    return rows


def separate_patients(rows: Sequence[Row], leaking: str) -> list[Row]:
    """Let no patient be in two parts.

    Parameters
    ----------
    rows : sequence of Row
        The published division, in which TCGA-3Z-A93Z trains (row 297) and tests (row 388).
    leaking : {"drop", "move"}
        Leave out the later slides of such a patient, or give them the role of the first.

    Returns
    -------
    list of Row
        The rows that remain.
    """
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.patient, row.role)
    kept = []
    for row in rows:
        if PARTS[row.role] == PARTS[first[row.patient]]:
            kept.append(row)
        elif leaking == "move":
            kept.append(replace(row, role=first[row.patient]))
    return kept


def find_slide_files(folder: Path) -> dict[str, Path]:
    """Find slide files below a folder, by name without suffix; GDC makes a folder for each."""
    return {file.stem: file for file in sorted(folder.rglob("*")) if file.suffix in SLIDE_SUFFIXES}


def unpack(annotations: Path, out: Path) -> Path:
    """Return the folder of the annotations, unpacked below ``out`` if they are an archive."""
    if annotations.is_dir():
        return annotations
    folder = out / "annotations"
    with tarfile.open(annotations) as archive:
        archive.extractall(folder, filter="data")
    return folder


def find_one(folder: Path, name: str) -> Path:
    """Find the one file or folder of a name below a folder."""
    found = list(folder.rglob(name))
    if len(found) != 1:
        raise RecipeError(f"{folder} holds {len(found)} of {name}; give the published annotations")
    return found[0]


def write_tables(rows: Iterable[Row], slides: dict[str, Path], details: Path, out: Path) -> None:
    """Write a slide table per role, for ``wsi-pipeline preprocess``."""
    by_role: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_role[row.role].append(row)
    for role in ROLES.values():
        with (out / f"{role}.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["path", "slide_id", "labels", "group"])
            for row in by_role[role]:
                # the areas of unlabelled slides are not used, though there are some
                labels = "" if role == "unlabelled" else (details / row.annotation).resolve()
                table.writerow([slides[row.stem].resolve(), row.slide_id, labels, row.patient])


def write_split(rows: Iterable[Row], path: Path) -> None:
    """Write the patients of each part, for the training.

    Raises
    ------
    RecipeError
        If a patient is in two parts.
    """
    groups: dict[str, set[str]] = {part: set() for part in PARTS.values()}
    for row in rows:
        groups[PARTS[row.role]].add(row.patient)
    everyone = [patient for patients in groups.values() for patient in patients]
    if len(set(everyone)) != len(everyone):
        raise RecipeError("a patient is in two parts; choose how to separate them with --leaking")
    named = {part: sorted(patients) for part, patients in groups.items()}
    path.write_text(json.dumps({"groups": named}, indent=1) + "\n", encoding="utf-8")


def prepare(
    slides: Path,
    annotations: Path,
    out: Path,
    *,
    leaking: str = "drop",
    allow_missing: bool = False,
) -> list[Row]:
    """Write the slide tables and the split.

    Parameters
    ----------
    slides : Path
        Folder with the slides, at any depth.
    annotations : Path
        Folder or tar archive of the published annotations.
    out : Path
        Folder for the tables.
    leaking : {"drop", "move"}
        What is done about a patient who trains and tests.
    allow_missing : bool
        Go on without the slides that are not there.

    Returns
    -------
    list of Row
        The slides that take part.

    Raises
    ------
    RecipeError
        If slides or annotations are missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder = unpack(annotations, out)
    rows = separate_patients(read_summary(find_one(folder, SUMMARY_NAME)), leaking)
    files = find_slide_files(slides)
    missing = [row.stem for row in rows if row.stem not in files]
    if missing and not allow_missing:
        raise RecipeError(
            f"{len(missing)} of {len(rows)} slides are not below {slides}, such as {missing[0]}; "
            f"get them from the GDC, or pass --allow-missing"
        )
    present = [row for row in rows if row.stem in files]
    write_tables(present, files, find_one(folder, DETAILS_NAME), out)
    write_split(present, out / "split.json")
    return present


def main() -> None:
    """Read the command line, prepare, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=Path, required=True, help="folder of the slides")
    parser.add_argument(
        "--annotations", type=Path, required=True, help="folder or tar of the annotations"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument(
        "--leaking",
        choices=("drop", "move"),
        default="drop",
        help="leave out the test slide of TCGA-3Z-A93Z, who also trains, or train with it",
    )
    parser.add_argument("--allow-missing", action="store_true", help="go on without some slides")
    arguments = parser.parse_args()
    try:
        rows = prepare(**vars(arguments))
    except (RecipeError, OSError) as error:
        parser.exit(1, f"{error}\n")
    for role in ROLES.values():
        print(f"{role}: {sum(row.role == role for row in rows)} slides")


if __name__ == "__main__":
    main()
