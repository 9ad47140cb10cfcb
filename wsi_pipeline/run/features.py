"""Slides or patch stores, and an encoder -> files of features; survives bad ones.

A slide is decoded and encoded in one step, in a process that may die of it, on this machine or on
a cluster. What is on record as finished is not done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.predict.features import EncodeOptions
from wsi_pipeline.preprocess.given import recipe_of
from wsi_pipeline.results.export.features import Layout, feature_file, feature_files
from wsi_pipeline.run.bucket import move_files
from wsi_pipeline.run.describe import describe_slide
from wsi_pipeline.run.folder import Crew, Monitor, NoMonitor, RunOptions, run_journeys
from wsi_pipeline.run.journeys import Journey, Leg
from wsi_pipeline.run.lanes import Lane
from wsi_pipeline.run.marks import Stage, make_mark, stamp
from wsi_pipeline.run.one_features import (
    FeatureOptions,
    write_slide_features,
    write_store_features,
)
from wsi_pipeline.run.outcome import SlideOutcome, Status
from wsi_pipeline.run.work import finished_stages
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.store import PatchStore
from wsi_pipeline.store.find import STORE_NAME, name_stores
from wsi_pipeline.store.identity import recipe_hash

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedEncoder
    from wsi_pipeline.run.lanes import Tools
    from wsi_pipeline.run.outcome import RunReport
    from wsi_pipeline.run.records import Records
    from wsi_pipeline.types import StainMatrix


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureChoices:
    """What is written of the vectors, and what they are made of besides encoder and tiles.

    Attributes
    ----------
    layout : Layout
        Whose files are written.
    target : StainMatrix or None
        Stains that every tile is given first; as they are if None.
    """

    layout: Layout = Layout.H5
    target: StainMatrix | None = None


def find_sources(inputs: Sequence[str]) -> list[SlideJob]:
    """Turn the names given by a person into slides and patch stores.

    Parameters
    ----------
    inputs : sequence of str
        Patch stores, folders with patch stores below them, or slides as
        :func:`~wsi_pipeline.slide.inputs.find_slides` takes them.

    Returns
    -------
    list of SlideJob
        Stores first; the path of each is the store or the slide.

    Raises
    ------
    ConfigError
        If an input names nothing, or two are of one slide.
    """
    stores = [Path(name) for name in inputs if _holds_stores(Path(name))]
    slides = [name for name in inputs if not _holds_stores(Path(name))]
    found = [
        SlideJob(path=store, slide_id=_slide_of(store))
        for store in (name_stores(stores) if stores else ())
    ]
    found += find_slides(slides) if slides else []
    seen: dict[str, SlideJob] = {}
    for job in found:
        if job.slide_id in seen:
            raise ConfigError(
                f"{seen[job.slide_id].path} and {job.path} are both of slide {job.slide_id}; give "
                "one of them, or write them to folders of their own"
            )
        seen[job.slide_id] = job
    return found


def _slide_of(store: Path) -> str:
    """Name the slide of a store by its folder; a store that is damaged fails when it is read."""
    return store.absolute().parent.name if store.name == STORE_NAME else store.stem


def run_features(
    jobs: Sequence[SlideJob],
    options: RunOptions,
    encoder: TrainedEncoder,
    choices: FeatureChoices | None = None,
    monitor: Monitor | None = None,
) -> RunReport:
    """Compute the features of slides and stores and write a file for each.

    Parameters
    ----------
    jobs : sequence of SlideJob
        Of :func:`find_sources`.
    options : RunOptions
        Where and how.
    encoder : TrainedEncoder
        The encoder.
    choices : FeatureChoices or None
        Layout and stain normalisation.
    monitor : Monitor or None
        Told of slides and patches.

    Returns
    -------
    RunReport
        What came of each. The folder has its records and their views, as that of a run.

    Raises
    ------
    ConfigError
        If the folder or the bucket cannot be written.
    SchedulerError
        If the Dask scheduler cannot be reached.
    """
    work = _Work(options, encoder, choices or FeatureChoices())

    def plan(records: Records) -> list[Journey]:
        return [
            Journey(job.slide_id, partial(work.plan, records, job), job.redaction)
            for job in options.share.of(jobs)
        ]

    crew = Crew(
        model=encoder,
        monitor=monitor or NoMonitor(),
        last_stage="features",
        decodes=Lane.PREDICT,
    )
    return run_journeys(plan, options, crew)


class _Work:
    """What is to be done with each slide."""

    def __init__(
        self, options: RunOptions, encoder: TrainedEncoder, choices: FeatureChoices
    ) -> None:
        self._options = options
        self._encoder = encoder
        self._choices = choices

    def plan(self, records: Records, job: SlideJob) -> tuple[SlideOutcome, list[Leg]]:
        """Look at what is on record of a slide and say what is left to do."""
        record = records.read(job.slide_id, self._encoder.spec.name)
        origin = self._origin(job)
        wanted = {} if origin is None or self._options.redo else {Stage.FEATURES: origin}
        out = self._options.out if self._options.bucket is None else None
        if record is not None and finished_stages(record, wanted, out):
            return replace(record, error=None), []
        start = SlideOutcome(
            slide_id=job.slide_id,
            path=job.shown,
            status=Status.EMPTY,
            model=self._encoder.spec.name,
        )
        options = self._options
        of_slide = _Step(
            out=options.out,
            config=options.config,
            choices=self._choices,
            workers=options.of_slide().workers,
            redo=options.redo,
            bucket=options.bucket,
        )
        return start, [Leg(Lane.PREDICT, partial(_encode, job, of_slide, origin))]

    def _origin(self, job: SlideJob) -> dict[str, Any] | None:
        """Tell what decides the features, as far as it is known without opening the slide."""
        target = self._choices.target
        try:
            source = stamp(job.path)
        except OSError:
            return None
        return {
            "encoder": self._encoder.fingerprint,
            "precision": self._options.config.predict.precision.value,
            "recipe": recipe_hash(recipe_of(job, self._options.config)),
            "target": None if target is None else target.to_dict(),
            "layout": self._choices.layout.value,
            "source": [source.size, source.stamp],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What a step is told of where it works; the encoder is shared by all."""

    out: Path
    config: Any
    choices: FeatureChoices
    workers: int
    redo: bool
    bucket: str | None

    def options(self, encoder: TrainedEncoder) -> FeatureOptions:
        return FeatureOptions(
            out=self.out,
            encode=EncodeOptions(encoder=encoder, target=self.choices.target),
            config=self.config,
            layout=self.choices.layout,
            workers=self.workers,
        )


def _encode(
    job: SlideJob,
    step: _Step,
    origin: dict[str, Any] | None,
    outcome: SlideOutcome,
    tools: Tools,
) -> SlideOutcome:
    """Encode a slide or store where the work is done, and put on record what it left."""
    options = step.options(tools.shared())
    if step.redo:
        feature_file(step.out, job.slide_id, options.layout).unlink(missing_ok=True)
    facts: dict[str, Any] = {"status": Status.DONE}
    if is_store(job.path):
        store = PatchStore.open(job.path)
        write_store_features(store, options, tools.progress, slide_id=job.slide_id)
        facts = describe_slide(job, store)
    elif (done := write_slide_features(job, options, tools.progress)) is not None:
        facts = describe_slide(job, done.patches) | {"seconds": done.seconds}
    names = {
        kind: path.relative_to(step.out).as_posix()
        for kind, path in feature_files(step.out, job.slide_id, options.layout).items()
    }
    stages = {} if origin is None else {Stage.FEATURES.value: make_mark(step.out, origin, names)}
    if step.bucket is not None:
        move_files(step.bucket, step.out, job.slide_id, names.values())
    return replace(outcome, **facts, files=names, stages=stages)


def is_store(path: Path) -> bool:
    """Whether a source is a patch store, not a slide."""
    return (path / "zarr.json").exists()


def _holds_stores(path: Path) -> bool:
    return path.is_dir() and (is_store(path) or next(path.rglob(STORE_NAME), None) is not None)
