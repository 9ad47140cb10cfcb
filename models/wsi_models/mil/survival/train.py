"""A cohort and the choice of a head -> a head whose output is the logarithm of the hazard."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsi_models.errors import TrainingError
from wsi_models.mil.heads import Head, build_head
from wsi_models.mil.survival.cox import cox_loss
from wsi_models.mil.train import Fitted, Parts, Progress, make_optimizer, standardise_head

if TYPE_CHECKING:
    from torch import optim

    from wsi_models.mil.bags import Indices
    from wsi_models.mil.config import MilTrainConfig, ModelConfig
    from wsi_models.mil.survival.cohort import Cohort

RISK_CLASSES = 2
"""Heads of two classes have one output, which is the risk here."""


def fit_survival(
    model: ModelConfig,
    config: MilTrainConfig,
    cohort: Cohort,
    parts: Parts,
    device: torch.device,
    progress: Progress,
) -> Fitted:
    """Train a head by Cox's partial likelihood.

    Parameters
    ----------
    model : ModelConfig
        Which head; instances have no loss of their own.
    config : MilTrainConfig
        How long, how many patients a step compares (``patients``), and what selects.
    cohort : Cohort
        The patients.
    parts : Parts
        Which of them train and select.
    device : torch.device
        Where to train.
    progress : Progress
        Told of every epoch.

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
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(config.seed)
        head = build_head(model, cohort.bags.feature_count, RISK_CLASSES).to(device)
        if model.standardise:
            standardise_head(head, cohort.bags, parts.training)
        fitted = Fitted(head=head)
        _Training(fitted, cohort, config).run(
            make_optimizer(head, model.optimisation, config.epochs), parts, progress
        )
    head.eval()
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

    def __init__(self, fitted: Fitted, cohort: Cohort, config: MilTrainConfig) -> None:
        self._fitted = fitted
        self._head = fitted.head
        self._cohort = cohort
        self._config = config
        self._time = torch.from_numpy(cohort.time)
        self._event = torch.from_numpy(cohort.event)
        self._rng = np.random.default_rng(config.seed)

    def run(
        self,
        means: tuple[optim.Optimizer, torch.optim.lr_scheduler.LambdaLR],
        parts: Parts,
        progress: Progress,
    ) -> None:
        """Train until nothing gets better; leave the best weights and the history."""
        optimizer, schedule = means
        config, fitted = self._config, self._fitted
        lowest, best = math.inf, copy.deepcopy(self._head.state_dict())
        for epoch in range(1, config.epochs + 1):
            rate = float(optimizer.param_groups[0]["lr"])
            loss = self._epoch(optimizer, parts.training)
            schedule.step()
            judged = self._judge(parts.validation)
            row = {"epoch": epoch, "lr": rate, "loss": loss, "validation_loss": judged}
            fitted.history.append(row)
            progress.advance()
            if judged is None or judged < lowest:
                lowest = math.inf if judged is None else judged
                fitted.best_epoch = epoch
                best = copy.deepcopy(self._head.state_dict())
            elif config.patience is not None and epoch - fitted.best_epoch >= config.patience:
                progress.advance(config.epochs - epoch)
                break
        self._head.load_state_dict(best)

    def _epoch(self, optimizer: optim.Optimizer, training: Indices) -> float:
        self._head.train()
        order = self._rng.permutation(training)
        pieces = max(1, round(len(order) / self._config.patients))
        losses = [self._step(optimizer, piece) for piece in np.array_split(order, pieces)]
        total = float(np.mean(losses))
        if not math.isfinite(total):
            raise TrainingError(
                "the loss is no number; lower the learning rate, and check the features of "
                f"{self._cohort.bags.slide_ids[int(order[0])]} and the other patients"
            )
        return total

    def _step(self, optimizer: optim.Optimizer, indices: Indices) -> float:
        """Take one step on the patients that are compared with each other."""
        seeds = self._rng.integers(2**31, size=len(indices)).tolist()
        with torch.no_grad():
            found = [self._draw(i, s) for i, s in zip(indices.tolist(), seeds, strict=True)]
        risk = torch.stack(found).requires_grad_()
        loss = self._loss(risk, indices)
        if not self._event[indices].any():
            return 0.0
        (gradient,) = torch.autograd.grad(loss, risk)
        optimizer.zero_grad()
        for place, (index, seed) in enumerate(zip(indices.tolist(), seeds, strict=True)):
            self._draw(index, seed).backward(gradient[place])  # type: ignore[no-untyped-call]
        optimizer.step()
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
