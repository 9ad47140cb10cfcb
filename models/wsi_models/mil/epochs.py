"""The epochs of a head, whatever an epoch is: the best weights are kept, a stop costs seconds."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, optim
    from torch.optim.lr_scheduler import LambdaLR

    from wsi_models.mil.config import MilTrainConfig
    from wsi_models.mil.heads import Head


class Progress(Protocol):
    """Told how far a run is."""

    def start(self, what: str, total: int) -> None:
        """Announce ``total`` steps of ``what``."""

    def advance(self, steps: int = 1) -> None:
        """Report that ``steps`` more are done."""


class Saved(Protocol):
    """Where a training stands, for one that goes on after it was stopped."""

    def load(self) -> dict[str, Any] | None:
        """Return what was saved last; None if nothing was."""

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep a state, which is asked for only if it is time to."""


class NotSaved:
    """Keeps nothing: the training begins anew."""

    def load(self) -> dict[str, Any] | None:
        """Return nothing."""
        return None

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Keep nothing."""


@dataclass(slots=True, kw_only=True)
class Fitted:
    """A trained head.

    Attributes
    ----------
    head : Head
        With the weights of its best epoch, in evaluation mode.
    threshold : float
        Of two classes: the probability from which the second is decided for.
    best_epoch : int
        The first with the lowest loss of the validation bags; the last without any.
    history : list of dict
        ``epoch``, ``lr``, ``loss`` and ``validation_loss`` (None without such bags) per epoch.
    """

    head: Head
    threshold: float = 0.5
    best_epoch: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What an epoch is.

    Attributes
    ----------
    train : callable
        Steps through the bags that train; returns the mean loss.
    judge : callable
        Returns the loss of the bags that select; None without any.
    draws : Generator
        What both draw from, besides torch's own generators.
    """

    train: Callable[[], float]
    judge: Callable[[], float | None]
    draws: np.random.Generator


class Epochs:
    """The epochs of one fit.

    Parameters
    ----------
    head : Head
        As it begins.
    optimizer, schedule
        What moves its weights, and their rate; a step of the schedule per epoch.
    epoch : Epoch
        What is done in each.
    """

    def __init__(
        self, head: Head, optimizer: optim.Optimizer, schedule: LambdaLR, epoch: Epoch
    ) -> None:
        self.fitted = Fitted(head=head)
        self._head, self._optimizer, self._schedule = head, optimizer, schedule
        self._epoch = epoch
        self._lowest = math.inf
        self._best = copy.deepcopy(head.state_dict())

    def run(self, config: MilTrainConfig, progress: Progress, saved: Saved) -> Fitted:
        """Train until nothing gets better.

        Parameters
        ----------
        config : MilTrainConfig
            How long.
        progress : Progress
            Told of every epoch; those saved by stopping early are told at the end.
        saved : Saved
            Where to go on, and what keeps where it stands. On a CPU the result is bit for bit
            that of a training without interruption.

        Returns
        -------
        Fitted
            The best weights and the history.
        """
        state = saved.load()
        if state is not None:
            self._restore(state)
            progress.advance(len(self.fitted.history))
        while not self._is_over(config):
            self._one()
            progress.advance()
            saved.save(self._state)
        progress.advance(config.epochs - len(self.fitted.history))
        self._head.load_state_dict(self._best)
        self._head.eval()
        return self.fitted

    def _is_over(self, config: MilTrainConfig) -> bool:
        done = len(self.fitted.history)
        waited = done - self.fitted.best_epoch
        return done >= config.epochs or (config.patience is not None and waited >= config.patience)

    def _one(self) -> None:
        fitted = self.fitted
        number = len(fitted.history) + 1
        rate = float(self._optimizer.param_groups[0]["lr"])
        self._head.train()
        loss = self._epoch.train()
        self._schedule.step()
        judged = self._epoch.judge()
        row = {"epoch": number, "lr": rate, "loss": loss, "validation_loss": judged}
        fitted.history.append(row)
        if judged is None or judged < self._lowest:
            self._lowest = math.inf if judged is None else judged
            fitted.best_epoch = number
            self._best = copy.deepcopy(self._head.state_dict())

    def _state(self) -> dict[str, Any]:
        return {
            "head": self._head.state_dict(),
            "best": self._best,
            "lowest": self._lowest,
            "best_epoch": self.fitted.best_epoch,
            "history": self.fitted.history,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            # its numbers are longer than those that loading without code can read
            "draws": json.dumps(self._epoch.draws.bit_generator.state),
            "torch": _torch_states(self._head.mean.device),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._head.load_state_dict(state["head"])
        self._best = state["best"]
        self._lowest = state["lowest"]
        self.fitted.best_epoch, self.fitted.history = state["best_epoch"], state["history"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._epoch.draws.bit_generator.state = json.loads(state["draws"])
        device = self._head.mean.device
        torch.set_rng_state(state["torch"][0])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["torch"][1], device)


def _torch_states(device: torch.device) -> list[Tensor]:
    """Return the state of torch's generators that layers draw from."""
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
