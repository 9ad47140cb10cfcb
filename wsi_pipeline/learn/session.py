"""Labelled tiles of some slides -> a calibrated head, judged; and the head -> maps of slides.

The command and the page go through the functions here. Of most slides only the labelled tiles
are needed, so memory does not grow with the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn.head import (
    Head,
    HeldOut,
    Projection,
    find_temperature,
    fit_head,
    hold_out,
)
from wsi_pipeline.learn.judge import Judgement, judge_by_group
from wsi_pipeline.types import Predictions

if TYPE_CHECKING:
    from wsi_pipeline.learn.strokes import LabelledTiles
    from wsi_pipeline.store import PatchStore

SLIDES_APART = 3
"""Slides that every class must have labels on before whole slides are held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassName:
    """A class and its colour, ``#rrggbb``."""

    name: str
    color: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideLabels:
    """The labelled tiles of one slide.

    Attributes
    ----------
    tiles : LabelledTiles
        M tiles with class and region.
    features : ndarray of shape (M, F), float32
        What the encoder sees in each.
    """

    tiles: LabelledTiles
    features: NDArray[np.float32]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.tiles):
            raise ValueError(f"{len(self.features)} features for {len(self.tiles)} labelled tiles")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What was learnt.

    Attributes
    ----------
    classes : tuple of ClassName
        The classes.
    projection, head : Projection, Head
        What makes probabilities of features; the head is calibrated.
    temperature : float
        What its logits were divided by.
    judgement : Judgement
        How good it is where it had no labels.
    counts : tuple of int
        Labelled tiles per class.
    """

    classes: tuple[ClassName, ...]
    projection: Projection
    head: Head
    temperature: float
    judgement: Judgement
    counts: tuple[int, ...]


def learn(
    slides: Sequence[SlideLabels], classes: Sequence[ClassName], projection: Projection
) -> Learned:
    """Learn from the labelled tiles of some slides.

    Parameters
    ----------
    slides : sequence of SlideLabels
        Slides, with or without labelled tiles.
    classes : sequence of ClassName
        The classes that labels are indices of.
    projection : Projection
        Of the features, from :func:`~wsi_pipeline.learn.head.fit_projection`.

    Returns
    -------
    Learned
        A calibrated head, and how good it is. Slides are held out where every class is on several
        of them, else regions; a tile is never judged by its neighbours.

    Raises
    ------
    ConfigError
        If fewer than two classes have a labelled tile.
    """
    names = [entry.name for entry in classes]
    label = np.concatenate([np.empty(0, np.int64), *(slide.tiles.label for slide in slides)])
    _require_two(label, names)
    rows = projection.apply(np.concatenate([slide.features for slide in slides]))
    group, by = _groups([slide.tiles for slide in slides], label)
    held = hold_out(rows, label, group, len(names))
    temperature = find_temperature(held.logits, label[held.row])
    return Learned(
        classes=tuple(classes),
        projection=projection,
        head=fit_head(rows, label, len(names)).cooled(temperature),
        temperature=temperature,
        judgement=_judge(held, label, group, names, by),
        counts=tuple(np.bincount(label, minlength=len(names)).tolist()),
    )


def predict_tiles(
    learned: Learned, store: PatchStore, features: NDArray[np.float32]
) -> Predictions:
    """Predict every tile of a slide.

    Parameters
    ----------
    learned : Learned
        What was learnt.
    store : PatchStore
        Which tiles the slide has.
    features : ndarray of shape (N, F), float32
        What the encoder sees in each.

    Returns
    -------
    Predictions
        Class probabilities, in the order of the store.
    """
    return Predictions(
        prob=learned.head.predict(learned.projection.apply(features)),
        xy=store.xy,
        rc=store.rc,
        shape=store.grid_shape,
        extent=store.extent,
        pitch=store.pitch,
        class_names=tuple(entry.name for entry in learned.classes),
        class_colors=tuple(entry.color for entry in learned.classes),
    )


def _require_two(label: NDArray[np.int64], names: Sequence[str]) -> None:
    present = np.unique(label)
    if len(present) < 2:
        have = f"only {names[present[0]]!r} has labels" if len(present) else "no tile has a label"
        raise ConfigError(f"{have}; label tiles of two classes at least")


def _groups(
    labelled: Sequence[LabelledTiles], label: NDArray[np.int64]
) -> tuple[NDArray[np.int64], str]:
    """Decide what is held out at a time: slides where every class is on several, else regions."""
    slide = np.concatenate([np.full(len(tiles), i) for i, tiles in enumerate(labelled)])
    on_slides = [len(np.unique(slide[label == value])) for value in np.unique(label)]
    if min(on_slides) >= SLIDES_APART:
        return slide.astype(np.int64), "slide"
    region = np.concatenate([tiles.region for tiles in labelled])
    # regions of different slides have different numbers
    span = int(region.max(initial=0)) + 1
    return (slide * span + region).astype(np.int64), "region"


def _judge(
    held: HeldOut,
    label: NDArray[np.int64],
    group: NDArray[np.int64],
    names: Sequence[str],
    by: str,
) -> Judgement:
    unjudged = [
        names[value] for value in np.unique(label) if len(np.unique(group[label == value])) < 2
    ]
    return judge_by_group(
        label[held.row], held.logits.argmax(axis=1), group[held.row], names, by, unjudged
    )
