"""The records of annotated slides -> how much of each class there is, and whether that is enough.

Enough for what recipes of training do unless they say otherwise: patients train, select or test, so
that each class must be in three.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsi_pipeline.run.outcome import SlideOutcome

PARTS = 3
"""Training, validation and test."""

NAMED = 5
"""Patients that are named; of more the number is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """How much of a class is annotated.

    Attributes
    ----------
    name : str
        The class.
    tiles : dict of str to int
        Tiles of each patient that has any; a slide whose patient is not known is one itself.
    slides : int
        Slides that have any.
    mm2 : float
        Area of the tiles.
    """

    name: str
    tiles: dict[str, int]
    slides: int
    mm2: float


def count_labels(outcomes: Iterable[SlideOutcome]) -> list[ClassCount]:
    """Add up the tiles of each class.

    Parameters
    ----------
    outcomes : iterable of SlideOutcome
        The slides; a slide that several models predicted counts once.

    Returns
    -------
    list of ClassCount
        In the order of the label map; empty where nothing is annotated.
    """
    slides = {outcome.slide_id: outcome for outcome in outcomes if outcome.labels}
    names = dict.fromkeys(name for outcome in slides.values() for name in outcome.labels)
    counts = []
    for name in names:
        tiles: dict[str, int] = {}
        having = [outcome for outcome in slides.values() if outcome.labels.get(name)]
        for outcome in having:
            patient = outcome.patient or outcome.slide_id
            tiles[patient] = tiles.get(patient, 0) + outcome.labels[name]
        mm2 = sum(outcome.labels[name] * outcome.tile_mm2 for outcome in having)
        counts.append(ClassCount(name=name, tiles=tiles, slides=len(having), mm2=mm2))
    return counts


def judge_labels(counts: Iterable[ClassCount]) -> list[str]:
    """Say of which classes there is too little for training, validation and test; empty if none."""
    return [_judge(count) for count in counts if len(count.tiles) < PARTS]


def _judge(count: ClassCount) -> str:
    patients = list(count.tiles)
    more = PARTS - len(patients)
    needed = f"annotate it in {more} more patient{'' if more == 1 else 's'}"
    if not patients:
        return f"class {count.name} has no tile: {needed}, or correct the label map"
    if len(patients) == 1:
        found = f"is in one patient only ({patients[0]})"
    else:
        found = f"is in {len(patients)} patients ({', '.join(patients)})"
    return (
        f"class {count.name} {found}, too few to train, validate and test with it: {needed}, or "
        "set the shares of validation and test in the recipe"
    )


def name_patients(count: ClassCount) -> str:
    """Name the patients of a class with their tiles, or say how many there are."""
    if len(count.tiles) > NAMED:
        return f"{len(count.tiles)} patients"
    return ", ".join(f"{patient} {tiles}" for patient, tiles in count.tiles.items())
