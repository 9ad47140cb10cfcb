"""A cohort and the choice of a head -> a head whose output is the logarithm of the hazard."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsi_models.errors import TrainingError
from wsi_models.mil.epochs import Epoch, Epochs, Fitted, NotSaved, Progress, Saved
from wsi_models.mil.heads import Head, build_head
from wsi_models.mil.survival.cox import cox_loss
from wsi_models.mil.train import Parts, make_optimizer, standardise_head

if TYPE_CHECKING:
    from torch import optim

    from wsi_models.mil.bags import Indices
    from wsi_models.mil.config import MilRecipe, MilTrainConfig
    from wsi_models.mil.survival.cohort import Cohort

RISK_CLASSES = 2
"""Heads of two classes have one output, which is the risk here."""


def fit_survival(
    recipe: MilRecipe,
    cohort: Cohort,
    parts: Parts,
    device: torch.device,
    progress: Progress,
    saved: Saved | None = None,
) -> Fitted:
    """Train a head by Cox's partial likelihood.

    Parameters
    ----------
    recipe : MilRecipe
        Which head (instances have no loss of their own), how long, how many patients a step
        compares (``patients``), and what selects.
    cohort : Cohort
        The patients.
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
        The head; its threshold is the sigmoid of the median risk of the training patients.

    Raises
    ------
    TrainingError
        If the loss is no number.

    Notes
    -----
    The gradient of a step is that of all its patients, but memory holds one bag: risks are
    computed without gradients, the loss gives the gradient of each risk, and each bag is then run
    again, with the same random numbers, to pass it on.
    """
    model, config = recipe.model, recipe.train
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        head = build_head(model, cohort.bags.feature_count, RISK_CLASSES).to(device)
        if model.standardise:
            standardise_head(head, cohort.bags, parts.training)
        optimizer, schedule = make_optimizer(head, model.optimisation, config.epochs)
        epoch = _Training(head, optimizer, cohort, config).epoch(parts)
        fitted = Epochs(head, optimizer, schedule, epoch).run(config, progress, saved or NotSaved())
    middle = risks(head, cohort, parts.training).median()
    fitted.threshold = float(middle.sigmoid())
    return fitted


def risks(head: Head, cohort: Cohort, indices: Indices) -> Tensor:
    """Compute the risks of patients in evaluation mode, shape (n,), on the CPU."""
    was_training = head.training
    head.eval()
    with torch.inference_mode():
        found = [_risk(head, cohort, index).cpu() for index in indices.tolist()]
    head.train(was_training)
    return torch.stack(found) if found else torch.empty(0)


class _Training:
    """The epochs of one fit."""

    def __init__(
        self, head: Head, optimizer: optim.Optimizer, cohort: Cohort, config: MilTrainConfig
    ) -> None:
        self._head, self._optimizer = head, optimizer
        self._cohort = cohort
        self._config = config
        self._time = torch.from_numpy(cohort.time)
        self._event = torch.from_numpy(cohort.event)
        self._rng = np.random.default_rng(config.seed)

    def epoch(self, parts: Parts) -> Epoch:
        """Return what is done in each epoch."""
        train = partial(self._train, parts.training)
        return Epoch(train=train, judge=partial(self._judge, parts.validation), draws=self._rng)

    def _train(self, training: Indices) -> float:
        order = self._rng.permutation(training)
        pieces = max(1, round(len(order) / self._config.patients))
        losses = [self._step(piece) for piece in np.array_split(order, pieces)]
        total = float(np.mean(losses))
        if not math.isfinite(total):
            raise TrainingError(
                "the loss is no number; lower the learning rate, and check the features of "
                f"{self._cohort.bags.slide_ids[int(order[0])]} and the other patients"
            )
        return total

    def _step(self, indices: Indices) -> float:
        """Take one step on the patients that are compared with each other."""
        seeds = self._rng.integers(2**31, size=len(indices)).tolist()
        with torch.no_grad():
            found = [self._draw(i, s) for i, s in zip(indices.tolist(), seeds, strict=True)]
        risk = torch.stack(found).requires_grad_()
        loss = self._loss(risk, indices)
        if not self._event[indices].any():
            return 0.0
        (gradient,) = torch.autograd.grad(loss, risk)
        self._optimizer.zero_grad()
        for place, (index, seed) in enumerate(zip(indices.tolist(), seeds, strict=True)):
            self._draw(index, seed).backward(gradient[place])  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return float(loss.detach())

    def _draw(self, index: int, seed: int) -> Tensor:
        """Compute the risk of a patient with the dropout of a seed."""
        torch.manual_seed(seed)
        return _risk(self._head, self._cohort, index)

    def _judge(self, validation: Indices) -> float | None:
        if not len(validation) or not self._event[validation].any():
            return None
        return float(self._loss(risks(self._head, self._cohort, validation), validation))

    def _loss(self, risk: Tensor, indices: Indices) -> Tensor:
        time, event = self._time[indices], self._event[indices]
        return cox_loss(risk.double(), time.to(risk.device), event.to(risk.device))


def _risk(head: Head, cohort: Cohort, index: int) -> Tensor:
    bag = cohort.bags.features(index).to(head.mean.device)
    return head.score(bag).logits[0]
