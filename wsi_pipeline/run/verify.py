"""A folder of results -> what in it is damaged or missing, and the command that redoes just that.

Reads every byte that carries a checksum: patch stores, files on record, records, models. What is
damaged is taken off its record, so that the next run does not take it for finished.
"""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import FeaturesError, ReportError, StoreError
from wsi_pipeline.models import check_model, find_models
from wsi_pipeline.run.marks import Stage, find_damage
from wsi_pipeline.run.outcome import Status
from wsi_pipeline.run.records import Records
from wsi_pipeline.run.remote import RemoteFolder
from wsi_pipeline.store import PatchStore, StoreRecords
from wsi_pipeline.store.features import read_features
from wsi_pipeline.store.find import RECORDS_NAME, STORE_NAME

if TYPE_CHECKING:
    from wsi_pipeline.run.marks import Mark
    from wsi_pipeline.run.outcome import RunReport, SlideOutcome
    from wsi_pipeline.types import Progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Something that is damaged or missing.

    Attributes
    ----------
    file : str
        Which file or folder.
    reason : str
        What is wrong with it.
    redo : str
        Command that makes it anew.
    """

    file: str
    reason: str
    redo: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found in a folder.

    Attributes
    ----------
    slides : int
        Slides on record.
    files : int
        Files, stores and trained models that were read.
    unfinished : tuple of str
        Slides that failed or are not finished; no damage.
    damage : tuple of Damage
        What is wrong.
    """

    slides: int
    files: int
    unfinished: tuple[str, ...]
    damage: tuple[Damage, ...]


def verify_folder(out: Path, progress: Progress, bucket: str | None = None) -> Verified:
    """Read everything in a folder of results against its checksums.

    Parameters
    ----------
    out : Path
        Folder of a run, of features, of a training, or of a copy of one.
    progress : Progress
        Told of every record.
    bucket : str or None
        ``s3://bucket/prefix`` of the results; ``out`` is then where one slide at a time lies while
        it is read.

    Returns
    -------
    Verified
        What was found.

    Raises
    ------
    ReportError
        If nothing was ever on record there, and there is neither a store nor a model.
    """
    records = Records(out, None if bucket is None else RemoteFolder(bucket))
    records.fetch()
    outcomes = records.all()
    stores = _stores_off_record(out, outcomes)
    models = find_models(out)
    if not (outcomes or stores or models or records.damaged()):
        raise ReportError(
            f"{bucket or out} is no folder of results: it has no records, stores or models"
        )
    runs = {run.run: run for run in records.runs()}
    progress.start("verify", len(outcomes) + len(stores) + len(models))
    damage = list(_damaged_records(records, out))
    known: dict[str, str | None] = {}
    for slide_id, own in groupby(outcomes, key=lambda outcome: outcome.slide_id):
        with _at_hand(records, slide_id):
            for outcome in own:
                damage += _damage_of(records, outcome, runs, known)
                progress.advance()
    for name, reason, redo in chain(_check_stores(out, stores), _check_models(models)):
        if reason is not None:
            damage.append(Damage(file=name, reason=reason, redo=redo))
        progress.advance()
    if bucket is not None:
        damage = [replace(d, reason=d.reason.replace(str(out), bucket)) for d in damage]
    return Verified(
        slides=len({outcome.slide_id for outcome in outcomes}),
        files=len(known) + len(stores) + len(models),
        unfinished=_unfinished(outcomes),
        damage=tuple(damage),
    )


@contextmanager
def _at_hand(records: Records, slide_id: str) -> Iterator[None]:
    """Have the results of a slide here while the block runs, if they are in a bucket."""
    if records.remote is None:
        yield
        return
    folder = records.out / slide_id
    try:
        records.remote.download(slide_id, folder)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_stores(out: Path, stores: list[str]) -> Iterator[tuple[str, str | None, str]]:
    redo = f"wsi-pipeline preprocess SLIDE --out {shlex.quote(str(out))} --overwrite"
    for store in stores:
        yield store, _check_store(out / store), redo


def _check_models(models: list[Path]) -> Iterator[tuple[str, str | None, str]]:
    redo = "copy the model again from where it was made, or train it again into another folder"
    for model in models:
        yield str(model), check_model(model), redo


def _stores_off_record(out: Path, outcomes: list[SlideOutcome]) -> list[str]:
    known = {name for outcome in outcomes for mark in outcome.stages.values() for name in mark.left}
    there = sorted(path.relative_to(out).as_posix() for path in out.glob(f"*/{STORE_NAME}"))
    return [name for name in there if name not in known]


def _unfinished(outcomes: list[SlideOutcome]) -> tuple[str, ...]:
    bad = (Status.FAILED, Status.UNFINISHED)
    return tuple(sorted({o.slide_id for o in outcomes if o.status in bad}))


def _damaged_records(records: Records, out: Path) -> Iterator[Damage]:
    for file in records.damaged():
        misplaced = file.is_dir()
        yield Damage(
            file=file.relative_to(out).as_posix(),
            reason="a folder is in the place of a record"
            if misplaced
            else "the record does not agree with its checksum",
            redo=("remove the folder, then " if misplaced else "") + "the same command as before",
        )


def _check(
    records: Records, outcome: SlideOutcome, stage: str, mark: Mark, known: dict[str, str | None]
) -> list[tuple[str, str, str]]:
    """Check what a stage left; damage takes the stage off the record, and is told of once."""
    new = {name: then for name, then in mark.left.items() if name not in known}
    damaged = find_damage(replace(mark, left=new), records.out)
    for name in new:
        known[name] = damaged.get(name) or _check_folder(records.out / name)
    if any(known[name] is not None for name in mark.left):
        _take_off(records, outcome, stage)
    return [(stage, name, reason) for name in new if (reason := known[name]) is not None]


def _damage_of(
    records: Records,
    outcome: SlideOutcome,
    runs: dict[str, RunReport],
    known: dict[str, str | None],
) -> list[Damage]:
    return [
        _explain(records.out, outcome, runs, *problem)
        for name, mark in outcome.stages.items()
        for problem in _check(records, outcome, name, mark, known)
    ]


def _take_off(records: Records, outcome: SlideOutcome, stage: str) -> None:
    record = records.read(outcome.slide_id, outcome.model)
    if record is None:
        return
    stages = {key: value for key, value in record.stages.items() if key != stage}
    try:
        records.write(replace(record, stages=stages))
    except OSError as error:
        logger.warning("the record of %s stays as it is: %s", outcome.slide_id, error)


def _check_folder(path: Path) -> str | None:
    """Read the folder of a store or of features; files have been read by their checksums."""
    if not path.is_dir():
        return None
    if path.name == STORE_NAME:
        return _check_store(path)
    if path.name == RECORDS_NAME:
        return _check_store(path, StoreRecords)
    try:
        read_features(path)
    except FeaturesError as error:
        return str(error)
    return None


def _check_store(path: Path, kind: type[StoreRecords] = PatchStore) -> str | None:
    try:
        kind.open(path).verify()
    except StoreError as error:
        return str(error)
    return None


def _explain(
    out: Path,
    outcome: SlideOutcome,
    runs: dict[str, RunReport],
    stage: str,
    name: str,
    reason: str,
) -> Damage:
    only = f"--only {shlex.quote(outcome.slide_id)}"
    flags = f"{only} --overwrite" if stage == Stage.STORE else only
    run = runs.get(outcome.run)
    if run is not None and run.command:
        redo = f"cd {shlex.quote(run.where)} && {run.command} {flags}"
    else:
        redo = f"the command that made {out}, with {flags}"
    return Damage(file=name, reason=reason, redo=redo)
