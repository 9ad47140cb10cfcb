"""The slides of a results folder, an encoder and areas -> what is learnt, and every slide's map.

Slides pass one by one; what stays of each is the features of its labelled tiles and a sample of
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.learn.features import compute_features
from wsi_pipeline.learn.head import FITTED_TILES, fit_projection
from wsi_pipeline.learn.session import ClassName, Learned, SlideLabels, learn, predict_tiles
from wsi_pipeline.learn.strokes import label_by_strokes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from wsi_pipeline.annotations import Annotation
    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.predict.trained import TrainedEncoder
    from wsi_pipeline.slide.open import Slide
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import Predictions, Progress

FEATURES_FOLDER = "features"


class SlideSource(Protocol):
    """Where the slides of a folder, their tiles and their areas are found."""

    def slide_ids(self) -> Sequence[str]:
        """Name the slides that have patch stores."""

    def store(self, slide_id: str) -> PatchStore:
        """Open the patch store of a slide."""

    def open(self, slide_id: str) -> AbstractContextManager[Slide]:
        """Open a slide for the length of a block."""

    def has_labels(self, slide_id: str) -> bool:
        """Whether something may be drawn on a slide, told without opening it."""

    def areas(self, slide_id: str) -> Sequence[Annotation]:
        """Return what was drawn on a slide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderLearning:
    """How a folder is learnt from.

    Attributes
    ----------
    source : SlideSource
        The slides.
    encoder : TrainedEncoder
        Maps RGB patches to features; frozen.
    config : PredictConfig
        Device, batch size, precision.
    work : Path
        Folder where features are kept.
    """

    source: SlideSource
    encoder: TrainedEncoder
    config: PredictConfig
    work: Path

    def features(self, slide_id: str, progress: Progress | None = None) -> NDArray[np.float32]:
        """Return the features of the tiles of a slide, computed on the first call ever."""
        store = self.source.store(slide_id)
        with self.source.open(slide_id) as slide:
            return compute_features(
                store, slide, self.encoder, self.config, self.path(slide_id), progress=progress
            )

    def path(self, slide_id: str) -> Path:
        """Return the file that keeps the features of a slide."""
        name = f"{self.encoder.spec.name}-{self.encoder.fingerprint[:8]}"
        return self.work / FEATURES_FOLDER / name / f"{slide_id}.npz"

    def labels(
        self, slide_id: str, classes: Sequence[ClassName], features: NDArray[np.float32]
    ) -> SlideLabels:
        """Return the labelled tiles of a slide, whose features are known."""
        store = self.source.store(slide_id)
        tiles = label_by_strokes(
            self.source.areas(slide_id),
            [entry.name for entry in classes],
            store.xy,
            store.extent,
        )
        return SlideLabels(tiles=tiles, features=features[tiles.tile])


def learn_folder(
    task: FolderLearning,
    classes: Sequence[ClassName],
    progress: Progress | None = None,
    leave_out: Callable[[str, WsiPipelineError], None] | None = None,
) -> tuple[Learned, Iterator[tuple[str, Predictions]]]:
    """Learn from the areas drawn on the slides of a folder, and predict each of them.

    Parameters
    ----------
    task : FolderLearning
        The slides and the encoder.
    classes : sequence of ClassName
        The classes, by the names of the areas.
    progress : Progress or None
        Told of every tile whose features are computed.
    leave_out : callable or None
        Told of slides without labels that cannot be read, and why; if None they are errors.

    Returns
    -------
    Learned
        The head, and how good it is.
    iterator of (str, Predictions)
        Every slide that was read with its map, computed as it is asked for.

    Raises
    ------
    ConfigError
        If fewer than two classes have a labelled tile.
    WsiPipelineError
        If a slide with labels, or its store, cannot be read.
    """
    names = task.source.slide_ids()
    share = max(1, FITTED_TILES // max(1, len(names)))
    labels: dict[str, SlideLabels] = {}
    samples: list[NDArray[np.float32]] = []
    for name in names:
        try:
            features = task.features(name, progress)
        except WsiPipelineError as error:
            if leave_out is None or task.source.has_labels(name):
                raise
            leave_out(name, error)
            continue
        labels[name] = task.labels(name, classes, features)
        samples.append(draw_sample(features, share))
    learned = learn_from(labels, samples, classes)
    return learned, _predict(task, learned, list(labels))


def learn_from(
    labels: Mapping[str, SlideLabels],
    samples: Sequence[NDArray[np.float32]],
    classes: Sequence[ClassName],
) -> Learned:
    """Learn from labelled tiles, with main directions found in a sample of all tiles."""
    return learn(list(labels.values()), classes, fit_projection(np.concatenate(samples)))


def draw_sample(features: NDArray[np.float32], count: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw at most ``count`` rows."""
    return features[np.random.default_rng(seed).permutation(len(features))[:count]]


def _predict(
    task: FolderLearning, learned: Learned, names: Sequence[str]
) -> Iterator[tuple[str, Predictions]]:
    for name in names:
        yield name, predict_tiles(learned, task.source.store(name), task.features(name))
