"""A finished training run -> the bundle that ``wsi-pipeline run`` uses, with its card.

What a bundle holds is the business of :mod:`wsi_models.bundle`.
"""

from __future__ import annotations

import colorsys
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsi_models.bundle import BundleConfig, TrainingFacts, save_bundle
from wsi_models.networks.description import without_weights

if TYPE_CHECKING:
    from wsi_models.familiarity import Familiarity
    from wsi_models.methods import Method
    from wsi_models.metrics import Evaluation
    from wsi_models.recipe import Recipe
    from wsi_models.task import Progress, Task
    from wsi_models.views import Normalisation

logger = logging.getLogger(__name__)

SAFE_COLORS = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#f0e442", "#cc79a7", "#4d4d4d",
)  # fmt: skip
"""Okabe and Ito's (2008), those that are least like hematoxylin and eosin first; the pictures of
labelled slides have the same in the same order."""

FEW_CLASSES = 12
"""Classes at most whose colours are spaced evenly around the circle of hues."""

GOLDEN_TURN = (5**0.5 - 1) / 2
"""Step around the circle of hues that keeps any number of neighbours apart."""

CARD_EPOCHS = 25
"""Rows of the history in a card, evenly spaced over the epochs."""


class Learned(NamedTuple):
    """What was found out about a trained model.

    Attributes
    ----------
    evaluation : Evaluation or None
        How good it is on patches it was not trained on; None where none has a label.
    normalisation : Normalisation or None
        Of the training set; None for methods on RGB.
    familiarity : Familiarity
        Where the features of the training set lie.
    """

    evaluation: Evaluation | None
    normalisation: Normalisation | None
    familiarity: Familiarity


def publish_bundle(
    folder: Path,
    recipe: Recipe,
    task: Task,
    progress: Progress,
    learned: Learned,
) -> Path | None:
    """Write the bundle of a trained method.

    Parameters
    ----------
    folder : Path
        The folder to make, or to replace.
    recipe : Recipe
        What was done.
    task : Task
        The method with its best weights, and its patches.
    progress : Progress
        How the training went.
    learned : Learned
        What was found out about the model and its training set.

    Returns
    -------
    Path or None
        The folder; None where the model cannot be a bundle, with the reason in the log.
    """
    if not recipe.method.is_servable:
        logger.warning(
            "%s: no bundle, since slides are not stored with the channels or the stain matrix of "
            "this ablation; 'wsi-pipeline evaluate' takes the run folder instead",
            recipe.name,
        )
        return None
    source = task.source
    mean, std = recipe.method.statistics(learned.normalisation)
    names = task.method.output_names(source.classes)
    colors = _colors(recipe, task.method)
    config = BundleConfig(
        name=recipe.name,
        method=recipe.method.method,
        network=without_weights(recipe.method.network()),
        class_names=names,
        class_colors=colors,
        mpp=source.mpp,
        patch_px=recipe.method.views.patch_px,
        stain_convention=source.stain_convention,
        mean=mean,
        std=std,
        training=TrainingFacts(
            loss=recipe.method.describe_loss(),
            data=_describe_data(recipe, task),
            seed=recipe.train.seed,
            metrics=_metrics(progress, learned.evaluation),
        ),
        familiarity=learned.familiarity,
    )
    card = write_card(recipe, task, progress, learned.evaluation)
    save_bundle(folder, config, task.method.export_network(), card, overwrite=True)
    return folder


def class_colors(count: int) -> tuple[str, ...]:
    """Choose ``count`` colours: up to eight that people with any colour vision tell apart.

    More are by turns dark and light, and neighbours differ in hue.
    """
    if count <= len(SAFE_COLORS):
        return SAFE_COLORS[:count]
    step = 1 / count if count <= FEW_CLASSES else GOLDEN_TURN
    return tuple(
        "#" + "".join(f"{round(255 * part):02x}" for part in _rgb(index * step % 1, index % 2))
        for index in range(count)
    )


def write_card(
    recipe: Recipe, task: Task, progress: Progress, evaluation: Evaluation | None
) -> str:
    """Write the model card in Markdown, with the history of loss and learning rate."""
    return f"""# {recipe.name}

{_describe_outputs(task)}

**Data.** {_describe_data(recipe, task)} Its licence and its limits are those of that data.

**Training.** Method `{recipe.method.method}`, seed {recipe.train.seed}; epoch {progress.best_epoch}
of {progress.epoch} was kept, {_describe_choice(progress)}.

{_describe_results(task, evaluation)}

## History

{_history_table(progress.history)}

## Recipe

```json
{recipe.model_dump_json(indent=1)}
```
"""


def _metrics(progress: Progress, evaluation: Evaluation | None) -> dict[str, float]:
    if evaluation is None or progress.best_accuracy is None:
        return {}
    return {"validation_balanced_accuracy": progress.best_accuracy, **evaluation.headline()}


def _describe_choice(progress: Progress) -> str:
    if progress.best_accuracy is None:
        return "the last, since no patch has a label to choose by"
    return (
        "with the highest balanced accuracy on the validation groups\n"
        f"({progress.best_accuracy:.4f})"
    )


def _describe_results(task: Task, evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return (
            "**Results.** None: no patch has a label to judge the features by. Not for diagnosis."
        )
    figures = "\n".join(
        f"| {_plain(name)} | {value:.4f} |" for name, value in evaluation.headline().items()
    )
    recalls = ", ".join(
        f"{name} {'without patches' if recall is None else format(recall, '.3f')}"
        for name, recall in zip(evaluation.classes, evaluation.recall, strict=True)
    )
    where = f"{evaluation.count} patches of {len(evaluation.groups)} groups not trained on"
    return f"""**Results** on {where}{_describe_judging(task)}:

| figure | value |
|---|---|
{figures}

Recall: {recalls}.

**Limits.** Measured on tissue like that it was trained on, and on nothing else. Not for
diagnosis."""


def _colors(recipe: Recipe, method: Method) -> tuple[str, ...]:
    """Take the colours of the recipe, which are those of labels, or choose them."""
    if recipe.classes.colors and method.judged_by == "logits":
        return recipe.classes.colors
    chosen = dict(zip(method.output_order(), class_colors(method.classes), strict=True))
    return tuple(chosen[output] for output in range(method.classes))


def _describe_outputs(task: Task) -> str:
    if task.method.judged_by == "logits":
        return f"Classes: {', '.join(task.source.classes)}."
    return (
        f"Trained without labels. The outputs are {task.method.classes} clusters, most of them "
        "empty, which stand for no class; the features are what it was trained for."
    )


def _describe_judging(task: Task) -> str:
    if task.method.judged_by == "logits":
        return ""
    classes = ", ".join(task.source.classes)
    return (
        f", told apart ({classes}) by the class of the labelled training patch with the nearest "
        "features, by cosine; confidences are not calibrated"
    )


def _describe_data(recipe: Recipe, task: Task) -> str:
    about = "" if recipe.images is None else f"{recipe.images.about} "
    return f"{about}{_describe_parts(task)}"


def _describe_parts(task: Task) -> str:
    split, source = task.split, task.source
    if not source.classes:
        groups = len(split.groups["train"])
        return f"{len(split.unlabelled)} patches of {groups} groups, none with a label."
    counts = np.bincount(source.label[split.labelled], minlength=len(source.classes))
    labels = ", ".join(
        f"{name} {count}" for name, count in zip(source.classes, counts.tolist(), strict=True)
    )
    return (
        f"{len(split.labelled)} labelled patches ({labels}) and {len(split.unlabelled)} unlabelled "
        f"ones of {len(split.groups['train'])} groups; {len(split.validation)} patches of "
        f"{len(split.groups['validation'])} groups to validate, {len(split.test)} of "
        f"{len(split.groups['test'])} to test."
    )


def _history_table(history: list[dict[str, Any]]) -> str:
    """Write some epochs as a Markdown table, the first, the last and evenly between."""
    chosen = np.unique(np.linspace(0, len(history) - 1, CARD_EPOCHS).round().astype(int))
    columns = ["loss", "validation_loss", "validation_balanced_accuracy"]
    shown = [name for name in columns if all(name in row for row in history)]
    lines = ["| epoch | learning rate | " + " | ".join(map(_plain, shown)) + " |"]
    lines.append("|---|---|" + "---|" * len(shown))
    lines += [
        f"| {row['epoch']} | {row['lr']:.3g} | "
        + " | ".join(f"{row[name]:.4f}" for name in shown)
        + " |"
        for row in (history[index] for index in chosen)
    ]
    return "\n".join(lines)


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _rgb(hue: float, light: int) -> tuple[float, float, float]:
    return colorsys.hls_to_rgb(hue, 0.55 if light else 0.42, 0.65)
