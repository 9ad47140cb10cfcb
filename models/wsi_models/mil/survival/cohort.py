"""A table of follow-up and the features of slides -> a bag per patient, a time and an event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_files import UnreadableError
from wsi_files.tables import Row, read_table
from wsi_models.errors import TrainingError
from wsi_models.mil.bags import (
    PATIENT_COLUMNS,
    Bags,
    Described,
    LoadFeatures,
    SlideLabel,
    bags_of_patients,
    make_bags,
)

if TYPE_CHECKING:
    from pathlib import Path

CENSORED, SEEN = "censored", "event"
_YES, _NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """One row of a table of follow-up: a slide, whose it is, and how that patient fared."""

    slide_id: str
    patient: str
    time: float
    event: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Patients, their instances, and how they fared.

    Attributes
    ----------
    bags : Bags
        One per patient, of all its slides; the label is 1 where the event was seen.
    time : ndarray of shape (n,), float64
        How long each was followed, in any unit.
    """

    bags: Bags
    time: NDArray[np.float64]

    @property
    def event(self) -> NDArray[np.bool_]:
        """Whether the event was seen, shape (n,)."""
        return np.asarray(self.bags.label == 1)


def read_follow_up(path: Path, time: str, event: str) -> tuple[FollowUp, ...]:
    """Read a table of follow-up.

    Parameters
    ----------
    path : Path
        CSV with ``slide_id``, ``patient`` (or ``case_id``) and the two columns named next.
    time : str
        Column of the time, a positive number. Rows without one are skipped.
    event : str
        Column that says whether the event was seen: 1 or 0, true or false.

    Returns
    -------
    tuple of FollowUp
        In the order of the file.

    Raises
    ------
    TrainingError
        If a column is missing, a cell is wrong, a slide is named twice, or two slides of a patient
        say different things of it.
    """
    try:
        table = read_table(path)
        table.require(["slide_id", time, event])
        patient = next((name for name in PATIENT_COLUMNS if table.has(name)), None)
        if patient is None:
            table.require(["patient"])
        rows = [_follow_up(row, str(patient), time, event) for row in table.rows if row.text(time)]
    except UnreadableError as error:
        raise TrainingError(str(error)) from error
    _require_agreement(path, rows)
    return tuple(rows)


def _follow_up(row: Row, patient: str, time: str, event: str) -> FollowUp:
    advice = "fill it, or empty the time"
    length = row.number(time) or 0.0
    if length <= 0:
        raise row.wrong(time, f"{row.text(time)!r} is not a time; it must be above 0")
    seen = row.required(event, advice).casefold()
    if seen not in _YES | _NO:
        raise row.wrong(event, f"{seen!r} does not say whether the event was seen; write 1 or 0")
    return FollowUp(
        slide_id=row.required("slide_id", advice),
        patient=row.required(patient, advice),
        time=length,
        event=seen in _YES,
    )


def _require_agreement(path: Path, rows: Sequence[FollowUp]) -> None:
    if not rows:
        raise TrainingError(f"{path} has no row with a time")
    fates: dict[str, tuple[float, bool]] = {}
    slides: set[str] = set()
    for row in rows:
        if row.slide_id in slides:
            raise TrainingError(f"{path} names slide {row.slide_id} more than once; keep one row")
        slides.add(row.slide_id)
        if fates.setdefault(row.patient, (row.time, row.event)) != (row.time, row.event):
            raise TrainingError(
                f"{path}: slides of patient {row.patient} give different times or events; a "
                "patient has one of each"
            )


def make_cohort(
    rows: Sequence[FollowUp], described: Mapping[str, Described], load: LoadFeatures
) -> Cohort:
    """Bring follow-up and features together.

    Parameters
    ----------
    rows : sequence of FollowUp
        The patients.
    described : mapping of str to Described
        The slides that have features.
    load : callable
        Gives the features of a slide by its name.

    Returns
    -------
    Cohort
        A bag per patient with at least one slide; slides without features are left out.

    Raises
    ------
    TrainingError
        If no slide is left, no event was seen, or the features differ in length or encoder.
    """
    labels = [
        SlideLabel(
            slide_id=row.slide_id, label=SEEN if row.event else CENSORED, patient=row.patient
        )
        for row in rows
    ]
    bags = bags_of_patients(make_bags(labels, described, load, (CENSORED, SEEN)))
    if not bags.label.any():
        raise TrainingError("no event was seen in any patient, so nothing tells risks apart")
    times = {row.patient: row.time for row in rows}
    return Cohort(bags=bags, time=np.array([times[name] for name in bags.patient]))
