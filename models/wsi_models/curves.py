"""The history of a training run, an evaluation, or those of several folds -> a picture.

Draws what it is given and computes nothing; the only module of the package that knows matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from wsi_files.whole import replace_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from wsi_models.metrics import Evaluation

DPI = 110
BEST_COLOR = "#d32f2f"


def draw_curves(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw losses, validation accuracy, pseudo-labels and learning rate over the epochs.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    history : sequence of mapping
        One row per epoch, as the training loop keeps it.
    """
    # constrained layout would take longer than some epochs
    figure = Figure(figsize=(11, 7), dpi=DPI)
    figure.subplots_adjust(0.06, 0.07, 0.98, 0.95, wspace=0.18, hspace=0.3)
    FigureCanvasAgg(figure)
    losses, accuracy, pseudo, rate = figure.subplots(2, 2).ravel()
    names = sorted({name for row in history for name in row if name.startswith("loss")})
    _lines(losses, history, [*names, "validation_loss"], "loss (training mean per epoch)")
    # cosines are negative when all is well
    if all(row[name] > 0 for row in history for name in names if row.get(name) is not None):
        losses.set_yscale("log")
    names = ["validation_balanced_accuracy", "validation_accuracy"]
    _lines(accuracy, history, names, "validation accuracy")
    _mark_best(accuracy, history)
    if any("clusters" in row for row in history):
        names = ["clusters", "clusters_noisy"]
        _lines(pseudo, history, names, "clusters in use per batch, without and with noise")
    else:
        names = ["pseudo_accuracy", "pseudo_confidence"]
        _lines(pseudo, history, names, "pseudo-labels of unlabelled patches")
    _lines(rate, history, ["lr"], "learning rate")
    _save(path, figure)


def draw_evaluation(path: Path, evaluation: Evaluation, title: str, unit: str = "patches") -> None:
    """Draw confusion matrix, recall and reliability of a classifier.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    evaluation : Evaluation
        The figures.
    title : str
        What was evaluated on what.
    unit : str
        What was counted.
    """
    figure = Figure(figsize=(12, 5.6), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    matrix, reliability = figure.subplots(1, 2, width_ratios=(1.2, 1))
    figures = "   ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in evaluation.headline().items())
    figure.suptitle(f"{title}\n{evaluation.count:,} {unit}   {figures}", fontsize=11)
    _draw_confusion(matrix, evaluation, unit)
    _draw_reliability(reliability, evaluation, unit)
    _save(path, figure)


def draw_cross_validation(
    path: Path, folds: Sequence[Evaluation], pooled: Evaluation, title: str, unit: str = "slides"
) -> None:
    """Draw the figures of every fold, and the confusion matrix of all folds together.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    folds : sequence of Evaluation
        Of what each fold tests.
    pooled : Evaluation
        Of all, each predicted by the fold that did not train on it.
    title : str
        What was evaluated on what.
    unit : str
        What was counted.
    """
    figure = Figure(figsize=(12, 5.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    spread, matrix = figure.subplots(1, 2, width_ratios=(1.2, 1))
    figure.suptitle(f"{title}\n{pooled.count:,} {unit}, {len(folds)} folds", fontsize=11)
    _draw_folds(spread, folds)
    _draw_confusion(matrix, pooled, unit)
    _save(path, figure)


def draw_survival(
    path: Path,
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    folds: Sequence[float],
    title: str,
) -> None:
    """Draw curves of survival by group, and the concordance of every fold.

    Parameters
    ----------
    path : Path
        PNG to write; an older one is replaced in one step.
    curves : mapping of str to tuple of ndarray
        Times and shares without an event, by group.
    folds : sequence of float
        Concordance of each fold.
    title : str
        What was judged.
    """
    figure = Figure(figsize=(11, 5), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    survival, spread = figure.subplots(1, 2, width_ratios=(2, 1))
    figure.suptitle(title, fontsize=11)
    for (name, (time, share)), color in zip(curves.items(), ("#1565c0", BEST_COLOR), strict=False):
        survival.step(time, share, where="post", label=name, color=color)
    survival.set(xlabel="time", ylabel="share without an event", ylim=(0, 1.02))
    survival.set_title("patients by the risk of models that did not train on them", fontsize=9)
    survival.legend(frameon=False, fontsize=8)
    survival.grid(alpha=0.3)
    spread.plot(np.arange(1, len(folds) + 1), folds, ".", markersize=9, color="#1565c0")
    spread.axhline(0.5, color="#999999", linestyle="--", linewidth=1)
    spread.set(xlabel="fold", ylabel="concordance", ylim=(0, 1.02))
    spread.xaxis.set_major_locator(MaxNLocator(integer=True))
    spread.grid(alpha=0.3)
    _save(path, figure)


def _lines(
    axes: Axes, history: Sequence[Mapping[str, Any]], names: Sequence[str], title: str
) -> None:
    """Draw the named values that the rows have; a single epoch is a dot."""
    drawn = False
    for name in names:
        points = [(row["epoch"], row[name]) for row in history if row.get(name) is not None]
        if points:
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, marker="." if len(points) < 30 else "", label=_label(name))
            drawn = True
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend(fontsize=8, frameon=False)
    else:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color="#777777")


def _label(name: str) -> str:
    return name.replace("validation_", "validation ").replace("_", " ")


def _mark_best(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    best = [row for row in history if row.get("best")]
    if best:
        row = best[-1]
        value = row.get("validation_balanced_accuracy")
        shown = "" if value is None else f", {value:.3f}"
        axes.axvline(row["epoch"], color=BEST_COLOR, linewidth=1, linestyle=":")
        axes.set_title(f"chosen: epoch {row['epoch']}{shown}", fontsize=9, loc="right")


def _draw_folds(axes: Axes, folds: Sequence[Evaluation]) -> None:
    """Draw one dot per fold and figure, with mean and standard deviation beside them."""
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auc")
    for place, name in enumerate(names):
        values = [fold.headline()[name] for fold in folds if name in fold.headline()]
        if not values:
            continue
        # side by side, so that equal values do not hide each other
        offsets = np.linspace(-0.22, 0.1, len(values))
        axes.plot(place + offsets, values, ".", color="#1565c0", alpha=0.7)
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=min(1, len(values) - 1)))
        axes.errorbar(place + 0.25, mean, spread, fmt="s", color=BEST_COLOR, capsize=4)
        axes.text(place + 0.32, mean, f"{mean:.3f}\n±{spread:.3f}", fontsize=8, va="center")
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.set(xlim=(-0.5, len(names) - 0.2), ylim=(None, 1.03))
    axes.set_title("one dot per fold; mean and standard deviation over folds", fontsize=9)
    axes.grid(axis="y", alpha=0.3)


def _draw_confusion(axes: Axes, evaluation: Evaluation, unit: str) -> None:
    counts = np.array(evaluation.confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, col), share in np.ndenumerate(shares):
        text = f"{share:.2f}\n{counts[row, col]:,.0f}"
        color = "white" if share > 0.55 else "black"
        axes.text(col, row, text, ha="center", va="center", fontsize=8, color=color)
    names = [
        f"{name} (none)" if recall is None else name
        for name, recall in zip(evaluation.classes, evaluation.recall, strict=True)
    ]
    places = range(len(names))
    axes.set_xticks(places, evaluation.classes, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="truth")
    axes.set_title(f"share of the truth, and {unit}; the diagonal is recall", fontsize=9)


def _draw_reliability(axes: Axes, evaluation: Evaluation, unit: str) -> None:
    confidence = [item.confidence for item in evaluation.reliability]
    accuracy = [item.accuracy for item in evaluation.reliability]
    share = [item.count / evaluation.count for item in evaluation.reliability]
    axes.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1, label="calibrated")
    axes.bar(confidence, share, width=0.03, color="#b0bec5", label=f"share of {unit}")
    axes.plot(confidence, accuracy, marker="o", color="#1565c0", label="accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"reliability; expected calibration error {evaluation.ece:.3f}", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.grid(alpha=0.3)


def _save(path: Path, figure: Figure) -> None:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a class called a$_$b is a name, not a formula
    with replace_atomically(path) as partial:
        figure.savefig(partial)
