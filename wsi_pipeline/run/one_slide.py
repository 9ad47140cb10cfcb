"""One slide -> its results, in steps that can be taken on different machines.

A step reads what the one before it wrote, so that no pixels travel between them, and adds to the
record of the slide what it left. Which slide is next, which steps it needs, and what is done about
a bad one, is decided in ``slides.py``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import StoreExistsError
from wsi_pipeline.files import (
    file_checksum,
    require_inside,
    restore_folder,
    set_aside,
    slide_folder,
)
from wsi_pipeline.predict.origin import with_origin
from wsi_pipeline.predict.stored import predict_patches
from wsi_pipeline.preprocess.slide_store import Preprocessed, preprocess_slide
from wsi_pipeline.results.export.parquet import read_predictions, write_predictions
from wsi_pipeline.results.pictures import draw_qc
from wsi_pipeline.results.views import PREDICTIONS_NAME, write_views
from wsi_pipeline.run.describe import (
    describe_areas,
    describe_predictions,
    describe_slide,
    join_doubts,
)
from wsi_pipeline.run.marks import Mark, Stage, find_damage, is_untouched, make_mark
from wsi_pipeline.run.outcome import SlideOutcome
from wsi_pipeline.run.work import (
    SlideOptions,
    agrees,
    exports_origin,
    model_origin,
    predictions_origin,
    store_origin,
)
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import slide_files
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.store import PatchStore, write_records
from wsi_pipeline.store.find import RECORDS_NAME, STORE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.types import Progress


def prepare(
    job: SlideJob, options: SlideOptions, earlier: SlideOutcome | None, progress: Progress
) -> SlideOutcome:
    """Make the patch store of a slide, or find that it is there.

    Parameters
    ----------
    job : SlideJob
        The slide.
    options : SlideOptions
        Where and how.
    earlier : SlideOutcome or None
        What is on record of its patches.
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
    StoreError
        If the store is damaged and ``overwrite`` is off.
    """
    folder = options.folder(job.slide_id)
    path = folder / STORE_NAME
    require_inside(options.out, path)
    mark = None if earlier is None else earlier.stages.get(Stage.STORE)
    with slide_folder(folder):
        restore_folder(path)
        origin = store_origin(job, options)
        origin["content"] = _content(job, origin, mark)
        with _making(path, options, origin, mark):
            made = preprocess_slide(
                job,
                path,
                options.config,
                workers=options.workers,
                overwrite=options.overwrite,
                progress=progress,
            )
            _check_reused(made, mark, options)
        origin["fingerprint"] = made.store.fingerprint
        files = options.relative({"patches": path})
        stages = {Stage.STORE.value: make_mark(options.out, origin, files)}
    return SlideOutcome(
        **describe_slide(job, made.store),
        seconds=made.seconds,
        files=files,
        stages=stages,
    )


def adopt(slide_id: str, options: SlideOptions, earlier: SlideOutcome | None) -> SlideOutcome:
    """Take a patch store for what it is, without its slide, once all of it was read.

    Parameters
    ----------
    slide_id : str
        Name of the slide's folder.
    options : SlideOptions
        Where the store is.
    earlier : SlideOutcome or None
        What is on record of it.

    Returns
    -------
    SlideOutcome
        The record, as :func:`prepare` gives it.

    Raises
    ------
    StoreError
        If the store is damaged.
    """
    folder = options.folder(slide_id)
    path = folder / STORE_NAME
    with slide_folder(folder):
        restore_folder(path)
        store = PatchStore.open(path)
        store.verify()
        origin = {"recipe": store.config_hash, "fingerprint": store.fingerprint}
        known = None if earlier is None else earlier.stages.get(Stage.STORE)
        if known is not None and agrees(origin, known):
            origin = known.made_from
        files = options.relative({"patches": path})
        stages = {Stage.STORE.value: make_mark(options.out, origin, files)}
    slide_path = "" if earlier is None else earlier.path
    facts = describe_slide(SlideJob(path=path, slide_id=slide_id), store)
    return SlideOutcome(**facts | {"path": slide_path}, files=files, stages=stages)


def _content(job: SlideJob, origin: dict[str, Any], mark: Mark | None) -> list[int]:
    """Return the checksums of the slide's files; those on record if the files are untouched.

    The fingerprint of a store rests on samples of the files, told in milliseconds. Read as a
    whole they are only once, when their pixels are read anyway.
    """
    if mark is not None and mark.made_from.get("source") == origin["source"]:
        known = mark.made_from.get("content")
        if isinstance(known, list):
            return known
    return [file_checksum(file) for file in slide_files(job.path)]


def _making(
    path: Path, options: SlideOptions, origin: dict[str, Any], mark: Mark | None
) -> AbstractContextManager[None]:
    """Decide what is done about a store that is there, before its slide is looked at."""
    changed = mark is not None and mark.made_from.get("content") not in (None, origin["content"])
    if changed and not options.overwrite and path.exists():
        raise StoreExistsError(
            f"{path} was made from another content of the slide file; pass --overwrite to replace "
            f"it or choose another output folder"
        )
    return set_aside(path) if options.redo or changed else nullcontext()


def _check_reused(made: Preprocessed, mark: Mark | None, options: SlideOptions) -> None:
    """Read a store that was found, unless it is as it was left; damage is an error."""
    found = not made.seconds
    if found and not (mark is not None and is_untouched(mark, options.out)):
        made.store.verify()


def predict_prepared(
    outcome: SlideOutcome,
    options: SlideOptions,
    model: TrainedModel,
    earlier: SlideOutcome | None,
    progress: Progress,
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
    earlier : SlideOutcome or None
        What is on record of the slide and model.
    progress : Progress
        Told of every patch.

    Returns
    -------
    SlideOutcome
        The record, with the predictions.

    Raises
    ------
    WsiPipelineError
        As :func:`~wsi_pipeline.run.one_store.predict_slide`.
    """
    watch = Stopwatch()
    folder = options.folder(outcome.slide_id)
    origin = predictions_origin(model, options, outcome.stages[Stage.STORE])
    table = folder / model.spec.name / PREDICTIONS_NAME
    require_inside(options.out, table.parent)
    with slide_folder(folder):
        if earlier is not None and _is_sound(earlier, Stage.PREDICTIONS, origin, options):
            predictions = read_predictions(table)
        else:
            with watch.stage("prediction"):
                store = PatchStore.open(folder / STORE_NAME)
                predictions = predict_patches(store, model, options.config.predict, progress)
                write_predictions(table, predictions)
        files = options.relative({"predictions": table})
        mark = make_mark(options.out, origin, files)
    return replace(
        outcome,
        **describe_predictions(predictions, model, options),
        doubts=join_doubts(outcome.doubts, predictions),
        seconds=outcome.seconds | watch.seconds,
        files=outcome.files | files,
        stages=outcome.stages | {Stage.PREDICTIONS.value: mark},
    )


def _is_sound(
    earlier: SlideOutcome, stage: Stage, origin: dict[str, Any], options: SlideOptions
) -> bool:
    """Tell whether files that were touched, copied for instance, are nevertheless those made."""
    mark = earlier.stages.get(stage)
    if options.redo or mark is None or not agrees(origin, mark):
        return False
    return not find_damage(mark, options.out)


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
    require_inside(options.out, folder)
    with slide_folder(folder.parent):
        origin = unstored_origin(job, options, model)
        done = predict_directly(
            job,
            model.module,
            model.spec,
            options.config,
            workers=options.workers,
            progress=progress,
        )
        predictions = with_origin(model.judged(done.predictions), done.patches, model)
        table = {
            "predictions": folder / PREDICTIONS_NAME,
            "records": folder.parent / RECORDS_NAME,
        }
        with watch.stage("exports"):
            write_predictions(table["predictions"], predictions)
            write_records(table["records"], done.patches.header)
            views = write_views(folder, done.patches, predictions, options.config.results)
        stages = {
            Stage.PREDICTIONS.value: make_mark(options.out, origin, options.relative(table)),
            Stage.EXPORTS.value: make_mark(
                options.out, exports_origin(origin, options), options.relative(views)
            ),
        }
    described = describe_slide(job, done.patches)
    return SlideOutcome(
        **{**described, "doubts": join_doubts(described["doubts"], predictions)},
        **describe_predictions(predictions, model, options),
        **describe_areas(done.patches, predictions, options),
        seconds=done.seconds | watch.seconds,
        files=options.relative(table | views),
        stages=stages,
    )


def unstored_origin(job: SlideJob, options: SlideOptions, model: TrainedModel) -> dict[str, Any]:
    """Tell what decides predictions that are made without a store."""
    return {**model_origin(model, options), **store_origin(job, options)}


def finish(outcome: SlideOutcome, options: SlideOptions) -> SlideOutcome:
    """Write what people and other programs look at, while other slides are at work.

    Parameters
    ----------
    outcome : SlideOutcome
        What :func:`prepare` or :func:`predict_prepared` gave. What its stages say is finished is
        not written again.
    options : SlideOptions
        Where and how.

    Returns
    -------
    SlideOutcome
        The record, with all files.
    """
    watch = Stopwatch()
    folder = options.folder(outcome.slide_id)
    files: dict[str, str] = {}
    stages: dict[str, Mark] = {}
    areas: dict[str, Any] = {}
    with slide_folder(folder), watch.stage("exports"):
        store = PatchStore.open(options.out / outcome.files["patches"])
        if Stage.QC not in outcome.stages:
            files |= options.relative(draw_qc(folder / "qc.png", store))
            origin = outcome.stages[Stage.STORE].made_from
            stages[Stage.QC.value] = make_mark(options.out, origin, files)
        if Stage.PREDICTIONS in outcome.stages and Stage.EXPORTS not in outcome.stages:
            table = options.out / outcome.files["predictions"]
            predictions = read_predictions(table)
            views = options.relative(
                write_views(table.parent, store, predictions, options.config.results)
            )
            areas = describe_areas(store, predictions, options)
            origin = exports_origin(outcome.stages[Stage.PREDICTIONS].made_from, options)
            stages[Stage.EXPORTS.value] = make_mark(options.out, origin, views)
            files |= views
    return replace(
        outcome,
        **areas,
        seconds=outcome.seconds | watch.seconds,
        files=outcome.files | files,
        stages=outcome.stages | stages,
    )
