"""A slide and what is on record of it -> the steps that are left, in the order of the flow."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wsi_pipeline.run.journeys import Journey, Leg
from wsi_pipeline.run.lanes import Lane
from wsi_pipeline.run.marks import Mark, Stage
from wsi_pipeline.run.outcome import SlideOutcome, Status
from wsi_pipeline.run.work import (
    exports_origin,
    finished_stages,
    model_origin,
    predictions_origin,
    store_origin,
)

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.run.bucket import Bucket
    from wsi_pipeline.run.lanes import Tools
    from wsi_pipeline.run.records import Records
    from wsi_pipeline.run.work import SlideOptions
    from wsi_pipeline.slide.job import SlideJob


class Planner:
    """Plans the slides of a run.

    Parameters
    ----------
    records : Records
        What is on record.
    options : SlideOptions
        How each slide is done.
    model : TrainedModel or None
        Predicts, if given.
    bucket : Bucket or None
        Where results go, if not to the folder of the run.
    store : bool
        Keep the patches.
    """

    def __init__(
        self,
        records: Records,
        options: SlideOptions,
        model: TrainedModel | None,
        bucket: Bucket | None,
        *,
        store: bool,
    ) -> None:
        self._records = records
        self._options = options
        self._model = model
        self._bucket = bucket
        self._plan = self._stored if store else self._unstored

    def journey(self, job: SlideJob) -> Journey:
        """Plan a slide."""
        return Journey(job.slide_id, partial(self._plan, job), job.redaction)

    def journey_of_store(self, slide_id: str) -> Journey:
        """Plan a slide whose patch store is there, without its file."""
        return Journey(slide_id, partial(self._adopted, slide_id))

    def _adopted(self, slide_id: str) -> tuple[SlideOutcome, list[Leg]]:
        assert self._model is not None
        patches = self._records.read(slide_id)
        marks = {} if patches is None else patches.stages
        start = SlideOutcome(slide_id=slide_id, path="", status=Status.EMPTY)
        origins = {
            stage: marks[stage].made_from for stage in (Stage.STORE, Stage.QC) if stage in marks
        }
        done = finished_stages(patches, origins, self._options.out)
        legs: list[Leg] = []
        if Stage.STORE in done and patches is not None:
            start = replace(_sound(patches), stages=done, seconds={})
        else:
            step = partial(_adopt, slide_id, self._options, patches, self._model.spec.name)
            legs.append(Leg(Lane.PREPARE, step))
        start, found = self._predicted(slide_id, start)
        legs += [] if found else [self._to_predict(slide_id)]
        if legs or not {Stage.QC, Stage.EXPORTS} <= start.stages.keys():
            legs.append(Leg(Lane.FINISH, partial(_finish, self._options)))
        return start, legs

    def _stored(self, job: SlideJob) -> tuple[SlideOutcome, list[Leg]]:
        """Plan by way of a patch store."""
        patches = self._records.read(job.slide_id)
        start = self._start(job)
        done = self._finished(patches, self._origins(job, Stage.STORE, Stage.QC))
        legs: list[Leg] = []
        if Stage.STORE in done and patches is not None:
            start = replace(_sound(patches), stages=done, seconds={})
        else:
            legs += self._to_prepare(job, patches)
        if self._model is None:
            needed = {Stage.STORE, Stage.QC}
        else:
            start, found = self._predicted(job.slide_id, start)
            legs += [] if found else [self._to_predict(job.slide_id)]
            needed = {Stage.STORE, Stage.QC, Stage.PREDICTIONS, Stage.EXPORTS}
        if legs or not needed <= start.stages.keys():
            legs.append(Leg(Lane.FINISH, partial(_finish, self._options)))
        return start, self._to_bucket(job, patches, legs, fetch=Stage.STORE in done)

    def _unstored(self, job: SlideJob) -> tuple[SlideOutcome, list[Leg]]:
        """Plan straight from the file to predictions."""
        assert self._model is not None
        record = self._records.read(job.slide_id, self._model.spec.name)
        wanted = self._origins(job, Stage.PREDICTIONS)
        of_model = model_origin(self._model, self._options)
        done = {}
        if wanted:
            origin = of_model | wanted[Stage.PREDICTIONS]
            done = self._finished(record, self._with_exports(origin))
        if record is not None and len(done) == 2:
            return _sound(record), []
        step = partial(_predict_unstored, job, self._options)
        legs = [Leg(Lane.PREDICT, step)]
        return self._start(job), self._to_bucket(job, None, legs, fetch=False)

    def _start(self, job: SlideJob) -> SlideOutcome:
        return SlideOutcome(
            slide_id=job.slide_id,
            path=job.shown,
            status=Status.EMPTY,
        )

    def _origins(self, job: SlideJob, *stages: Stage) -> dict[Stage, dict[str, Any]]:
        """Tell what decides the slide's own stages; nothing is known of files that are missing."""
        try:
            origin = store_origin(job, self._options)
        except OSError:
            return {}
        return dict.fromkeys(stages, origin)

    def _finished(
        self, record: SlideOutcome | None, origins: dict[Stage, dict[str, Any]]
    ) -> dict[str, Mark]:
        if self._options.redo:
            return {}
        return finished_stages(
            record, origins, None if self._bucket is not None else self._options.out
        )

    def _predicted(self, slide_id: str, start: SlideOutcome) -> tuple[SlideOutcome, bool]:
        """Add what is on record of the model, and say whether the predictions are."""
        assert self._model is not None
        store = start.stages.get(Stage.STORE)
        if store is None:
            return start, False
        start = replace(start, model=self._model.spec.name)
        record = self._records.read(slide_id, self._model.spec.name)
        if record is None:
            return start, False
        origin = predictions_origin(self._model, self._options, store)
        done = self._finished(record, self._with_exports(origin))
        if Stage.PREDICTIONS not in done:
            return start, False
        merged = replace(
            _sound(record),
            files=start.files | record.files,
            stages=start.stages | done,
        )
        return merged, True

    def _with_exports(self, origin: dict[str, Any]) -> dict[Stage, dict[str, Any]]:
        return {Stage.PREDICTIONS: origin, Stage.EXPORTS: exports_origin(origin, self._options)}

    def _to_prepare(self, job: SlideJob, patches: SlideOutcome | None) -> list[Leg]:
        legs = []
        if self._bucket is not None:
            legs.append(Leg(Lane.PREPARE, partial(_fetch, self._bucket, job, patches)))
        model = "" if self._model is None else self._model.spec.name
        step = partial(_prepare, job, self._options, patches, model)
        return [*legs, Leg(Lane.PREPARE, step)]

    def _to_predict(self, slide_id: str) -> Leg:
        assert self._model is not None
        record = self._records.read(slide_id, self._model.spec.name)
        return Leg(Lane.PREDICT, partial(_predict, self._options, record))

    def _to_bucket(
        self, job: SlideJob, patches: SlideOutcome | None, legs: list[Leg], *, fetch: bool
    ) -> list[Leg]:
        """Surround the legs of a slide by those to and from the bucket."""
        if self._bucket is None or not legs:
            return legs
        first = [Leg(Lane.PREPARE, partial(_fetch, self._bucket, job, patches))] if fetch else []
        return [*first, *legs, Leg(Lane.FINISH, partial(_upload, self._bucket, patches))]


def _sound(record: SlideOutcome) -> SlideOutcome:
    """Return a record as it is when what is left to do succeeds."""
    status = Status.DONE if record.funnel.get("kept") else Status.EMPTY
    return replace(record, status=status, error=None, kind="", hint="")


def _fetch(
    bucket: Bucket,
    job: SlideJob,
    patches: SlideOutcome | None,
    outcome: SlideOutcome,
    tools: Tools,
) -> SlideOutcome:
    bucket.fetch_store(job, patches)
    return outcome


def _prepare(
    job: SlideJob,
    options: SlideOptions,
    earlier: SlideOutcome | None,
    model: str,
    outcome: SlideOutcome,
    tools: Tools,
) -> SlideOutcome:
    from wsi_pipeline.run.one_slide import prepare

    # from here on the record is that of slide and model
    return replace(prepare(job, options, earlier, tools.progress), model=model)


def _adopt(
    slide_id: str,
    options: SlideOptions,
    earlier: SlideOutcome | None,
    model: str,
    outcome: SlideOutcome,
    tools: Tools,
) -> SlideOutcome:
    from wsi_pipeline.run.one_slide import adopt

    return replace(adopt(slide_id, options, earlier), model=model)


def _predict(
    options: SlideOptions, earlier: SlideOutcome | None, outcome: SlideOutcome, tools: Tools
) -> SlideOutcome:
    from wsi_pipeline.run.one_slide import predict_prepared

    return predict_prepared(outcome, options, tools.shared(), earlier, tools.progress)


def _predict_unstored(
    job: SlideJob, options: SlideOptions, outcome: SlideOutcome, tools: Tools
) -> SlideOutcome:
    from wsi_pipeline.run.one_slide import predict_unstored

    return predict_unstored(job, options, tools.shared(), tools.progress)


def _finish(options: SlideOptions, outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
    from wsi_pipeline.run.one_slide import finish

    return finish(outcome, options)


def _upload(
    bucket: Bucket, earlier: SlideOutcome | None, outcome: SlideOutcome, tools: Tools
) -> SlideOutcome:
    return bucket.move(outcome, earlier)
