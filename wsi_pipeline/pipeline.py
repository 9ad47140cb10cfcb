"""Slides -> patch stores, predictions, heatmaps and a report: everything a run leaves on disk.

The stages are functions of other modules; here they are put in order, and this is the only module
that survives a bad slide.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.config import PipelineConfig, PredictConfig
from wsi_pipeline.errors import ConfigError, StoreError, StoreNotFoundError, WsiPipelineError
from wsi_pipeline.export.geojson import write_geojson
from wsi_pipeline.export.parquet import read_predictions, write_predictions
from wsi_pipeline.heatmap import paint_heatmap
from wsi_pipeline.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.pictures import draw_heatmap, draw_qc
from wsi_pipeline.preprocess import Stopwatch, preprocess_slide
from wsi_pipeline.report import write_report
from wsi_pipeline.store import PatchStore, package_versions
from wsi_pipeline.types import ModelSpec, NoProgress, Predictions, Progress

if TYPE_CHECKING:
    from torch import nn

    from wsi_pipeline.inputs import SlideJob

logger = logging.getLogger(__name__)

STORE_NAME = "patches.zarr"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A network that is ready to predict.

    Attributes
    ----------
    module : torch.nn.Module
        Takes (B, 2, P, P) normalised H/E patches and gives (B, K) logits.
    spec : ModelSpec
        What it expects and gives.
    fingerprint : str
        Hash of its weights.
    trained_on : str
        What it learnt from, in words: what it may be trusted with.
    """

    module: nn.Module
    spec: ModelSpec
    fingerprint: str
    trained_on: str


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
        Threads that read and unmix; the processor's cores if None.
    overwrite : bool
        Replace patch stores that were made with another configuration.
    """

    out: Path
    config: PipelineConfig = field(default_factory=PipelineConfig)
    workers: int | None = None
    overwrite: bool = False


def run_slides(
    jobs: Sequence[SlideJob],
    options: RunOptions,
    *,
    model: TrainedModel | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Process slides one after another and write the report; a bad slide does not stop the rest.

    Parameters
    ----------
    jobs : sequence of SlideJob
        The slides.
    options : RunOptions
        Where and how.
    model : TrainedModel or None
        Predicts too, if given; only patch stores are made otherwise.
    progress : Progress or None
        Told of slides and patches.

    Returns
    -------
    RunReport
        What came of each slide; also in ``run.json`` and ``index.html``.

    Raises
    ------
    ConfigError
        If the folder cannot be written.
    """
    progress = progress or NoProgress()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"results cannot be written to {options.out}: {error}") from error
    started = datetime.now(UTC).isoformat(timespec="seconds")
    outcomes: list[SlideOutcome] = []
    report = _write_report(options, model, started, outcomes)
    for number, job in enumerate(jobs, start=1):
        logger.info("slide %d of %d: %s", number, len(jobs), job.path)
        outcomes.append(_attempt(job, options, model, progress))
        # after each slide, so that an interrupted night leaves a report of what was done
        report = _write_report(options, model, started, outcomes)
    return report


def _write_report(
    options: RunOptions, model: TrainedModel | None, started: str, outcomes: Sequence[SlideOutcome]
) -> RunReport:
    report = RunReport(
        command=shlex.join(["wsi-pipeline", *sys.argv[1:]]),
        started=started,
        config=options.config.model_dump(mode="json"),
        model={} if model is None else _describe(model),
        versions=package_versions(),
        outcomes=tuple(outcomes),
    )
    report.write(options.out / "run.json")
    write_report(options.out / "index.html", report)
    return report


def _describe(model: TrainedModel) -> dict[str, Any]:
    return {
        **asdict(model.spec),
        "fingerprint": model.fingerprint,
        "trained_on": model.trained_on,
    }


def _attempt(
    job: SlideJob, options: RunOptions, model: TrainedModel | None, progress: Progress
) -> SlideOutcome:
    """Process one slide and record how it ended."""
    try:
        return _process(job, options, model, progress)
    except (WsiPipelineError, OSError) as error:
        logger.warning("%s failed: %s", job.path, error)
        return SlideOutcome(
            slide_id=job.slide_id, path=str(job.path), status=Status.FAILED, error=str(error)
        )


def _process(
    job: SlideJob, options: RunOptions, model: TrainedModel | None, progress: Progress
) -> SlideOutcome:
    watch = Stopwatch()
    folder = options.out / job.slide_id
    workers = options.workers or len(os.sched_getaffinity(0))
    made = preprocess_slide(
        job,
        folder / STORE_NAME,
        options.config,
        workers=workers,
        overwrite=options.overwrite,
        progress=progress,
    )
    store = made.store
    files = {"patches": folder / STORE_NAME, "qc": folder / "qc.png"}
    with watch.stage("pictures"):
        draw_qc(files["qc"], store)
    shares: dict[str, float] = {}
    if model is not None:
        with watch.stage("prediction and exports"):
            predicted = predict_slide(store, model, options.config.predict, progress=progress)
        files |= predicted.files
        shares = _class_shares(predicted.predictions)
    return SlideOutcome(
        slide_id=job.slide_id,
        path=str(job.path),
        status=Status.DONE if len(store) else Status.EMPTY,
        slide=asdict(store.slide),
        stain=_stain_record(store),
        funnel=store.funnel(),
        class_shares=shares,
        seconds=made.seconds | watch.seconds,
        files={name: str(path.relative_to(options.out)) for name, path in files.items()},
    )


def _stain_record(store: PatchStore) -> dict[str, Any]:
    stain = store.stain
    return {
        "verdict": stain.verdict,
        "reasons": list(stain.reasons),
        "pixel_count": stain.pixel_count,
        "matrix": stain.matrix.to_dict(),
    }


def _class_shares(predictions: Predictions) -> dict[str, float]:
    """Return the share of the tiles given to each class; empty without tiles."""
    if not len(predictions):
        return {}
    counts = np.bincount(predictions.label, minlength=len(predictions.class_names))
    return {
        name: float(count / len(predictions))
        for name, count in zip(predictions.class_names, counts, strict=True)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Predictions of one slide and the files they went to.

    Attributes
    ----------
    predictions : Predictions
        Class probabilities of every patch.
    files : dict of str to Path
        What was written, by kind.
    """

    predictions: Predictions
    files: dict[str, Path]


def predict_slide(
    store: PatchStore,
    model: TrainedModel,
    config: PredictConfig,
    *,
    progress: Progress | None = None,
) -> Predicted:
    """Send the patches of a store through a model and write everything that follows from it.

    Parameters
    ----------
    store : PatchStore
        The patches.
    model : TrainedModel
        The model; a folder named after it is made beside the store.
    config : PredictConfig
        Device, batch size, precision.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    Predicted
        The predictions and the files written: Parquet, GeoJSON and heatmap.

    Raises
    ------
    ModelMismatchError
        If the model was trained for other patches.
    StoreError
        If the tiles of the store form no lattice.
    """
    if store.grid.corners is not None:
        raise StoreError(
            f"{store.path} holds tiles that were laid in annotated areas, not on a lattice, so "
            f"they make no heatmap; preprocess the slide without --label-mode containment"
        )
    # torch is loaded here, so that preprocessing does not wait for it
    from wsi_pipeline.predict import predict_store

    predictions = predict_store(
        store, model.module, model.spec, config, progress=progress or NoProgress()
    )
    folder = store.path.parent / model.spec.name
    files = {
        "predictions": folder / "predictions.parquet",
        "geojson": folder / "predictions.geojson",
        "heatmap": folder / "heatmap.png",
    }
    write_predictions(files["predictions"], predictions)
    write_geojson(files["geojson"], predictions)
    draw_heatmap(files["heatmap"], store, paint_heatmap(predictions))
    return Predicted(predictions=predictions, files=files)


def redraw_heatmap(
    predictions: Path, store: Path, out: Path, *, class_name: str | None = None
) -> Path:
    """Draw the heatmap of predictions that were written before.

    Parameters
    ----------
    predictions : Path
        ``predictions.parquet`` of a slide.
    store : Path
        Its patch store, for thumbnail and scale.
    out : Path
        Picture to write, PNG.
    class_name : str or None
        Show this class's probability; the most probable class if None.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    ConfigError
        If there is no class of that name.
    """
    painted = paint_heatmap(read_predictions(predictions))
    if class_name is not None and class_name not in painted.class_names:
        raise ConfigError(
            f"there is no class {class_name!r}; choose one of {', '.join(painted.class_names)}"
        )
    draw_heatmap(out, PatchStore.open(store), painted, class_name=class_name)
    return out


def find_stores(paths: Sequence[Path]) -> list[PatchStore]:
    """Open patch stores, given themselves or by a folder of results.

    Parameters
    ----------
    paths : sequence of Path
        Stores, or folders with stores below them.

    Returns
    -------
    list of PatchStore
        Open stores, sorted by path within each folder.

    Raises
    ------
    StoreNotFoundError
        If a folder holds none.
    """
    found: list[PatchStore] = []
    for path in paths:
        below = [path] if (path / "zarr.json").exists() else sorted(path.rglob(STORE_NAME))
        if not below:
            raise StoreNotFoundError(
                f"there is no {STORE_NAME} in {path}; make one with 'wsi-pipeline preprocess'"
            )
        found.extend(PatchStore.open(store) for store in below)
    return found
