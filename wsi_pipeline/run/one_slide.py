"""One slide -> its results, in steps that can be taken on different machines.

A step reads what the one before it wrote, so that no pixels travel between them. Which slide is
next, and what is done about a bad one, is decided in ``slides.py``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.files import locked
from wsi_pipeline.predict.stored import predict_patches
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.results.export.parquet import read_predictions, write_predictions
from wsi_pipeline.results.pictures import draw_qc
from wsi_pipeline.results.views import PREDICTIONS_NAME, write_views
from wsi_pipeline.run.outcome import SlideOutcome, Status
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.store import PatchStore
from wsi_pipeline.store.find import STORE_NAME

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.slide.inputs import SlideJob
    from wsi_pipeline.types import Predictions, Progress, SlideRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideOptions:
    """How each slide of a run is done.

    Attributes
    ----------
    out : Path
        Folder of the run; the slide's own folder is made in it.
    config : PipelineConfig
        The configuration.
    workers : int
        Threads that read and unmix.
    overwrite : bool
        Replace patch stores that were made with another configuration.
    """

    out: Path
    config: PipelineConfig = field(default_factory=PipelineConfig)
    workers: int = 1
    overwrite: bool = False

    def folder(self, slide_id: str) -> Path:
        """Return the folder of a slide's results."""
        return self.out / slide_id


def prepare(job: SlideJob, options: SlideOptions, progress: Progress) -> SlideOutcome:
    """Make the patch store of a slide.

    Parameters
    ----------
    job : SlideJob
        The slide.
    options : SlideOptions
        Where and how.
    progress : Progress
        Told of every patch.

    Returns
    -------
    SlideOutcome
        The record, without predictions.

    Raises
    ------
    WsiPipelineError
        As :func:`~wsi_pipeline.preprocess.slide_store.preprocess_slide`, or if another process
        is at work on the same results.
    """
    folder = options.folder(job.slide_id)
    with locked(folder):
        made = preprocess_slide(
            job,
            folder / STORE_NAME,
            options.config,
            workers=options.workers,
            overwrite=options.overwrite,
            progress=progress,
        )
    store = made.store
    return SlideOutcome(
        slide_id=job.slide_id,
        path=str(job.path),
        status=Status.DONE if len(store) else Status.EMPTY,
        slide=asdict(store.slide),
        stain=_stain_record(store),
        funnel=store.funnel(),
        seconds=made.seconds,
        files=_relative({"patches": store.path}, options.out),
    )


def predict_prepared(
    outcome: SlideOutcome, options: SlideOptions, model: TrainedModel, progress: Progress
) -> SlideOutcome:
    """Send the patches of a prepared slide through a model and write the probabilities.

    Parameters
    ----------
    outcome : SlideOutcome
        What :func:`prepare` gave.
    options : SlideOptions
        Where and how.
    model : TrainedModel
        The model.
    progress : Progress
        Told of every patch.

    Returns
    -------
    SlideOutcome
        The record, with the predictions.

    Raises
    ------
    WsiPipelineError
        As :func:`predict_slide`.
    """
    watch = Stopwatch()
    folder = options.folder(outcome.slide_id)
    with locked(folder), watch.stage("prediction"):
        store = PatchStore.open(folder / STORE_NAME)
        predictions = predict_patches(store, model, options.config.predict, progress)
        table = folder / model.spec.name / PREDICTIONS_NAME
        write_predictions(table, predictions)
    return replace(
        outcome,
        class_shares=_class_shares(predictions),
        seconds=outcome.seconds | watch.seconds,
        device=_device(options),
        files=outcome.files | _relative({"predictions": table}, options.out),
    )


def predict_unstored(
    job: SlideJob, options: SlideOptions, model: TrainedModel, progress: Progress
) -> SlideOutcome:
    """Predict a slide straight from its file and export; nothing else is written.

    Parameters
    ----------
    job : SlideJob
        The slide.
    options : SlideOptions
        Where and how.
    model : TrainedModel
        The model.
    progress : Progress
        Told of every patch.

    Returns
    -------
    SlideOutcome
        The record, with predictions and files, as :func:`prepare`, :func:`predict_prepared` and
        :func:`finish` give it, but for the patches and their picture.

    Raises
    ------
    WsiPipelineError
        As :func:`wsi_pipeline.predict.unstored.predict_directly`.
    """
    # torch is loaded here, so that preprocessing does not wait for it
    from wsi_pipeline.predict.unstored import predict_directly

    watch = Stopwatch()
    folder = options.folder(job.slide_id) / model.spec.name
    with locked(folder.parent):
        done = predict_directly(
            job,
            model.module,
            model.spec,
            options.config,
            workers=options.workers,
            progress=progress,
        )
        with watch.stage("exports"):
            files = {"predictions": folder / PREDICTIONS_NAME}
            write_predictions(files["predictions"], done.predictions)
            files |= write_views(folder, done.patches, done.predictions)
    return SlideOutcome(
        slide_id=job.slide_id,
        path=str(job.path),
        status=Status.DONE if len(done.patches) else Status.EMPTY,
        slide=asdict(done.patches.slide),
        stain=_stain_record(done.patches),
        funnel=done.patches.funnel(),
        class_shares=_class_shares(done.predictions),
        seconds=done.seconds | watch.seconds,
        device=_device(options),
        files=_relative(files, options.out),
    )


def finish(outcome: SlideOutcome, options: SlideOptions) -> SlideOutcome:
    """Write what people and other programs look at, while other slides are at work.

    Parameters
    ----------
    outcome : SlideOutcome
        What :func:`prepare` or :func:`predict_prepared` gave.
    options : SlideOptions
        Where and how.

    Returns
    -------
    SlideOutcome
        The record, with all files.
    """
    watch = Stopwatch()
    folder = options.folder(outcome.slide_id)
    files = {"qc": folder / "qc.png"}
    with locked(folder), watch.stage("exports"):
        store = PatchStore.open(options.out / outcome.files["patches"])
        draw_qc(files["qc"], store)
        if "predictions" in outcome.files:
            table = options.out / outcome.files["predictions"]
            files |= write_views(table.parent, store, read_predictions(table))
    return replace(
        outcome,
        seconds=outcome.seconds | watch.seconds,
        files=outcome.files | _relative(files, options.out),
    )


def _relative(files: dict[str, Path], out: Path) -> dict[str, str]:
    return {name: path.relative_to(out).as_posix() for name, path in files.items()}


def _stain_record(store: SlideRecords) -> dict[str, Any]:
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


def _device(options: SlideOptions) -> str:
    from wsi_pipeline.inference import choose_devices

    return choose_devices(options.config.predict.device)[0].type
