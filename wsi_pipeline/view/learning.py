"""Strokes in the page -> a new map of the slide, before the next stroke.

Features are computed once, in a thread of their own; what is fitted afterwards takes less time
than a person needs to lift the pen.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn import (
    ClassName,
    Learned,
    Projection,
    SlideLabels,
    fit_projection,
    learn,
    predict_tiles,
    suggest_tiles,
)
from wsi_pipeline.learn.folder import FolderLearning, draw_sample
from wsi_pipeline.learn.head import FITTED_TILES
from wsi_pipeline.results.export.parquet import write_predictions
from wsi_pipeline.view.folder import LEARNED, PREDICTIONS_NAME

if TYPE_CHECKING:
    from wsi_pipeline.types import Predictions
    from wsi_pipeline.view.slides import Slides

FEATURE_BYTES = 1 << 29
"""Features kept in memory: those of about 100,000 tiles. Others are read again from disk."""


class Abandoned(Exception):
    """Nobody waits for the features any more."""


class Counter:
    """Progress that another thread may look at, and end."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0
        self.abandoned = False

    def start(self, what: str, total: int) -> None:
        """Begin to count."""
        self.done, self.total = 0, total

    def advance(self, steps: int = 1) -> None:
        """Count, unless nobody waits."""
        if self.abandoned:
            raise Abandoned
        self.done += steps


class Learner:
    """Learns from the labels of a folder while they are drawn.

    Parameters
    ----------
    slides : Slides
        The slides.
    task : callable
        Makes what says how features are computed; called once, when first needed, since loading
        an encoder takes seconds.
    """

    def __init__(self, slides: Slides, task: Callable[[], FolderLearning]) -> None:
        self._slides = slides
        self._make_task = task
        self._task: FolderLearning | None = None
        self._pool = ThreadPoolExecutor(1, "features")
        self._computing: dict[str, tuple[Future[None], Counter]] = {}
        self._kept: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._projection: Projection | None = None
        self._lock = Lock()

    def close(self) -> None:
        """Give up what is not begun, and what is under way after its next batch."""
        for _, counter in self._computing.values():
            counter.abandoned = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def learn(self, slide_id: str, classes: list[ClassName]) -> dict[str, Any]:
        """Learn from all labels of the folder, and draw the map of one slide anew.

        Parameters
        ----------
        slide_id : str
            The slide that is looked at.
        classes : list of ClassName
            The classes.

        Returns
        -------
        dict
            ``ready`` is false while features are being computed, with ``done`` and ``total``
            tiles. Where labels are too few, ``problem`` says what is missing. Else ``judgement``,
            ``counts`` of labelled tiles, ``suggested`` tiles, ``seconds``, and the map is on disk.

        Raises
        ------
        WsiPipelineError
            If features could not be computed.
        """
        waiting = self._prepare(self._labelled(slide_id))
        if waiting is not None:
            return {"ready": False, **waiting}
        began = time.perf_counter()
        with self._lock:
            try:
                learned, labels = self._fit(slide_id, classes)
            except ConfigError as error:  # too few labels: whoever has just begun made no mistake
                return {"ready": True, "problem": str(error)}
            features = self._features(slide_id)
            predictions = predict_tiles(learned, self._slides.store(slide_id), features)
            self._write(slide_id, predictions)
        projected = learned.projection.apply(features)
        suggested = suggest_tiles(predictions.prob, projected, labels.tiles.tile)
        return {
            "ready": True,
            "problem": None,
            "map": LEARNED,
            "judgement": learned.judgement.to_dict(),
            "temperature": learned.temperature,
            "counts": learned.counts,
            "suggested": [
                {"tile": int(tile), "row": int(row), "col": int(col)}
                for tile, (row, col) in zip(suggested, predictions.rc[suggested], strict=True)
            ],
            "seconds": time.perf_counter() - began,
        }

    def _labelled(self, slide_id: str) -> list[str]:
        """Name the slide looked at, and every other that has labels."""
        others = [name for name in self._slides.slide_ids() if name != slide_id]
        return [slide_id, *(name for name in others if self._slides.has_labels(name))]

    def _prepare(self, names: list[str]) -> dict[str, int] | None:
        """See to it that features are computed; say how far that is, or None when it is done."""
        missing = [name for name in names if name not in self._kept and not self._is_done(name)]
        if not missing:
            return None
        counters = [self._computing[name][1] for name in missing]
        return {
            "done": sum(counter.done for counter in counters),
            "total": sum(counter.total for counter in counters),
        }

    def _is_done(self, name: str) -> bool:
        """Whether the features of a slide are on disk; they are begun if not."""
        with self._lock:
            if name not in self._computing:
                counter = Counter()
                self._computing[name] = (self._pool.submit(self._compute, name, counter), counter)
            future, _ = self._computing[name]
            if not future.done():
                return False
            if future.exception() is not None:
                del self._computing[name]  # so that it is tried again when asked again
        future.result()
        return True

    def _compute(self, name: str, counter: Counter) -> None:
        if self._task is None:  # there is one thread, so that it is made once
            self._task = self._make_task()
        self._keep(name, self._task.features(name, counter))

    def _features(self, name: str) -> NDArray[np.float32]:
        """Return the features of a slide, from memory or from disk."""
        assert self._task is not None
        found = self._kept.get(name)
        if found is None:
            found = self._task.features(name)
            self._keep(name, found)
        return found

    def _keep(self, name: str, features: NDArray[np.float32]) -> None:
        self._kept[name] = features
        self._kept.move_to_end(name)
        while sum(kept.nbytes for kept in self._kept.values()) > FEATURE_BYTES:
            if len(self._kept) == 1:
                break
            self._kept.popitem(last=False)

    def _fit(self, slide_id: str, classes: list[ClassName]) -> tuple[Learned, SlideLabels]:
        assert self._task is not None
        labels: dict[str, SlideLabels] = {}
        samples = []
        names = self._labelled(slide_id)
        for name in names:
            features = self._features(name)
            labels[name] = self._task.labels(name, classes, features)
            if self._projection is None:
                samples.append(draw_sample(features, max(1, FITTED_TILES // len(names))))
        if self._projection is None:
            # found once: it says how tiles differ, which labels do not change
            self._projection = fit_projection(np.concatenate(samples))
        return learn(list(labels.values()), classes, self._projection), labels[slide_id]

    def _write(self, slide_id: str, predictions: Predictions) -> None:
        path = self._slides.folder.folder(slide_id) / LEARNED / PREDICTIONS_NAME
        write_predictions(path, predictions)
