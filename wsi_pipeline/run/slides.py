"""A list of slides -> the results of each and the report of their folder; survives bad slides.

The steps of a slide are functions of ``one_slide.py``. Slides are prepared while others are
predicted, on processes or a cluster, with the same files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.run.bucket import Bucket
from wsi_pipeline.run.folder import (
    Crew,
    Monitor,
    NoMonitor,
    RunOptions,
    run_journeys,
)
from wsi_pipeline.run.lanes import Lane
from wsi_pipeline.run.plan import Planner

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.run.journeys import Journey
    from wsi_pipeline.run.outcome import RunReport
    from wsi_pipeline.run.records import Records
    from wsi_pipeline.slide.job import SlideJob

__all__ = ["Monitor", "NoMonitor", "RunOptions", "run_slides"]


def run_slides(
    jobs: Sequence[SlideJob],
    options: RunOptions,
    *,
    model: TrainedModel | None = None,
    monitor: Monitor | None = None,
) -> RunReport:
    """Process slides and write the report of their folder; a bad slide does not stop the rest.

    While a slide is predicted, the next is prepared, and the one before is exported. What is on
    record as finished is not done again.

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
        What came of each of these slides. ``run.json``, ``index.html`` and ``summary.csv`` show
        all slides of the folder.

    Raises
    ------
    ConfigError
        If the folder or the bucket cannot be written.
    SchedulerError
        If the Dask scheduler cannot be reached.
    """
    if model is None and not options.store:
        raise ConfigError("a run without a model leaves nothing if it keeps no patches; keep them")

    def plan(records: Records) -> list[Journey]:
        of_slide = options.of_slide()
        bucket = None if options.bucket is None else Bucket(options.bucket, of_slide)
        planner = Planner(records, of_slide, model, bucket, store=options.store)
        return [planner.journey(job) for job in options.share.of(jobs)]

    crew = Crew(
        model=model,
        monitor=monitor or NoMonitor(),
        last_stage="patches" if model is None else "predict",
        decodes=Lane.PREPARE if options.store else Lane.PREDICT,
    )
    return run_journeys(plan, options, crew)
