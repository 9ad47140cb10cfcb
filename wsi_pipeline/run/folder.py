"""Slides that were planned -> what came of each, on record and shown while they are under way.

Opens the lanes, the log and the records of a run, and closes them however it ends. What is done
with a slide is planned by ``slides.py`` and ``stores.py``.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import require_folder, require_inside
from wsi_pipeline.run.journeys import Journey, Traffic
from wsi_pipeline.run.lanes import Lane, StepNews, ThreadLane, WorkLane
from wsi_pipeline.run.log import logging_to
from wsi_pipeline.run.outcome import RunReport, SlideOutcome
from wsi_pipeline.run.processes import ProcessLane
from wsi_pipeline.run.records import Records
from wsi_pipeline.run.remote import RemoteFolder
from wsi_pipeline.run.report import RECORD_NAME, Publisher
from wsi_pipeline.run.timing import Means, time_run
from wsi_pipeline.run.work import SlideOptions
from wsi_pipeline.slide.job import Share
from wsi_pipeline.store import package_versions

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedEncoder, TrainedModel

logger = logging.getLogger(__name__)


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
        Replace patch stores that were made with another configuration or are damaged.
    redo : bool
        Do everything anew, also what is on record as finished.
    store : bool
        Keep the patches of each slide in a store. Without, slides go straight through the model.
    slides_at_once : int
        Slides prepared at a time on this machine, each in a process of its own.
    ahead : int
        Slides that may wait, prepared, besides those under way: what a disk has to hold of slides
        that are not finished.
    scheduler : str or None
        Address of a Dask scheduler whose workers do everything. They see the same files under
        the same names as this process.
    names : Path or None
        Table of pseudonyms of the slides, if they have any: command and log, which tell names, are
        kept beside it instead of among the results.
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
    redo: bool = False
    store: bool = True
    slides_at_once: int = 1
    ahead: int = 1
    scheduler: str | None = None
    names: Path | None = None
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
            redo=self.redo,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """What a run works with besides its options.

    Attributes
    ----------
    model : TrainedModel, TrainedEncoder or None
        Predicts or encodes, if given.
    monitor : Monitor
        Told of slides and patches.
    last_stage : str
        Stage that ends each slide, for the monitor.
    decodes : Lane
        The last lane in which slides are decoded; it and those before it are processes, which may
        die of a slide.
    """

    model: TrainedModel | TrainedEncoder | None
    monitor: Monitor
    last_stage: str
    decodes: Lane = Lane.PREPARE


def run_journeys(
    plan: Callable[[Records], Sequence[Journey]], options: RunOptions, crew: Crew
) -> RunReport:
    """Do the slides that a plan makes of the records of a folder.

    Parameters
    ----------
    plan : callable
        Takes the records and gives the slides, in order.
    options : RunOptions
        Where and how.
    crew : Crew
        Who does it.

    Returns
    -------
    RunReport
        What came of each slide of the plan.

    Raises
    ------
    ConfigError
        If the folder or the bucket cannot be written.
    SchedulerError
        If the Dask scheduler cannot be reached.
    """
    records = Records(options.out, None if options.bucket is None else RemoteFolder(options.bucket))
    report = _begin(records, options, crew.model)
    journeys = plan(records)
    order = {journey.slide_id: place for place, journey in enumerate(journeys)}
    began = time.monotonic()
    outcomes: list[SlideOutcome] = []
    publisher = Publisher(records)
    try:
        with (
            logging_to(_log_file(records, report, options)) as log,
            _open_lanes(options, crew, log, alone=len(journeys) == 1) as lanes,
        ):
            crew.monitor.begin(len(journeys), crew.last_stage, lanes.dashboard)
            traffic = Traffic(records, lanes.by_name, options.ahead, report.run)
            for outcome in traffic.outcomes(journeys):
                outcomes.append(outcome)
                crew.monitor.finished(outcome)
                if not outcome.reused:
                    publisher.soon()
            outcomes.sort(key=lambda outcome: order[outcome.slide_id])
            means = _means(options, lanes)
        timing = time_run([o for o in outcomes if not o.reused], time.monotonic() - began, means)
        report = replace(report, timing=timing.to_dict(), outcomes=tuple(outcomes))
        records.write_run(report)
    finally:
        # also of a run that is interrupted, so that a person finds what was done
        publisher.now()
    return report


def _log_file(records: Records, report: RunReport, options: RunOptions) -> Path:
    name = records.log_file(report.run)
    return name if options.names is None else options.names.with_name(name.name)


def _begin(
    records: Records, options: RunOptions, model: TrainedModel | TrainedEncoder | None
) -> RunReport:
    """Open the records of a folder and put on record that a run begins."""
    now = datetime.now(UTC)
    share = options.share
    report = RunReport(
        command="" if options.names else shlex.join(["wsi-pipeline", *sys.argv[1:]]),
        started=now.isoformat(timespec="microseconds"),
        config=options.config.model_dump(mode="json"),
        model={} if model is None else _describe(model),
        versions=package_versions(),
        outcomes=(),
        run=f"{now:%Y%m%d-%H%M%S}-{socket.gethostname()}-{os.getpid()}-{share.index}",
        share=(share.index, share.count),
        where="" if options.names else os.fspath(Path.cwd()),
    )
    require_folder(options.out)
    require_inside(options.out, records.folder)
    try:
        records.adopt(options.out / RECORD_NAME)
        records.fetch()
        records.write_run(report)
    except OSError as error:
        raise ConfigError(f"results cannot be written to {options.out}: {error}") from error
    return report


def _describe(model: TrainedModel | TrainedEncoder) -> dict[str, Any]:
    return {
        **asdict(model.spec),
        "fingerprint": model.fingerprint,
        "trained_on": model.trained_on,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lanes:
    by_name: dict[Lane, WorkLane]
    dashboard: str | None


@contextmanager
def _open_lanes(
    options: RunOptions, crew: Crew, log: Path | None, *, alone: bool
) -> Iterator[_Lanes]:
    """Open what does the work; whatever still runs at the end is stopped."""
    with ExitStack() as stack:
        if options.scheduler is not None:
            yield _cluster_lanes(options.scheduler, crew, stack)
            return
        tell = crew.monitor.tell

        def open_lane(lane: Lane, width: int, shared: object = None) -> WorkLane:
            return stack.enter_context(
                closing(ProcessLane(lane.value, width, tell, shared=shared, log=log))
            )

        prepare = open_lane(Lane.PREPARE, options.slides_at_once)
        if crew.decodes is Lane.PREDICT:
            predict = open_lane(Lane.PREDICT, 1, crew.model)
        else:
            predict = stack.enter_context(closing(ThreadLane("predict", tell, crew.model)))
        # one slide does nothing at the same time: a second process would only have to start
        finish = prepare if alone else open_lane(Lane.FINISH, 1)
        by_name = {Lane.PREPARE: prepare, Lane.PREDICT: predict, Lane.FINISH: finish}
        yield _Lanes(by_name=by_name, dashboard=None)


def _cluster_lanes(address: str, crew: Crew, stack: ExitStack) -> _Lanes:
    # dask is loaded where it is needed, so that a small run starts at once
    from wsi_pipeline.run.cluster import PREDICTOR, DaskWorkers, connected

    client = stack.enter_context(connected(address))
    workers = DaskWorkers(client, crew.monitor.tell, shared=crew.model)
    stack.enter_context(closing(workers))
    by_name = {
        Lane.PREPARE: workers.lane(),
        Lane.PREDICT: workers.lane(priority=2, resource=PREDICTOR),
        Lane.FINISH: workers.lane(priority=1),
    }
    return _Lanes(by_name=dict(by_name), dashboard=client.dashboard_link)


def _means(options: RunOptions, lanes: _Lanes) -> Means:
    return Means(
        workers=options.of_slide().workers,
        cores=len(os.sched_getaffinity(0)),
        slides_at_once=lanes.by_name[Lane.PREPARE].width,
        predictors=lanes.by_name[Lane.PREDICT].width,
        cluster=options.scheduler is not None,
    )
