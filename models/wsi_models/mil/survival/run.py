"""A recipe and a cohort -> risks judged by folds of patients, a model of all, and its records.

A run folder is laid out as that of classes: ``recipe.json``, ``predictions.csv`` (every patient,
by the fold it tests), ``report.json``, ``.md`` and ``.png``, ``folds/<number>`` and ``model``.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wsi_files.tables import text_cell
from wsi_files.whole import replace_atomically
from wsi_models.bundle import TrainingFacts
from wsi_models.curves import draw_survival
from wsi_models.errors import TrainingError
from wsi_models.mil.bundle import SlideModelConfig, save_slide_model
from wsi_models.mil.cross_validation import (
    FOLDS_FOLDER,
    MODEL_FOLDER,
    RECIPE_FILE,
    TABLE_FILE,
    require_empty,
    write_recipe,
)
from wsi_models.mil.folds import cut_validation, fold_by_patient
from wsi_models.mil.kept import Kept
from wsi_models.mil.survival.cox import concordance, concordance_interval, kaplan_meier
from wsi_models.mil.survival.train import fit_survival, risks
from wsi_models.mil.train import Parts

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from wsi_models.mil.bags import Indices
    from wsi_models.mil.config import MilRecipe
    from wsi_models.mil.epochs import Fitted, Progress
    from wsi_models.mil.survival.cohort import Cohort

GROUPS = ("lower risk", "higher risk")
"""Patients below and above the median risk of those that trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalFold:
    """How one fold came out: concordance of the patients that test, and how it was trained."""

    concordance: float
    pairs: int
    patients: int
    events: int
    training: int
    validation: int
    best_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalResult:
    """How well a model orders patients it was not trained on.

    Attributes
    ----------
    folds : tuple of SurvivalFold
        One per fold.
    concordance, low, high : float
        Over all pairs of patients of one fold, and its 95 % interval over resampled patients.
    """

    folds: tuple[SurvivalFold, ...]
    concordance: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalOutcome:
    """What a run gave: how good the model is, and the files, by kind."""

    result: SurvivalResult
    files: dict[str, Path]


def run_survival(
    recipe: MilRecipe, cohort: Cohort, out: Path, device: torch.device, progress: Progress
) -> SurvivalOutcome:
    """Judge a model of risk by folds of patients, train it on all, and keep all of it.

    Parameters
    ----------
    recipe : MilRecipe
        What is done.
    cohort : Cohort
        The patients.
    out : Path
        Folder of the run.
    device : torch.device
        Where to train.
    progress : Progress
        Told of every epoch.

    Returns
    -------
    SurvivalOutcome
        The figures and the files.

    Raises
    ------
    TrainingError
        If there is a run in the folder, the model has a loss of instances, or the patients cannot
        be divided.

    Notes
    -----
    As in :func:`~wsi_models.mil.cross_validation.run_mil`, the same again after an interruption
    goes on where it stopped.
    """
    if recipe.model.model == "clam-sb":
        raise TrainingError(
            "clam-sb clusters instances by class, and survival has none; choose abmil, dsmil, mean "
            "or max"
        )
    require_empty(out)
    kept = Kept(out, recipe, cohort.bags, repr(cohort.time.tolist()))
    count = recipe.train.folds
    fold = fold_by_patient(cohort.bags.label, cohort.bags.patient, count, seed=recipe.train.seed)
    progress.start("train folds", count * recipe.train.epochs)
    risk = np.zeros(len(cohort.bags))
    higher = np.zeros(len(cohort.bags), dtype=bool)
    folds, fitted = [], []
    for number in range(count):
        testing = np.flatnonzero(fold == number).astype(np.int64)
        parts = _cut(np.flatnonzero(fold != number).astype(np.int64), cohort, recipe)
        work = partial(fit_survival, recipe, cohort, parts, device, progress)
        one = kept.fit(f"fold-{number + 1}", work, progress)
        one.head.to(device)
        found = risks(one.head, cohort, testing)
        risk[testing] = found.double().numpy()
        higher[testing] = (found.sigmoid() >= one.threshold).numpy()
        folds.append(_describe_fold(risk, cohort, testing, parts, one))
        fitted.append(one)
    together = concordance_interval(risk, cohort.time, cohort.event, fold, seed=recipe.train.seed)
    result = SurvivalResult(
        folds=tuple(folds), concordance=together[0], low=together[1], high=together[2]
    )
    progress.start("train on all patients", recipe.train.epochs)
    parts = _cut(np.arange(len(cohort.bags), dtype=np.int64), cohort, recipe)
    final = kept.fit(
        "all", partial(fit_survival, recipe, cohort, parts, device, progress), progress
    )
    files = _write_records(out, recipe, cohort, result, (risk, higher, fold))
    for index, one in enumerate(fitted):
        _publish(out / FOLDS_FOLDER / str(index + 1), recipe, cohort, one, result, index)
    files["model"] = out / MODEL_FOLDER
    _publish(files["model"], recipe, cohort, final, result)
    write_recipe(files["recipe"], recipe)
    kept.forget()
    return SurvivalOutcome(result=result, files=files)


def _cut(training: Indices, cohort: Cohort, recipe: MilRecipe) -> Parts:
    bags, config = cohort.bags, recipe.train
    kept, validation = cut_validation(
        training, bags.label, bags.patient, config.validation, seed=config.seed
    )
    return Parts(training=kept, validation=validation)


def _describe_fold(
    risk: NDArray[np.float64], cohort: Cohort, testing: Indices, parts: Parts, one: Fitted
) -> SurvivalFold:
    event = cohort.event[testing]
    value, pairs = concordance(risk[testing], cohort.time[testing], event)
    return SurvivalFold(
        concordance=value,
        pairs=pairs,
        patients=len(testing),
        events=int(event.sum()),
        training=len(parts.training),
        validation=len(parts.validation),
        best_epoch=one.best_epoch,
    )


def _write_records(
    out: Path,
    recipe: MilRecipe,
    cohort: Cohort,
    result: SurvivalResult,
    found: tuple[NDArray[np.float64], NDArray[np.bool_], Indices],
) -> dict[str, Path]:
    risk, higher, fold = found
    kinds = {kind: out / f"report.{kind}" for kind in ("json", "md", "png")}
    files = {"recipe": out / RECIPE_FILE, "predictions": out / TABLE_FILE, **kinds}
    title = f"{recipe.name}: {recipe.model.model}, survival"
    report = {**asdict(result), "left_out": list(cohort.bags.left_out)}
    _write_text(files["json"], json.dumps(report, indent=1) + "\n")
    _write_text(files["md"], describe(result, cohort, title))
    _write_table(files["predictions"], cohort, risk, higher, fold)
    curves = {
        f"{name} ({int(which.sum())})": kaplan_meier(cohort.time[which], cohort.event[which])
        for name, which in zip(GROUPS, (~higher, higher), strict=True)
    }
    heading = f"{title}\nconcordance {result.concordance:.3f} [{result.low:.3f}, {result.high:.3f}]"
    draw_survival(files["png"], curves, [fold.concordance for fold in result.folds], heading)
    return files


def describe(result: SurvivalResult, cohort: Cohort, title: str) -> str:
    """Write the figures as Markdown."""
    bags = cohort.bags
    lines = [
        f"# {title}", "",
        f"{len(bags)} patients, {int(cohort.event.sum())} events, in {len(result.folds)} folds by "
        "patient; no patient trains and tests, and no epoch is chosen on patients that test.", "",
        f"Concordance **{result.concordance:.4f}**, 95 % interval {result.low:.4f} to "
        f"{result.high:.4f} (patients resampled; pairs within folds). 0.5 is chance.", "",
        "| fold | train | select | test | events | pairs | epoch | concordance |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {number} | {fold.training} | {fold.validation} | {fold.patients} | {fold.events} | "
        f"{fold.pairs} | {fold.best_epoch} | {fold.concordance:.4f} |"
        for number, fold in enumerate(result.folds, start=1)
    ]
    if bags.left_out:
        lines += ["", f"Left out, without features: {', '.join(bags.left_out)}."]
    return "\n".join([*lines, ""])


def _write_table(
    path: Path,
    cohort: Cohort,
    risk: NDArray[np.float64],
    higher: NDArray[np.bool_],
    fold: Indices,
) -> None:
    with replace_atomically(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
        table = csv.writer(f)
        table.writerow(["patient", "fold", "time", "event", "risk", "group"])
        for index, patient in enumerate(cohort.bags.patient):
            fate = [f"{cohort.time[index]:g}", int(cohort.event[index])]
            judged = [f"{risk[index]:.6f}", GROUPS[int(higher[index])]]
            table.writerow([text_cell(patient), int(fold[index]) + 1, *fate, *judged])


def _write_text(path: Path, text: str) -> None:
    with replace_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _publish(
    folder: Path,
    recipe: MilRecipe,
    cohort: Cohort,
    fitted: Fitted,
    result: SurvivalResult,
    fold: int | None = None,
) -> None:
    """Write the model of a fold, or that of all patients."""
    bags = cohort.bags
    if fold is None:
        used, value = f"all {len(bags)} patients", result.concordance
        judged = "folds of patients; this model itself was not tested"
    else:
        used, value = f"the patients outside fold {fold + 1}", result.folds[fold].concordance
        judged = f"the patients of fold {fold + 1}"
    metrics = {"concordance": value} if np.isfinite(value) else {}
    config = SlideModelConfig(
        name=recipe.name,
        target="survival",
        model=recipe.model,
        feature_count=bags.feature_count,
        encoder=bags.encoder,
        class_names=GROUPS,
        threshold=fitted.threshold,
        training=TrainingFacts(
            loss="negative partial likelihood of Cox's model",
            data=f"{used}; {int(cohort.event.sum())} events in all",
            seed=recipe.train.seed,
            metrics=metrics,
        ),
    )
    # what a run that was killed had published is published anew
    save_slide_model(folder, config, fitted.head, _card(config, recipe, judged), overwrite=True)


def _card(config: SlideModelConfig, recipe: MilRecipe, judged: str) -> str:
    figures = "".join(f"{name}: {value:.4f}\n" for name, value in config.training.metrics.items())
    return f"""# {config.name}

The risk of a patient ({config.model.model}) from {config.feature_count} features per patch: the
logarithm of the hazard in Cox's model, up to a constant.

**Data.** {config.training.data}. Its licence and its limits are those of that data.

**Results**, by {judged}. {figures}
**Limits.** A risk orders patients like those of the training; it is no probability and no time.
Attention says where a model looked, not where disease is. Not for diagnosis.

## Recipe

```json
{recipe.model_dump_json(indent=1)}
```
"""
