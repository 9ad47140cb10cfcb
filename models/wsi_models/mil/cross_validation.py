"""A recipe and bags -> a model judged by cross-validation, trained on all slides, and its records.

Puts the parts together; each part is a module of its own.

A run folder holds ``recipe.json``, ``predictions.csv`` (every slide, by the fold it tests),
``report.json``, ``.md`` and ``.png``, ``folds/<number>`` (the model of each fold) and ``model``
(trained on all slides, for use).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsi_files.whole import replace_atomically
from wsi_models.errors import TrainingError
from wsi_models.evaluate import write_evaluation
from wsi_models.metrics import Evaluation, evaluate_logits
from wsi_models.mil.folds import cut_validation, fold_by_patient
from wsi_models.mil.kept import Kept, NotKept
from wsi_models.mil.publish import publish_slide_model
from wsi_models.mil.report import (
    CrossValidation,
    FoldResult,
    write_cross_validation,
    write_slide_table,
)
from wsi_models.mil.train import Parts, decide, fit, predict_bags

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from wsi_models.mil.bags import Bags, Indices
    from wsi_models.mil.bundle import SlideModel
    from wsi_models.mil.config import MilRecipe
    from wsi_models.mil.epochs import Fitted, Progress

MODEL_FOLDER = "model"
FOLDS_FOLDER = "folds"
RECIPE_FILE = "recipe.json"
TABLE_FILE = "predictions.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    result : CrossValidation
        How good the model is.
    files : dict of str to Path
        What was written, by kind; ``model`` is for use.
    """

    result: CrossValidation
    files: dict[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidated:
    """A cross-validation of n slides and all it rests on.

    Attributes
    ----------
    result : CrossValidation
        How good the model is.
    fitted : tuple of Fitted
        The model of each fold.
    fold : ndarray of shape (n,), int64
        Index of the fold that each slide tests.
    prob : Tensor of shape (n, C)
        Of each slide, by the fold it tests.
    predicted : Tensor of shape (n,), int64
        What was decided for.
    """

    result: CrossValidation
    fitted: tuple[Fitted, ...]
    fold: Indices
    prob: Tensor
    predicted: Tensor


def cross_validate(
    recipe: MilRecipe,
    bags: Bags,
    device: torch.device,
    progress: Progress,
    kept: Kept | None = None,
) -> CrossValidated:
    """Train and test in turn on parts that share no patient.

    Parameters
    ----------
    recipe : MilRecipe
        What is done.
    bags : Bags
        The slides.
    device : torch.device
        Where to train.
    progress : Progress
        Told of every epoch.
    kept : Kept or None
        Keeps where each fold stands, and gives those that are done already.

    Returns
    -------
    CrossValidated
        Figures, models and predictions.

    Raises
    ------
    TrainingError
        If the slides cannot be divided, or a loss is no number.
    """
    config = recipe.train
    fold = fold_by_patient(bags.label, bags.patient, config.folds, seed=config.seed)
    progress.start("train folds", config.folds * config.epochs)
    fitted, results = [], []
    prob = torch.zeros((len(bags), len(bags.classes)))
    predicted = torch.zeros(len(bags), dtype=torch.int64)
    for number in range(config.folds):
        testing = np.flatnonzero(fold == number).astype(np.int64)
        parts = _cut(np.flatnonzero(fold != number).astype(np.int64), bags, recipe)
        work = partial(fit, recipe, bags, parts, device, progress)
        one = (kept or NotKept()).fit(f"fold-{number + 1}", work, progress)
        one.head.to(device)
        prob[testing] = predict_bags(one.head, bags, testing)
        predicted[testing] = decide(prob[testing], one.threshold)
        fitted.append(one)
        results.append(
            FoldResult(
                evaluation=_judge(prob[testing], predicted[testing], bags, testing),
                threshold=one.threshold,
                best_epoch=one.best_epoch,
                training=len(parts.training),
                validation=len(parts.validation),
            )
        )
    every = np.arange(len(bags), dtype=np.int64)
    pooled = _judge(prob, predicted, bags, every)
    return CrossValidated(
        result=CrossValidation(folds=tuple(results), pooled=pooled),
        fitted=tuple(fitted),
        fold=fold,
        prob=prob,
        predicted=predicted,
    )


def run_mil(
    recipe: MilRecipe, bags: Bags, out: Path, device: torch.device, progress: Progress
) -> Outcome:
    """Judge a model by cross-validation, train it on all slides, and keep all of it.

    Parameters
    ----------
    recipe : MilRecipe
        What is done.
    bags : Bags
        The slides.
    out : Path
        Folder of the run.
    device : torch.device
        Where to train.
    progress : Progress
        Told of every epoch.

    Returns
    -------
    Outcome
        The figures and the files.

    Raises
    ------
    TrainingError
        If there is a run in the folder, or the slides cannot be divided.

    Notes
    -----
    What is trained is kept in ``unfinished`` until the run is complete: the same again after an
    interruption goes on with the fold, and within it with the epoch.
    """
    require_empty(out)
    kept = Kept(out, recipe, bags)
    judged = cross_validate(recipe, bags, device, progress, kept)
    progress.start("train on all slides", recipe.train.epochs)
    parts = _cut(np.arange(len(bags), dtype=np.int64), bags, recipe)
    work = partial(fit, recipe, bags, parts, device, progress)
    final = kept.fit("all", work, progress)
    outcome = Outcome(result=judged.result, files=_write_run(out, recipe, bags, judged, final))
    kept.forget()
    return outcome


def require_empty(out: Path) -> None:
    """Refuse a folder that holds a run.

    Raises
    ------
    TrainingError
        If it does.
    """
    if (out / RECIPE_FILE).exists():
        raise TrainingError(f"{out} holds a run; choose another folder, or remove it")


def _write_run(
    out: Path, recipe: MilRecipe, bags: Bags, judged: CrossValidated, final: Fitted
) -> dict[str, Path]:
    files = {"recipe": out / RECIPE_FILE, "predictions": out / TABLE_FILE}
    fold = (judged.fold + 1).tolist()
    write_slide_table(files["predictions"], bags, judged.prob, judged.predicted, fold)
    title = f"{recipe.name}: {recipe.model.model}, {len(bags.classes)} classes"
    files |= write_cross_validation(judged.result, out, title=title, left_out=bags.left_out)
    for index, fitted in enumerate(judged.fitted):
        folder = out / FOLDS_FOLDER / str(index + 1)
        publish_slide_model(folder, recipe, bags, fitted, judged.result, index)
    files["model"] = out / MODEL_FOLDER
    publish_slide_model(files["model"], recipe, bags, final, judged.result)
    write_recipe(files["recipe"], recipe)
    return files


def write_recipe(path: Path, recipe: MilRecipe) -> None:
    """Write the recipe of a run, its last file: a folder that has it holds a complete run."""
    with replace_atomically(path) as partial:
        partial.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")


def evaluate_slide_model(
    model: SlideModel, bags: Bags, out: Path, *, title: str
) -> tuple[Evaluation, dict[str, Path]]:
    """Judge a trained model on labelled slides that it was not trained on.

    Parameters
    ----------
    model : SlideModel
        The model; its own threshold decides.
    bags : Bags
        The slides, with the classes of the model in the same order.
    out : Path
        Folder for ``evaluation.json``, ``.md``, ``.png`` and ``predictions.csv``.
    title : str
        What is evaluated on what.

    Returns
    -------
    Evaluation
        The figures.
    dict of str to Path
        The files, by kind.

    Raises
    ------
    BundleError
        If the features are not those that the model takes.
    """
    model.require(bags.feature_count, bags.encoder, bags.slide_ids[0])
    every = np.arange(len(bags), dtype=np.int64)
    prob = predict_bags(model.head, bags, every)
    predicted = decide(prob, model.config.threshold)
    evaluation = _judge(prob, predicted, bags, every)
    files = write_evaluation(evaluation, out, title=title, unit="slides")
    write_slide_table(out / TABLE_FILE, bags, prob, predicted, [0] * len(bags))
    return evaluation, {**files, "predictions": out / TABLE_FILE}


def _cut(training: Indices, bags: Bags, recipe: MilRecipe) -> Parts:
    config = recipe.train
    kept, validation = cut_validation(
        training, bags.label, bags.patient, config.validation, seed=config.seed
    )
    return Parts(training=kept, validation=validation)


def _judge(prob: Tensor, predicted: Tensor, bags: Bags, indices: Indices) -> Evaluation:
    label = torch.from_numpy(bags.label[indices])
    patient = [bags.patient[index] for index in indices]
    # the softmax of logarithms gives the probabilities back
    logits = prob.clamp_min(torch.finfo(prob.dtype).tiny).log()
    return evaluate_logits(logits, label, patient, bags.classes, predicted=predicted)
