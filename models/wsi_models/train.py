"""A method, patches and a division of them -> the best weights found, and how it went.

One loop for every method: it draws batches, steps, validates, logs and checkpoints. What is learnt
from a batch is the method's business; recipes and the finished model are those of others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau

from wsi_models.checkpoint import load_checkpoint
from wsi_models.errors import TrainingError
from wsi_models.judging import class_logits, thin_out
from wsi_models.listening import Silent
from wsi_models.methods.base import UNKNOWN, Batch, Method
from wsi_models.metrics import balanced_accuracy
from wsi_models.records import EpochLog, Guesses, write_history
from wsi_models.run_state import BEST_FILE, LAST_FILE, restore, save
from wsi_models.samplers import BalancedBatches, Drawing, PermutedBatches
from wsi_models.sources import fetch_ahead
from wsi_models.task import Progress, Task, TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from wsi_models.methods.optimisation import Schedule

logger = logging.getLogger(__name__)

REFERENCES = 20_000
"""Labelled training patches at most that features are compared with after an epoch."""


def train(task: Task, fabric: Fabric, *, resume: bool = False) -> Progress:
    """Train a method and leave it with the weights of its best epoch.

    Parameters
    ----------
    task : Task
        What is trained, on what, how.
    fabric : Fabric
        Device, precision and processes; launched.
    resume : bool
        Go on after the last complete epoch of the run in ``task.out``, if there is one. On a CPU
        the result is bit for bit that of a run without interruption.

    Returns
    -------
    Progress
        How it went. The best epoch is the first with the highest balanced accuracy on the
        validation patches; the last where no patch has a label.

    Raises
    ------
    TrainingError
        If a class has no training label, there is nothing to validate on, the loss is no number,
        or there is a run in the folder that was not to be resumed or was set up differently.
    """
    check(task, resume=resume)
    method, config, out = task.method, task.config, task.out
    optimizer = method.optimizer()
    schedule = method.scheduler(optimizer, config.iterations)
    step, fabric_optimizer = fabric.setup(_Step(method), optimizer)
    progress = Progress()
    if resume and (out / LAST_FILE).exists():
        progress = restore(task, optimizer, schedule)
    labelled, unlabelled = _samplers(task, fabric)
    listener = task.listener if fabric.is_global_zero else Silent()
    listener.begin(config.epochs, progress.epoch, config.iterations)
    while not _finished(progress, config):
        epoch = progress.epoch + 1
        begin = time.perf_counter()
        generator = _seed_epoch(fabric, config.seed, epoch)
        method.train()
        log = EpochLog()
        batches = _draw(task, labelled, unlabelled, epoch)
        for iteration, (known, unknown, truth) in enumerate(batches):
            clock = epoch + iteration / config.iterations
            total, parts, guesses = step(
                _tensors(known, fabric.device), _tensors(unknown, fabric.device), clock, generator
            )
            fabric_optimizer.zero_grad()
            fabric.backward(total)
            fabric_optimizer.step()
            method.after_step()
            if schedule is not None and schedule.per_step:
                schedule.rates.step()
            listener.step(log.add(total, parts, Guesses(*guesses), truth))
        method.after_epoch(epoch)
        means = log.means(fabric)
        method.inspect(means)
        row = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], **means}
        row |= _validate(task, fabric)
        _advance(schedule, row.get("validation_loss", row["loss"]))
        row["best"] = _is_better(row, progress)
        _record(progress, row, time.perf_counter() - begin)
        if fabric.is_global_zero:
            save(task, progress, optimizer, schedule)
            write_history(out, progress.history)
        fabric.barrier()
        listener.epoch(row)
        logger.info("epoch %d: %s", epoch, row)
    method.load_state_dict(load_checkpoint(out / BEST_FILE)["method"])
    return progress


class _Step(nn.Module):
    """A method whose forward takes and gives plain containers, as wrappers for DDP and AMP need."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(
        self,
        labelled: tuple[Tensor, ...],
        unlabelled: tuple[Tensor, ...] | None,
        clock: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float], tuple[Tensor | None, Tensor | None]]:
        losses = self.method.training_step(
            Batch(*labelled), None if unlabelled is None else Batch(*unlabelled), clock, generator
        )
        return losses.total, dict(losses.parts), (losses.pseudo, losses.confidence)


def check(task: Task, *, resume: bool) -> None:
    """Refuse what cannot be trained before any time is spent."""
    if task.source.classes:
        _check_labels(task)
    if (task.out / LAST_FILE).exists() and not resume:
        raise TrainingError(
            f"{task.out} holds a run; go on with it (resume) or choose another folder"
        )


def _check_labels(task: Task) -> None:
    source, split = task.source, task.split
    found = set(source.label[split.labelled].tolist())
    missing = [name for code, name in enumerate(source.classes) if code not in found]
    if missing:
        raise TrainingError(
            f"no training label for {', '.join(missing)}; change the split or the classes"
        )
    if len(split.validation) == 0:
        raise TrainingError("no labelled patch to validate on; give the validation part a share")
    absent = len(source.classes) - len(set(source.label[split.validation].tolist()))
    if absent:
        logger.warning("%d classes have no validation patch: selection ignores them", absent)


def _samplers(task: Task, fabric: Fabric) -> tuple[BalancedBatches | None, PermutedBatches | None]:
    method, source, split = task.method, task.source, task.split
    drawing = Drawing(
        seed=task.config.seed,
        block=source.block,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
    if method.labelled_per_step == 0:
        training = np.sort(np.concatenate([split.labelled, split.unlabelled]))
        return None, PermutedBatches(training, method.unlabelled_per_step, drawing)
    labelled = BalancedBatches(source.label, split.labelled, method.labelled_per_step, drawing)
    if method.unlabelled_per_step == 0:
        return labelled, None
    return labelled, PermutedBatches(split.unlabelled, method.unlabelled_per_step, drawing)


def _draw(
    task: Task, labelled: BalancedBatches | None, unlabelled: PermutedBatches | None, epoch: int
) -> Iterator[tuple[Batch, Batch | None, Tensor | None]]:
    """Yield labelled and unlabelled batches, the latter without labels, and what these were."""
    iterations = task.config.iterations
    known = np.empty((iterations, 0), dtype=np.int64)
    if labelled is not None:
        known = labelled.epoch(epoch, iterations)
    if unlabelled is None:
        for batch in fetch_ahead(task.source, list(known)):
            yield batch, None, None
        return
    unknown = unlabelled.epoch(epoch, iterations)
    both = np.concatenate([known, unknown], axis=1)
    count = known.shape[1]
    for batch in fetch_ahead(task.source, list(both)):
        withheld = torch.full((unknown.shape[1],), UNKNOWN)
        yield (
            Batch(batch.rgb[:count], batch.unmix[:count], batch.label[:count]),
            Batch(batch.rgb[count:], batch.unmix[count:], withheld),
            batch.label[count:],
        )


def _tensors(batch: Batch | None, device: torch.device) -> tuple[Tensor, ...] | None:
    if batch is None:
        return None
    moved = batch.to(device)
    return moved.rgb, moved.unmix, moved.label


def _seed_epoch(fabric: Fabric, seed: int, epoch: int) -> torch.Generator:
    """Begin the random draws of an epoch anew, so that none of their state has to be saved.

    The global generator is for layers that ask no other, such as dropout.
    """
    sequence = np.random.SeedSequence([seed, epoch, fabric.global_rank])
    views, layers = (int(value) for value in sequence.generate_state(2, np.uint64) >> 1)
    torch.manual_seed(layers)
    return torch.Generator(fabric.device).manual_seed(views)


def _is_better(row: dict[str, Any], progress: Progress) -> bool:
    """Whether an epoch beats the best so far; of equal accuracies the lower loss wins.

    Without labels nothing tells epochs apart, and a falling loss is no sign of better features.
    """
    accuracy = row.get("validation_balanced_accuracy")
    if accuracy is None or progress.best_accuracy is None:
        return True
    if accuracy != progress.best_accuracy:
        return bool(accuracy > progress.best_accuracy)
    return bool(
        row["validation_loss"] < progress.history[progress.best_epoch - 1]["validation_loss"]
    )


def _record(progress: Progress, row: dict[str, Any], seconds: float) -> None:
    """Add an epoch that ended."""
    progress.history.append({**row, "seconds": round(seconds, 2)})
    progress.epoch = row["epoch"]
    if row["best"]:
        progress.best_epoch = row["epoch"]
        progress.best_accuracy = row.get("validation_balanced_accuracy")


def _validate(task: Task, fabric: Fabric) -> dict[str, float]:
    """Judge the evaluated network on the validation patches, if there are labels to judge by."""
    if not task.source.classes:
        return {}
    indices = task.split.validation
    if fabric.world_size > 1:
        # batch normalisation keeps statistics per process; those of the first are saved
        for buffer in task.method.buffers():
            torch.distributed.broadcast(buffer, 0)
    reference = thin_out(task.split.labelled, REFERENCES, task.config.seed)
    parts = (reference, indices)
    logits = class_logits(fabric, task.method, task.source, parts, task.config.evaluation_batch)
    label = torch.from_numpy(task.source.label[indices])
    predicted = logits.argmax(dim=1)
    return {
        "validation_loss": float(functional.cross_entropy(logits, label)),
        "validation_accuracy": float((predicted == label).float().mean()),
        "validation_balanced_accuracy": balanced_accuracy(predicted, label),
    }


def _advance(schedule: Schedule | None, validation_loss: float) -> None:
    """Move a schedule that follows the epochs."""
    if schedule is None or schedule.per_step:
        return
    if isinstance(schedule.rates, ReduceLROnPlateau):
        schedule.rates.step(validation_loss)
    else:
        schedule.rates.step()


def _finished(progress: Progress, config: TrainConfig) -> bool:
    waited = progress.epoch - progress.best_epoch
    stale = config.patience is not None and waited >= config.patience
    return progress.epoch >= config.epochs or stale
