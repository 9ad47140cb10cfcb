"""Bags and the choice of a model -> a trained head, and how it went.

One bag per step. Which bags train and select is decided by others; nothing here sees a bag that
tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, optim
from torch.optim.lr_scheduler import LambdaLR

from wsi_models.errors import TrainingError
from wsi_models.metrics import balanced_accuracy
from wsi_models.mil.epochs import Epoch, Epochs, Fitted, NotSaved, Progress, Saved
from wsi_models.mil.heads import Head, build_head

if TYPE_CHECKING:
    from wsi_models.mil.bags import Bags, Indices
    from wsi_models.mil.config import AdamConfig, MilRecipe, MilTrainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Indices of the bags that train and of those that select; the latter may be none."""

    training: Indices
    validation: Indices


def fit(
    recipe: MilRecipe,
    bags: Bags,
    parts: Parts,
    device: torch.device,
    progress: Progress,
    saved: Saved | None = None,
) -> Fitted:
    """Train a head.

    Parameters
    ----------
    recipe : MilRecipe
        Which head, how long, and what selects. On a CPU, equal seeds give equal weights, bit for
        bit.
    bags : Bags
        The bags.
    parts : Parts
        Which of them train and select.
    device : torch.device
        Where to train.
    progress : Progress
        Told of every epoch.
    saved : Saved or None
        Where to go on, and what keeps where the training stands.

    Returns
    -------
    Fitted
        The head and its history.

    Raises
    ------
    TrainingError
        If the loss is no number.
    """
    model, config = recipe.model, recipe.train
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        head = build_head(model, bags.feature_count, len(bags.classes)).to(device)
        if model.standardise:
            standardise_head(head, bags, parts.training)
        optimizer, schedule = make_optimizer(head, model.optimisation, config.epochs)
        epoch = _epoch(head, optimizer, config, bags, parts)
        fitted = Epochs(head, optimizer, schedule, epoch).run(config, progress, saved or NotSaved())
    if config.threshold == "validation" and len(bags.classes) == 2 and len(parts.validation):
        prob = predict_bags(head, bags, parts.validation)[:, 1]
        fitted.threshold = choose_threshold(prob, _labels(bags, parts.validation))
    return fitted


def predict_bags(head: Head, bags: Bags, indices: Indices) -> Tensor:
    """Compute the probabilities of bags.

    Returns
    -------
    Tensor of shape (n, C)
        On the CPU; rows sum to 1.
    """
    was_training = head.training
    head.eval()
    rows = [torch.empty((0, head.class_count))]
    with torch.inference_mode():
        for index in indices.tolist():
            logits = head.score(bags.features(index).to(head.mean.device)).logits
            rows.append(head.probabilities(logits).cpu().unsqueeze(0))
    head.train(was_training)
    return torch.cat(rows)


def choose_threshold(prob: Tensor, label: Tensor) -> float:
    """Find the threshold with the highest balanced accuracy.

    Parameters
    ----------
    prob : Tensor of shape (n,)
        Probability of the second class.
    label : Tensor of shape (n,), int64
        0 or 1.

    Returns
    -------
    float
        0.5 or halfway between two probabilities that follow each other; of equally good ones,
        that nearest to 0.5. Youden's index is highest there.
    """
    values = torch.unique(prob.double())
    candidates = torch.cat([values.new_tensor([0.5]), (values[1:] + values[:-1]) / 2])
    scores = [
        (-balanced_accuracy((prob.double() >= value).long(), label), abs(value - 0.5), value)
        for value in candidates.tolist()
    ]
    return float(min(scores)[2])


def decide(prob: Tensor, threshold: float) -> Tensor:
    """Decide for a class, given probabilities of shape (n, C); shape (n,), int64."""
    if prob.shape[1] == 2:
        return (prob[:, 1].double() >= threshold).long()
    return prob.argmax(dim=1)


def _epoch(
    head: Head, optimizer: optim.Optimizer, config: MilTrainConfig, bags: Bags, parts: Parts
) -> Epoch:
    """One step per bag in a new order, judged by the bags that select."""
    weights = _slide_weights(bags, parts.training, balanced=config.balanced)
    draws = np.random.default_rng(config.seed)

    def train() -> float:
        return _step_through(head, optimizer, bags, draws.permutation(parts.training), weights)

    def judge() -> float | None:
        return _mean_loss(head, bags, parts.validation) if len(parts.validation) else None

    return Epoch(train=train, judge=judge, draws=draws)


def _step_through(
    head: Head, optimizer: optim.Optimizer, bags: Bags, order: Indices, weights: Tensor
) -> float:
    """Take one step per bag; return the mean loss."""
    total = 0.0
    for index in order.tolist():
        label = int(bags.label[index])
        loss = weights[label] * head.loss(bags.features(index).to(head.mean.device), label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # of torch
        optimizer.step()
        total += loss.item()
    if not math.isfinite(total):
        raise TrainingError(
            "the loss is no number; lower the learning rate, and check the features of "
            f"{bags.slide_ids[int(order[0])]} and the other slides"
        )
    return total / len(order)


def _mean_loss(head: Head, bags: Bags, indices: Indices) -> float:
    head.eval()
    with torch.inference_mode():
        losses = [
            float(head.loss(bags.features(index).to(head.mean.device), int(bags.label[index])))
            for index in indices.tolist()
        ]
    return float(np.mean(losses))


def make_optimizer(head: Head, config: AdamConfig, epochs: int) -> tuple[optim.Optimizer, LambdaLR]:
    """Return Adam for a head, and the schedule of its rate, a step per epoch."""
    optimizer = optim.Adam(
        head.parameters(), config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    last = 1.0 if config.final_lr is None else config.final_lr / config.lr

    def factor(epoch: int) -> float:
        done = epoch / max(1, epochs - 1)
        return last + (1 - last) * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return optimizer, LambdaLR(optimizer, factor)


def standardise_head(head: Head, bags: Bags, training: Indices) -> None:
    """Measure mean and deviation of the instances that train, in one pass; constants keep 1."""
    count, mean, squares = 0, torch.zeros(bags.feature_count).double(), torch.tensor(0.0)
    for index in training.tolist():
        values = bags.features(index).double()
        total = count + len(values)
        shift = values.mean(dim=0) - mean
        squares = (
            squares
            + (values - values.mean(dim=0)).square().sum(dim=0)
            + shift.square() * count * len(values) / total
        )
        mean, count = mean + shift * len(values) / total, total
    std = (squares / count).sqrt()
    head.mean.copy_(mean)
    head.std.copy_(torch.where(std > 0, std, 1.0))


def _slide_weights(bags: Bags, training: Indices, *, balanced: bool) -> Tensor:
    """Return the weight of a slide of each class; their mean over the training slides is 1."""
    counts = np.bincount(bags.label[training], minlength=len(bags.classes))
    weights = len(training) / (np.maximum(counts, 1) * (counts > 0).sum())
    return torch.tensor(weights if balanced else np.ones_like(weights), dtype=torch.float32)


def _labels(bags: Bags, indices: Indices) -> Tensor:
    return torch.from_numpy(bags.label[indices])
