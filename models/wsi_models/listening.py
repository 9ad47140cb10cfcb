"""Somebody to tell how training goes, while it goes.

What is shown of it is the business of whoever listens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Listener(Protocol):
    """Told of every step and every epoch of a training."""

    def begin(self, epochs: int, done: int, iterations: int) -> None:
        """Take note of the epochs in all and those done before, and of the steps of each."""

    def step(self, loss: float) -> None:
        """Take note of a step and its loss."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Take note of an epoch: its row of the history."""


class Silent:
    """Says nothing: the default."""

    def begin(self, epochs: int, done: int, iterations: int) -> None:
        """Ignore the beginning."""

    def step(self, loss: float) -> None:
        """Ignore the step."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Ignore the epoch."""
