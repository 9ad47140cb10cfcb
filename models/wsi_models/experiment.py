"""A recipe and patches -> a folder with the trained model, its evaluation and its records.

Puts the parts together; each part is a module of its own.

A run folder holds ``recipe.json``, ``split.json``, ``last.ckpt`` and ``best.ckpt``,
``history.json``, ``history.csv``, ``curves.png``, ``evaluation.json``, ``.md`` and ``.png`` of the
test part, and ``bundle`` where ``wsi-pipeline run`` can use the model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from wsi_models.atomic import replace_atomically
from wsi_models.checkpoint import load_checkpoint
from wsi_models.errors import TrainingError
from wsi_models.evaluate import Evaluation, evaluate_logits, write_evaluation
from wsi_models.methods import ClassMConfig, Method, MethodConfig, build_method
from wsi_models.parts.imagenet import WeightsError
from wsi_models.publish import publish_bundle
from wsi_models.recipe import Recipe, read_saved_recipe
from wsi_models.sources import Indices, PatchSource, fetch_ahead, predict_logits
from wsi_models.splits import PARTS, Split, load_split, split_by_group
from wsi_models.train import BEST_FILE, Progress, Task, train
from wsi_models.views import Normalisation, measure_normalisation
from wsi_models.views.geometry import require_room

RECIPE_FILE = "recipe.json"
SPLIT_FILE = "split.json"
BUNDLE_FOLDER = "bundle"

NORMALISATION_PATCHES = 2048
"""Training patches, drawn at random, that the normalisation is measured on."""

Part = Literal["validation", "test", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave.

    Attributes
    ----------
    progress : Progress
        How the training went.
    evaluation : Evaluation
        Of the test part; of the validation part where the split has no test part.
    part : str
        Which of the two.
    files : dict of str to Path
        What was written, by kind; ``bundle`` where there is one.
    """

    progress: Progress
    evaluation: Evaluation
    part: str
    files: dict[str, Path]


def launch(device: str = "auto", precision: str = "32-true") -> Fabric:
    """Set up device, precision and, under ``torchrun``, the processes.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``. Under ``torchrun`` each process takes its own.
    precision : str
        As in :class:`~wsi_models.train.TrainConfig`.

    Returns
    -------
    Fabric
        Launched.

    Raises
    ------
    TrainingError
        If there is no such device.
    """
    kind, _, index = device.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise TrainingError(f"there is no device {device!r} here; choose cpu, or auto")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // local
    fabric = Fabric(
        accelerator=kind,
        devices=[int(index)] if index and local == 1 else local,
        num_nodes=nodes,
        strategy="ddp" if local * nodes > 1 else "auto",
        precision=precision,  # type: ignore[arg-type] # checked by TrainConfig
    )
    fabric.launch()
    return fabric


def run_experiment(
    recipe: Recipe,
    source: PatchSource,
    out: Path,
    fabric: Fabric,
    *,
    resume: bool = False,
    split_file: Path | None = None,
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
    resume : bool
        Go on with the run in ``out``, with its split.
    split_file : Path or None
        A split to use instead of one that is drawn.

    Returns
    -------
    Outcome
        The training, the evaluation and the files.

    Raises
    ------
    TrainingError
        If recipe, data and an earlier run do not fit together.
    """
    split = _settle_split(recipe, source, out, resume=resume, split_file=split_file)
    method, normalisation = _build(recipe, source, split)
    if fabric.is_global_zero:
        split.save(out / SPLIT_FILE)
        with replace_atomically(out / RECIPE_FILE) as partial:
            partial.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
    task = Task(method=method, source=source, split=split, config=recipe.train, out=out)
    progress = train(task, fabric, resume=resume)
    part = "test" if len(split.test) else "validation"
    evaluation = _evaluate(method, source, getattr(split, part), fabric, recipe)
    files = {
        "split": out / SPLIT_FILE,
        "history": out / "history.csv",
        "curves": out / "curves.png",
    }
    if fabric.is_global_zero:
        title = f"{recipe.name}: {part} part"
        files |= write_evaluation(evaluation, out, title=title)
        bundle = publish_bundle(
            out / BUNDLE_FOLDER, recipe, task, progress, evaluation, normalisation
        )
        files |= {"bundle": bundle} if bundle is not None else {}
    return Outcome(progress=progress, evaluation=evaluation, part=part, files=files)


def evaluate_model(
    path: Path,
    source: PatchSource,
    out: Path,
    fabric: Fabric,
    *,
    indices: Indices | None = None,
    batch_size: int = 128,
) -> tuple[Evaluation, dict[str, Path]]:
    """Judge a trained model on labelled patches.

    Parameters
    ----------
    path : Path
        A bundle, or the folder of a run.
    source : PatchSource
        Patches whose classes are those of the model, in the same order.
    out : Path
        Folder for ``evaluation.json``, ``.md`` and ``.png``.
    fabric : Fabric
        From :func:`launch`.
    indices : ndarray of int64, or None
        Which patches; all that have a label if None.
    batch_size : int
        Patches in one forward pass.

    Returns
    -------
    Evaluation
        The figures.
    dict of str to Path
        The files, by kind.

    Raises
    ------
    TrainingError
        If the folder holds no model, or no patch has a label.
    """
    model = load_predictor(path)
    model.to(fabric.device)
    if indices is None:
        indices = np.flatnonzero(source.label >= 0).astype(np.int64)
    logits = predict_logits(fabric, model, source, indices, batch_size)
    evaluation = _judge(logits, source, indices)
    return evaluation, write_evaluation(evaluation, out, title=f"{path.name} on {out.name}")
