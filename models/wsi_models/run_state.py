"""The state of a training after an epoch -> its checkpoints, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsi_models.checkpoint import load_checkpoint, save_checkpoint
from wsi_models.errors import TrainingError
from wsi_models.task import Progress, Task

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wsi_models.methods.optimisation import Schedule

LAST_FILE = "last.ckpt"
BEST_FILE = "best.ckpt"


def save(task: Task, progress: Progress, optimizer: Optimizer, schedule: Schedule | None) -> None:
    """Keep the best weights, then the state: a crash in between repeats the epoch."""
    weights = task.method.state_dict()
    if progress.best_epoch == progress.epoch:
        save_checkpoint(
            task.out / BEST_FILE,
            {"method": weights, "epoch": progress.epoch, "classes": list(task.source.classes)},
        )
    state = {
        "identity": _identity(task),
        "method": weights,
        "optimizer": optimizer.state_dict(),
        "scheduler": None if schedule is None else schedule.rates.state_dict(),
        "epoch": progress.epoch,
        "best_epoch": progress.best_epoch,
        "best_accuracy": progress.best_accuracy,
        "history": progress.history,
    }
    save_checkpoint(task.out / LAST_FILE, state)


def restore(task: Task, optimizer: Optimizer, schedule: Schedule | None) -> Progress:
    """Put method, optimizer and schedule where the last complete epoch left them.

    Raises
    ------
    TrainingError
        If the run was set up differently, or its checkpoint cannot be read.
    """
    path = task.out / LAST_FILE
    state = load_checkpoint(path)
    wanted = _identity(task)
    changed = [name for name in wanted if wanted[name] != state["identity"][name]]
    if changed:
        raise TrainingError(
            f"{path} was trained with other {', '.join(changed)}; resume with the recipe and data "
            "of the run, or train anew in another folder"
        )
    task.method.load_state_dict(state["method"])
    optimizer.load_state_dict(state["optimizer"])
    if schedule is not None:
        schedule.rates.load_state_dict(state["scheduler"])
    return Progress(
        epoch=state["epoch"],
        best_epoch=state["best_epoch"],
        best_accuracy=state["best_accuracy"],
        history=state["history"],
    )


def _identity(task: Task) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one that it goes on with."""
    return {
        "config": task.config.model_dump(mode="json", exclude={"epochs", "patience"}),
        "classes": list(task.source.classes),
        "patches": len(task.source.label),
        "labelled": task.split.labelled.tolist(),
    }
