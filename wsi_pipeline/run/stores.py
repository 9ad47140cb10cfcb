"""Patch stores and a model -> predictions, on record in the folders of results they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.run.folder import (
    Crew,
    Monitor,
    NoMonitor,
    RunOptions,
    run_journeys,
)
from wsi_pipeline.run.plan import Planner
from wsi_pipeline.store.find import STORE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.run.journeys import Journey
    from wsi_pipeline.run.outcome import RunReport
    from wsi_pipeline.run.records import Records


def predict_stores(
    stores: Sequence[Path],
    options: RunOptions,
    *,
    model: TrainedModel,
    monitor: Monitor | None = None,
) -> dict[Path, RunReport]:
    """Predict patch stores as a run does: on record, and a bad one does not stop the rest.

    Parameters
    ----------
    stores : sequence of Path
        Stores of slides, each in the folder of its slide in a folder of results.
    options : RunOptions
        How; ``out`` is not used, since results lie beside the stores.
    model : TrainedModel
        The model.
    monitor : Monitor or None
        Told of slides and patches.

    Returns
    -------
    dict of Path to RunReport
        What came of the stores of each folder of results.

    Raises
    ------
    ConfigError
        If a store has another name, or its folder cannot be written.
    """
    foreign = [store for store in stores if store.name != STORE_NAME]
    if foreign:
        raise ConfigError(
            f"{foreign[0]} is no {STORE_NAME} in the folder of a slide, so there is no place for "
            f"its results; predict it by wsi_pipeline.predict_slide"
        )
    crew = Crew(
        model=model,
        monitor=monitor or NoMonitor(),
        last_stage="predict",
    )
    places = sorted({store.absolute().parent for store in stores})
    reports: dict[Path, RunReport] = {}
    for out, slides in groupby(places, key=lambda place: place.parent):
        names = [place.name for place in slides]
        of_folder = replace(options, out=out)

        def plan(
            records: Records, names: list[str] = names, options: RunOptions = of_folder
        ) -> list[Journey]:
            planner = Planner(records, options.of_slide(), model, None, store=True)
            return [planner.journey_of_store(name) for name in names]

        reports[out] = run_journeys(plan, of_folder, crew)
    return reports
