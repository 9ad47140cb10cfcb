"""A list of slides -> the results of each and the report of the run; survives bad slides.

The steps of a slide are functions of ``one_slide.py``. Here they get their lanes: slides are
prepared while others are predicted, on threads, processes or a cluster, with the same files.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import ConfigError, WorkerLostError, WsiPipelineError
from wsi_pipeline.run import one_slide
from wsi_pipeline.run.bucket import Bucket
from wsi_pipeline.run.lanes import Lane, StepNews, ThreadLane, Tools, WorkLane
from wsi_pipeline.run.one_slide import SlideOptions
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.report import publish_report
from wsi_pipeline.run.timing import Means, time_run
from wsi_pipeline.slide.inputs import Share, SlideJob
from wsi_pipeline.store import package_versions

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel

logger = logging.getLogger(__name__)

Step = Callable[[SlideOutcome, Tools], SlideOutcome]


class Monitor(Protocol):
    """Told how a run goes; the command line draws it."""

    def begin(self, slides: int, last_stage: str, dashboard: str | None) -> None:
        """Announce the slides, the stage that ends each, and the address of Dask's own page."""

    def tell(self, news: StepNews) -> None:
        """Hear how far a slide is; called from any thread."""

    def finished(self, outcome: SlideOutcome) -> None:
        """Hear what came of a slide."""


class NoMonitor:
    """Says nothing: the default of :func:`run_slides`."""

    def begin(self, slides: int, last_stage: str, dashboard: str | None) -> None:
        """Ignore the announcement."""

    def tell(self, news: StepNews) -> None:
        """Ignore the news."""

    def finished(self, outcome: SlideOutcome) -> None:
        """Ignore the outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run over slides is done.

    Attributes
    ----------
    out : Path
        Folder of the run.
    config : PipelineConfig
        The configuration.
    workers : int or None
        Threads per slide that read and unmix; if None, the processor's cores shared among the
        slides that are prepared at once.
    overwrite : bool
        Replace patch stores that were made with another configuration.
    store : bool
        Keep the patches of each slide in a store. Without, slides go straight through the model.
    slides_at_once : int
        Slides prepared at a time on this machine, each in a process of its own if above 1.
    scheduler : str or None
        Address of a Dask scheduler whose workers do everything. They see the same files under
        the same names as this process.
    share : Share
        The part of the slides that this run does; by default all. The runs of the other parts
        may write to the same ``out`` at the same time.
    bucket : str or None
        ``s3://bucket/prefix`` to which the results of each slide are moved when they are
        complete; ``out`` is then where they lie until that.
    """

    out: Path
    config: PipelineConfig = field(default_factory=PipelineConfig)
    workers: int | None = None
    overwrite: bool = False
    store: bool = True
    slides_at_once: int = 1
    scheduler: str | None = None
    share: Share = field(default_factory=lambda: Share(index=0, count=1))
    bucket: str | None = None

    def of_slide(self) -> SlideOptions:
        """Return what concerns each slide."""
        cores = len(os.sched_getaffinity(0))
        return SlideOptions(
            out=self.out,
            config=self.config,
            workers=self.workers or max(1, cores // self.slides_at_once),
            overwrite=self.overwrite,
        )


def run_slides(
    jobs: Sequence[SlideJob],
    options: RunOptions,
    *,
    model: TrainedModel | None = None,
    monitor: Monitor | None = None,
) -> RunReport:
    """Process slides and write the report; a bad slide does not stop the rest.

    While a slide is predicted, the next is prepared, and the one before is exported.

    Parameters
    ----------
    jobs : sequence of SlideJob
        The slides.
    options : RunOptions
        Where and how. The results do not depend on how.
    model : TrainedModel or None
        Predicts too, if given; only patch stores are made otherwise.
    monitor : Monitor or None
        Told of slides and patches.

    Returns
    -------
    RunReport
        What came of each slide; also in ``run.json`` and ``index.html``.

    Raises
    ------
    ConfigError
        If the folder or the bucket cannot be written.
    SchedulerError
        If the Dask scheduler cannot be reached.
    """
    if model is None and not options.store:
        raise ConfigError("a run without a model leaves nothing if it keeps no patches; keep them")
    monitor = monitor or NoMonitor()
    jobs = options.share.of(jobs)
    record = _Record(options, model, jobs)
    record.publish()
    with _open_lanes(options, model, monitor.tell) as lanes:
        monitor.begin(len(jobs), "patches" if model is None else "predict", lanes.dashboard)
        for outcome in _outcomes(jobs, _plan(options, model), lanes.by_name):
            monitor.finished(outcome)
            # after each slide, so that an interrupted night leaves a report of what was done
            record.add(outcome)
            record.publish()
        record.close(_means(options, lanes))
    return record.publish()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lanes:
    by_name: dict[Lane, WorkLane]
    dashboard: str | None


@contextmanager
def _open_lanes(
    options: RunOptions, model: TrainedModel | None, tell: Callable[[StepNews], None]
) -> Iterator[_Lanes]:
    """Open what does the work; whatever still runs at the end is stopped."""
    with ExitStack() as stack:
        lanes: dict[Lane, WorkLane] = {}
        dashboard = None
        if options.scheduler is not None:
            # dask is loaded where it is needed, so that a small run starts at once
            from wsi_pipeline.run.cluster import PREDICTOR, DaskWorkers, connected

            client = stack.enter_context(connected(options.scheduler))
            dashboard = client.dashboard_link
            workers = stack.enter_context(closing(DaskWorkers(client, tell, shared=model)))
            lanes = {
                Lane.PREPARE: workers.lane(),
                Lane.PREDICT: workers.lane(priority=2, resource=PREDICTOR),
                Lane.FINISH: workers.lane(priority=1),
            }
        elif options.slides_at_once > 1:
            from wsi_pipeline.run.cluster import DaskWorkers, local_processes

            client = stack.enter_context(local_processes(options.slides_at_once))
            dashboard = client.dashboard_link
            workers = DaskWorkers(client, tell, slots=options.slides_at_once)
            stack.enter_context(closing(workers))
            lanes = {
                Lane.PREPARE: workers.lane(),
                Lane.PREDICT: stack.enter_context(closing(ThreadLane("predict", tell, model))),
                Lane.FINISH: workers.lane(priority=1),
            }
        else:
            lanes = {
                lane: stack.enter_context(closing(ThreadLane(lane.value, tell, model)))
                for lane in Lane
            }
        yield _Lanes(by_name=lanes, dashboard=dashboard)


def _means(options: RunOptions, lanes: _Lanes) -> Means:
    return Means(
        workers=options.of_slide().workers,
        cores=len(os.sched_getaffinity(0)),
        slides_at_once=lanes.by_name[Lane.PREPARE].width,
        predictors=lanes.by_name[Lane.PREDICT].width,
        cluster=options.scheduler is not None,
    )


def _plan(options: RunOptions, model: TrainedModel | None) -> Callable[[SlideJob], list[_Leg]]:
    """Say which steps a slide takes, in which lanes."""
    of_slide = options.of_slide()
    fingerprint = None if model is None else model.fingerprint

    def legs(job: SlideJob) -> list[_Leg]:
        bucket = None if options.bucket is None else Bucket(options.bucket, job, of_slide)
        way: list[_Leg] = []
        if bucket is not None:
            way.append(_Leg(Lane.PREPARE, partial(_fetch, bucket, fingerprint, options.store)))
        if not options.store:
            way.append(_Leg(Lane.PREDICT, partial(_predict_unstored, job, of_slide)))
        else:
            way.append(_Leg(Lane.PREPARE, partial(_prepare, job, of_slide)))
            if model is not None:
                way.append(_Leg(Lane.PREDICT, partial(_predict, of_slide)))
            way.append(_Leg(Lane.FINISH, partial(_finish, of_slide)))
        if bucket is not None:
            way.append(_Leg(Lane.FINISH, partial(_upload, bucket, fingerprint)))
        return way

    return legs


@dataclass(frozen=True, slots=True)
class _Leg:
    lane: Lane
    step: Step


def _fetch(
    bucket: Bucket,
    model_fingerprint: str | None,
    patches: bool,
    outcome: SlideOutcome,
    tools: Tools,
) -> SlideOutcome:
    found = bucket.fetch(model_fingerprint, patches=patches)
    return outcome if found is None else replace(found, reused=True)


def _prepare(
    job: SlideJob, options: SlideOptions, outcome: SlideOutcome, tools: Tools
) -> SlideOutcome:
    return one_slide.prepare(job, options, tools.progress)


def _predict(options: SlideOptions, outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
    return one_slide.predict_prepared(outcome, options, tools.shared(), tools.progress)


def _predict_unstored(
    job: SlideJob, options: SlideOptions, outcome: SlideOutcome, tools: Tools
) -> SlideOutcome:
    return one_slide.predict_unstored(job, options, tools.shared(), tools.progress)


def _finish(options: SlideOptions, outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
    return one_slide.finish(outcome, options)


def _upload(
    bucket: Bucket, model_fingerprint: str | None, outcome: SlideOutcome, tools: Tools
) -> SlideOutcome:
    return bucket.move(outcome, model_fingerprint)


def _attempt(step: Step, outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
    """Take one step, and record why it failed if it did: the place where runs survive."""
    try:
        return step(outcome, tools)
    except (WsiPipelineError, OSError) as error:
        return _failed(outcome, error)


def _failed(outcome: SlideOutcome, error: Exception) -> SlideOutcome:
    logger.warning("%s failed: %s", outcome.path, error)
    return replace(outcome, status=Status.FAILED, error=str(error))


def _outcomes(
    jobs: Sequence[SlideJob],
    plan: Callable[[SlideJob], list[_Leg]],
    lanes: dict[Lane, WorkLane],
) -> Iterator[SlideOutcome]:
    """Send every slide along its lanes and yield what came of it, in order of completion."""
    under_way: dict[Future[SlideOutcome], tuple[SlideOutcome, list[_Leg]]] = {}

    def send(outcome: SlideOutcome, legs: list[_Leg]) -> None:
        first, *rest = legs
        work = partial(_attempt, first.step, outcome)
        under_way[lanes[first.lane].submit(outcome.slide_id, work)] = (outcome, rest)

    for job in jobs:
        blank = SlideOutcome(slide_id=job.slide_id, path=str(job.path), status=Status.EMPTY)
        send(blank, plan(job))
    while under_way:
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        for future in done:
            before, rest = under_way.pop(future)
            outcome = _result(future, before)
            if rest and outcome.status is not Status.FAILED and not outcome.reused:
                send(outcome, rest)
            else:
                yield outcome


def _result(future: Future[SlideOutcome], before: SlideOutcome) -> SlideOutcome:
    """Return what a step gave; a worker that died of it is the failure of one slide."""
    try:
        return future.result()
    except WorkerLostError as error:
        return _failed(before, error)


class _Record:
    """What came of the slides so far, and its report on disk and in the bucket."""

    def __init__(
        self, options: RunOptions, model: TrainedModel | None, jobs: Sequence[SlideJob]
    ) -> None:
        self._options = options
        self._order = {job.slide_id: place for place, job in enumerate(jobs)}
        self._began = time.monotonic()
        self._report = RunReport(
            command=shlex.join(["wsi-pipeline", *sys.argv[1:]]),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            config=options.config.model_dump(mode="json"),
            model={} if model is None else _describe(model),
            versions=package_versions(),
            outcomes=(),
        )

    def add(self, outcome: SlideOutcome) -> None:
        """Add what came of a slide."""
        outcomes = [*self._report.outcomes, outcome]
        outcomes.sort(key=lambda outcome: self._order[outcome.slide_id])
        self._report = replace(self._report, outcomes=tuple(outcomes))

    def close(self, means: Means) -> None:
        """Add where the time went."""
        wall = time.monotonic() - self._began
        timing = time_run(self._report.outcomes, wall, means)
        self._report = replace(self._report, timing=timing.to_dict())

    def publish(self) -> RunReport:
        """Write the report, where a person and where other parts of the run look for it."""
        options = self._options
        try:
            publish_report(options.out, self._report, options.share, options.bucket)
        except OSError as error:
            raise ConfigError(f"results cannot be written to {options.out}: {error}") from error
        return self._report


def _describe(model: TrainedModel) -> dict[str, Any]:
    return {
        **asdict(model.spec),
        "fingerprint": model.fingerprint,
        "trained_on": model.trained_on,
    }
