"""Slides or patch stores, and an encoder -> files of features; survives bad slides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.results.export.features import feature_file
from wsi_pipeline.run.one_features import (
    FeatureOptions,
    write_slide_features,
    write_store_features,
)
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.store.find import STORE_NAME, find_stores

if TYPE_CHECKING:
    from wsi_pipeline.types import Progress

logger = logging.getLogger(__name__)

Work = Callable[[], Path]


@dataclass(slots=True)
class Encoded:
    """What came of slides.

    Attributes
    ----------
    files : list of Path
        Files of features, also those that were there.
    failed : dict of str to str
        Why a slide failed.
    """

    files: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"files": [str(file) for file in self.files], "failed": self.failed}


def encode_inputs(inputs: Sequence[str], options: FeatureOptions, progress: Progress) -> Encoded:
    """Compute the features of everything that is named.

    Parameters
    ----------
    inputs : sequence of str
        Patch stores, folders with patch stores below them, or slides as
        :func:`~wsi_pipeline.slide.inputs.find_slides` takes them.
    options : FeatureOptions
        Where and how.
    progress : Progress
        Told of every batch.

    Returns
    -------
    Encoded
        Files and failures. A bad slide does not stop the rest.

    Raises
    ------
    ConfigError
        If an input names nothing.
    """
    done = Encoded()
    for name, work in _plan(inputs, options, progress):
        try:
            done.files.append(work())
        except (WsiPipelineError, OSError) as error:
            logger.warning("%s failed: %s", name, error)
            done.failed[name] = str(error)
    return done


def _plan(
    inputs: Sequence[str], options: FeatureOptions, progress: Progress
) -> Iterator[tuple[str, Work]]:
    stores = [Path(name) for name in inputs if is_stores(Path(name))]
    slides = [name for name in inputs if not is_stores(Path(name))]
    for store in find_stores(stores) if stores else ():
        yield store.slide.slide_id, partial(write_store_features, store, options, progress)
    for job in find_slides(slides) if slides else ():

        def work(job: Any = job) -> Path:  # noqa: ANN401 -- of the loop
            write_slide_features(job, options, progress)
            return feature_file(options.out, job.slide_id, options.layout)

        yield job.slide_id, work


def is_stores(path: Path) -> bool:
    """Whether a path is a patch store, or a folder with patch stores below it."""
    if not path.is_dir():
        return False
    return (path / "zarr.json").exists() or next(path.rglob(STORE_NAME), None) is not None
