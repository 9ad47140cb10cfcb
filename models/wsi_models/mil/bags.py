"""A table of slide labels and the features of each slide -> bags that can be trained on.

Knows no files of features: they come from a function, one slide at a time, so that memory does not
grow with the number of slides.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_files import UnreadableError
from wsi_files.tables import Row, read_table
from wsi_models.errors import TrainingError

logger = logging.getLogger(__name__)

Indices = NDArray[np.int64]
LoadFeatures = Callable[[str], NDArray[np.float32]]
"""Returns the features of a slide, shape (N, F), given its name."""


class Described(NamedTuple):
    """What is known of a slide's features before they are read.

    Attributes
    ----------
    patches : int
        Number N of instances.
    features : int
        Length F of each vector.
    encoder : str or None
        Fingerprint of the encoder that made them, where it is known.
    content : str
        Differs where the features do; empty where that is not known.
    """

    patches: int
    features: int
    encoder: str | None = None
    content: str = ""


PATIENT_COLUMNS = ("patient", "case_id")
_ADVICE = (
    "It needs slide_id, label and patient; where every slide is of another patient, copy slide_id "
    "to patient"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideLabel:
    """One row of a table of labels."""

    slide_id: str
    label: str
    patient: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bags:
    """Labelled slides and their features.

    Attributes
    ----------
    slide_ids : tuple of str
        Names of the n slides.
    label : ndarray of shape (n,), int64
        Index into ``classes``.
    patient : tuple of str
        Whose slide each is; slides of one patient never train and test.
    classes : tuple of str
        Classes; of two, the second is the positive one.
    feature_count : int
        Length F of the vector of an instance.
    load : callable
        Gives the features of a slide, shape (N, F), N > 0.
    encoder : str or None
        Fingerprint of the encoder that made the features, where it is known.
    left_out : tuple of str
        Slides of the table that have no features, or no patches.
    content : tuple of str
        What is known of the features of each slide, pooled or not, that differs where they do.
    """

    slide_ids: tuple[str, ...]
    label: Indices
    patient: tuple[str, ...]
    classes: tuple[str, ...]
    feature_count: int
    load: LoadFeatures
    encoder: str | None = None
    left_out: tuple[str, ...] = ()
    content: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.slide_ids)

    def features(self, index: int) -> Tensor:
        """Load the instances of a bag, shape (N, F), float32."""
        return torch.from_numpy(self.load(self.slide_ids[index]))


def read_slide_labels(path: Path) -> tuple[SlideLabel, ...]:
    """Read a table of slide labels.

    Parameters
    ----------
    path : Path
        CSV with the columns ``slide_id``, ``label`` and ``patient`` (or ``case_id``). Rows
        without a label, or with ``NA`` for one, are skipped.

    Returns
    -------
    tuple of SlideLabel
        In the order of the file.

    Raises
    ------
    TrainingError
        If the file cannot be read, a column is missing, a labelled row has no slide or patient,
        or a slide is named twice.
    """
    try:
        table = read_table(path)
        table.require(["slide_id", "label"], _ADVICE)
        patient = next((name for name in PATIENT_COLUMNS if table.has(name)), None)
        if patient is None:
            table.require(["patient"], _ADVICE)
        rows = [_label_of(row, str(patient)) for row in table.rows if row.text("label")]
    except UnreadableError as error:
        raise TrainingError(str(error)) from error
    _require_rows(path, rows)
    return tuple(rows)


def _label_of(row: Row, patient: str) -> SlideLabel:
    advice = "fill it, or empty the label"
    return SlideLabel(
        slide_id=row.required("slide_id", advice),
        label=row.required("label", advice),
        patient=row.required(patient, advice),
    )


def read_patients(path: Path, slides: Collection[str]) -> dict[str, str]:
    """Read whose slide each is.

    Parameters
    ----------
    path : Path
        CSV with the columns ``slide_id`` and ``patient`` (or ``case_id``).
    slides : collection of str
        The slides that must be in it; others are not used.

    Returns
    -------
    dict of str to str
        Patient by slide, in the order of the file.

    Raises
    ------
    TrainingError
        If the table is not as it should be, or lacks a slide.
    """
    try:
        table = read_table(path)
        table.require(["slide_id"])
        column = next((name for name in PATIENT_COLUMNS if table.has(name)), "patient")
        table.require([column])
        advice = "fill it, or leave the row out"
        rows = {r.required("slide_id", advice): r.required(column, advice) for r in table.rows}
    except UnreadableError as error:
        raise TrainingError(str(error)) from error
    missing = sorted(set(slides) - set(rows))
    if missing:
        raise TrainingError(
            f"{path} does not say whose slides these are: {', '.join(missing[:5])}; add a row each"
        )
    return {slide: patient for slide, patient in rows.items() if slide in slides}


def make_bags(
    rows: Sequence[SlideLabel],
    described: Mapping[str, Described],
    load: LoadFeatures,
    classes: Sequence[str] = (),
) -> Bags:
    """Bring labels and features together.

    Parameters
    ----------
    rows : sequence of SlideLabel
        The labels.
    described : mapping of str to Described
        The slides that have features; those without a label are not used.
    load : callable
        Gives the features of a slide by its name.
    classes : sequence of str
        Classes in the order of the outputs; all labels, sorted, if empty.

    Returns
    -------
    Bags
        In the order of ``rows``; slides without features or patches are left out, with a warning.

    Raises
    ------
    TrainingError
        If no slide is left, there are fewer than two classes, a label is not among ``classes``,
        or the features of slides differ in length.
    """
    filled = {name for name, facts in described.items() if facts.patches}
    used = [row for row in rows if row.slide_id in filled]
    left_out = tuple(row.slide_id for row in rows if row not in used)
    if left_out:
        logger.warning(
            "%d of %d labelled slides have no features and are left out: %s",
            len(left_out), len(rows), ", ".join(left_out[:5]),
        )  # fmt: skip
    if not used:
        raise TrainingError(
            f"none of the {len(rows)} labelled slides has features; slide_id must be the name of "
            f"a feature file without its ending, such as {next(iter(described), 'slide-1')!r}"
        )
    names = tuple(classes) or tuple(sorted({row.label for row in used}))
    codes = {name: code for code, name in enumerate(names)}
    unknown = sorted({row.label for row in used} - set(names))
    if unknown or len(names) < 2:
        raise TrainingError(
            f"labels {', '.join(unknown) or names[0]} cannot be told apart among the classes "
            f"{', '.join(names)}; give at least two classes, and labels that are among them"
        )
    return Bags(
        slide_ids=tuple(row.slide_id for row in used),
        label=np.array([codes[row.label] for row in used], dtype=np.int64),
        patient=tuple(row.patient for row in used),
        classes=names,
        feature_count=_common(used, described, "features", "features per patch"),
        load=load,
        encoder=_common(used, described, "encoder", "as encoder"),
        left_out=left_out,
        content=tuple(described[row.slide_id].content for row in used),
    )


def bags_of_patients(bags: Bags) -> Bags:
    """Pool the slides of each patient in one bag.

    Parameters
    ----------
    bags : Bags
        A bag per slide.

    Returns
    -------
    Bags
        A bag per patient, named after it, in the order of their first slides.

    Raises
    ------
    TrainingError
        If two slides of a patient have different labels.
    """
    slides: dict[str, list[int]] = {}
    for index, patient in enumerate(bags.patient):
        slides.setdefault(patient, []).append(index)
    for patient, own in slides.items():
        found = {bags.classes[bags.label[index]] for index in own}
        if len(found) > 1:
            raise TrainingError(
                f"slides of patient {patient} are labelled {' and '.join(sorted(found))}; a bag "
                "has one label: correct the table, or let each slide be a bag"
            )

    def load(patient: str) -> NDArray[np.float32]:
        return np.concatenate([bags.load(bags.slide_ids[index]) for index in slides[patient]])

    return replace(
        bags,
        slide_ids=tuple(slides),
        label=bags.label[[own[0] for own in slides.values()]],
        patient=tuple(slides),
        load=load,
    )


def order_classes(rows: Sequence[SlideLabel], positive: str | None) -> tuple[str, ...]:
    """Order the labels by name, the positive one last.

    Raises
    ------
    TrainingError
        If no slide has the positive label.
    """
    names = sorted({row.label for row in rows})
    if positive is None:
        return tuple(names)
    if positive not in names:
        raise TrainingError(f"no slide is labelled {positive!r}; labels are {', '.join(names)}")
    return (*(name for name in names if name != positive), positive)


def _require_rows(path: Path, rows: Sequence[SlideLabel]) -> None:
    if not rows:
        raise TrainingError(f"{path} labels no slide; fill the column label")
    counts = Counter(row.slide_id for row in rows)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise TrainingError(
            f"{path} names slides more than once: {', '.join(repeated[:5])}; keep one row of each"
        )


def _common(
    rows: Sequence[SlideLabel], described: Mapping[str, Described], field: str, words: str
) -> Any:  # noqa: ANN401 -- of the type of the field
    """Return what all slides have in common, or say which differ."""
    values = {row.slide_id: getattr(described[row.slide_id], field) for row in rows}
    counts = Counter(values.values())
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [f"{name} ({value})" for name, value in values.items() if value != usual]
        raise TrainingError(
            f"most slides have {usual} {words}, but not {', '.join(odd[:5])}; all features must "
            "come from one encoder"
        )
    return next(iter(counts))
