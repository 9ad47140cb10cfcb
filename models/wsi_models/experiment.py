"""A recipe and patches -> a folder with the trained model, its evaluation and its records.

Puts the parts together; each part is a module of its own.

A run folder holds ``recipe.json``, ``split.json``, ``last.ckpt`` and ``best.ckpt``,
``history.json``, ``history.csv``, ``curves.png``, ``evaluation.json``, ``.md`` and ``.png`` of the
test part, and ``bundle`` where ``wsi-pipeline run`` can use the model.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsi_files.whole import replace_atomically
from wsi_models.errors import TrainingError
from wsi_models.evaluate import write_evaluation
from wsi_models.familiarity import Familiarity, measure_familiarity
from wsi_models.judging import class_logits, nearest_logits, thin_out
from wsi_models.listening import Listener, Silent
from wsi_models.methods import Method, build_method
from wsi_models.metrics import Evaluation, evaluate_logits
from wsi_models.parts.imagenet import WeightsError
from wsi_models.publish import Learned, publish_bundle
from wsi_models.recipe import RECIPE_FILE, Recipe, differing_keys, read_saved_recipe
from wsi_models.run_state import LAST_FILE
from wsi_models.sources import Indices, PatchSource, fetch_ahead, predict_features, predict_logits
from wsi_models.split_gaps import describe_gaps
from wsi_models.splits import Split, load_split, split_by_group
from wsi_models.task import Progress, Task
from wsi_models.train import check, train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from wsi_models.predictor import Predictor
    from wsi_models.views import Normalisation

SPLIT_FILE = "split.json"
BUNDLE_FOLDER = "bundle"
RECORDS = {
    "recipe": RECIPE_FILE,
    "split": SPLIT_FILE,
    "history": "history.csv",
    "curves": "curves.png",
}

BATCH = 128
"""Patches in one pass where nothing else is asked for."""

FAMILIAR_PATCHES = 1024
"""Patches, drawn at random, that the lie of the features is measured on."""

NORMALISATION_PATCHES = 2048
"""Training patches, drawn at random, that the normalisation is measured on."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    progress : Progress
        How the training went.
    evaluation : Evaluation or None
        Of the test part; of the validation part where the split has no test part. None where no
        patch has a label.
    part : str
        Which of the two.
    files : dict of str to Path
        What was written, by kind; ``bundle`` where there is one.
    """

    progress: Progress
    evaluation: Evaluation | None
    part: str
    files: dict[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a run begins.

    Attributes
    ----------
    resume : bool
        Go on with the run in the folder, with its split.
    split_file : Path or None
        A split to use instead of one that is drawn.
    listener : Listener
        Told how the training goes.
    """

    resume: bool = False
    split_file: Path | None = None
    listener: Listener = field(default_factory=Silent)


def run_experiment(
    recipe: Recipe, source: PatchSource, out: Path, fabric: Fabric, start: Start | None = None
) -> Outcome:
    """Divide patches, train, evaluate, and keep all of it.

    Parameters
    ----------
    recipe : Recipe
        What is done.
    source : PatchSource
        The patches.
    out : Path
        Run folder.
    fabric : Fabric
        From :func:`launch`.
    start : Start or None
        A new run with a new split if None.

    Returns
    -------
    Outcome
        The training, the evaluation and the files.

    Raises
    ------
    TrainingError
        If recipe, data and an earlier run do not fit together.
    """
    recipe, start = recipe.settled(), start or Start()
    if not (out / LAST_FILE).exists():
        start = replace(start, resume=False)  # nothing was trained, whatever was written
    if start.resume:
        _require_same_recipe(recipe, out)
    split = _settle_split(recipe, source, out, start)
    method, normalisation = _build(recipe, source, split)
    task = Task(
        method=method,
        source=source,
        split=split,
        config=recipe.train,
        out=out,
        listener=start.listener,
    )
    check(task, resume=start.resume)
    if fabric.is_global_zero:
        split.save(out / SPLIT_FILE)
        with replace_atomically(out / RECIPE_FILE) as partial:
            partial.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
    progress = train(task, fabric, resume=start.resume)
    part = "test" if len(split.test) else "validation"
    indices = split.test if len(split.test) else split.validation
    evaluation = None
    if source.classes:
        parts = (split.labelled, indices)
        logits = class_logits(fabric, method, source, parts, recipe.train.evaluation_batch)
        evaluation = _judge(logits, source, indices)
    familiarity = _measure_familiarity(task, fabric, indices)
    files = {name: out / file for name, file in RECORDS.items()}
    if fabric.is_global_zero:
        if evaluation is not None:
            files |= write_evaluation(evaluation, out, title=f"{recipe.name}: {part} part")
        folder = out / BUNDLE_FOLDER
        learned = Learned(evaluation, normalisation, familiarity)
        if publish_bundle(folder, recipe, task, progress, learned):
            files["bundle"] = folder
    return Outcome(progress=progress, evaluation=evaluation, part=part, files=files)


def evaluate_model(
    model: Predictor,
    source: PatchSource,
    out: Path,
    fabric: Fabric,
    *,
    indices: Indices | None = None,
    title: str = "evaluation",
) -> tuple[Evaluation, dict[str, Path]]:
    """Judge a trained model on labelled patches.

    Parameters
    ----------
    model : Predictor
        From :func:`wsi_models.predictor.load_predictor`.
    source : PatchSource
        Patches whose classes are those of the model, in the same order.
    out : Path
        Folder for ``evaluation.json``, ``.md`` and ``.png``.
    fabric : Fabric
        From :func:`launch`.
    indices : ndarray of int64, or None
        Which patches; all that have a label if None.
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
    TrainingError
        If the classes differ, or no patch has a label.
    """
    if model.judged_by == "neighbours":
        raise TrainingError(
            "the model was trained without labels and tells clusters apart, not classes; judge "
            "its features by nearest neighbours (evaluate --neighbours --split SPLIT.json)"
        )
    if source.classes != model.class_names:
        raise TrainingError(
            f"the model tells {', '.join(model.class_names)} apart, the patches have "
            f"{', '.join(source.classes)}; map the labels to the classes of the model"
        )
    if indices is None:
        indices = np.flatnonzero(source.label >= 0).astype(np.int64)
    logits = predict_logits(fabric, model.to(fabric.device), source, indices, BATCH)
    evaluation = _judge(logits, source, indices)
    return evaluation, write_evaluation(evaluation, out, title=title)


def evaluate_features(
    model: Predictor,
    source: PatchSource,
    out: Path,
    fabric: Fabric,
    *,
    parts: tuple[Indices, Indices],
    title: str = "evaluation",
) -> tuple[Evaluation, dict[str, Path]]:
    """Judge the features of a trained model by the nearest neighbour of each patch.

    Parameters
    ----------
    model, source, out, fabric, title
        As in :func:`evaluate_model`; any classes.
    parts : tuple of ndarray of int64
        Labelled patches to compare with, and labelled patches to judge, of other groups.

    Returns
    -------
    Evaluation
        The figures.
    dict of str to Path
        The files, by kind.

    Raises
    ------
    TrainingError
        If one of the parts is empty.
    """
    if not all(map(len, parts)):
        raise TrainingError(
            f"{len(parts[0])} labelled patches to compare with and {len(parts[1])} to judge; "
            "neighbours need both, so check the split and the label map"
        )
    logits = nearest_logits(fabric, model.to(fabric.device), source, parts, BATCH)
    evaluation = _judge(logits, source, parts[1])
    return evaluation, write_evaluation(evaluation, out, title=title)


def _measure_familiarity(task: Task, fabric: Fabric, others: Indices) -> Familiarity:
    """Find where features of training patches lie, and how many of other groups lie beyond."""
    source, split, seed = task.source, task.split, task.config.seed
    training = np.concatenate([split.labelled, split.unlabelled])
    size = task.config.evaluation_batch
    parts = [thin_out(part, FAMILIAR_PATCHES, seed) for part in (training, others)]
    features = [
        predict_features(fabric, task.method, source, part, size)
        if len(part)
        else torch.empty((0, 1))
        for part in parts
    ]
    output = predict_logits(fabric, task.method, source, parts[0], size).argmax(dim=1)
    return measure_familiarity(features[0], output, features[1])


def _judge(logits: Tensor, source: PatchSource, indices: Indices) -> Evaluation:
    group = np.asarray(source.group, dtype=str)[indices]
    label = torch.from_numpy(source.label[indices])
    return evaluate_logits(logits, label, group.tolist(), source.classes)


def _require_same_recipe(recipe: Recipe, out: Path) -> None:
    """Refuse to go on with a run by another recipe than it was begun with."""
    if not (out / RECIPE_FILE).exists():
        return
    changed = differing_keys(recipe, read_saved_recipe(out / RECIPE_FILE).settled())
    if changed:
        raise TrainingError(
            f"{out} was begun with another recipe: {', '.join(changed)}; go on with the recipe of "
            "the run (only its epochs and patience may change, where no schedule follows them), "
            "or train anew in another folder"
        )


def _settle_split(recipe: Recipe, source: PatchSource, out: Path, start: Start) -> Split:
    """Take the split of the run that goes on, the one given, or draw one."""
    saved = out / SPLIT_FILE
    file = saved if start.resume and saved.exists() else start.split_file
    seed = recipe.train.seed
    if file is None:
        drawn = split_by_group(source.label, source.group, recipe.split, seed=seed)
        if recipe.method.needs_labels:
            _report_gaps(drawn, source, recipe)
        return drawn
    return load_split(file, source.label, source.group, recipe.split, seed=seed)


def _report_gaps(split: Split, source: PatchSource, recipe: Recipe) -> None:
    """Refuse a split that cannot be trained or judged with, and warn of classes left untested."""
    errors, warnings = describe_gaps(
        split, source.label, source.group, source.classes, recipe.split
    )
    if errors:
        raise TrainingError("; ".join(errors))
    for warning in warnings:
        logger.warning("%s", warning)


def _build(
    recipe: Recipe, source: PatchSource, split: Split
) -> tuple[Method, Normalisation | None]:
    """Build the method with its starting weights, which the seed of the recipe decides."""
    config = recipe.method
    if not source.classes and config.needs_labels:
        raise TrainingError(
            f"no store has a label, which {config.method} needs; annotate slides and preprocess "
            "them with --labels, ingest labelled images, or train clusiam or clubyol"
        )
    try:
        config.views.require_room(source.patch_px)
        normalisation = config.measure(fetch_ahead(source, _sample(split, recipe.train.seed)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed)
            return build_method(config, len(source.classes), normalisation), normalisation
    except (ValueError, WeightsError) as error:
        raise TrainingError(f"{recipe.name} cannot be trained: {error}") from error


def _sample(split: Split, seed: int) -> list[Indices]:
    """Draw training patches to measure the normalisation on, in order of reading."""
    training = np.concatenate([split.labelled, split.unlabelled])
    chosen = np.random.default_rng(seed).permutation(training)[:NORMALISATION_PATCHES]
    return np.array_split(np.sort(chosen), max(1, len(chosen) // BATCH))
