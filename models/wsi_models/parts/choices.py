"""The base of every choice that a training recipe can make: frozen, without unknown names.

Holds no choice itself.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Choices(BaseModel):
    """Base of all choices of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def settled(self, epochs: int) -> Self:
        """Return the choices with every length that they left open.

        Parameters
        ----------
        epochs : int
            Epochs of the training.

        Returns
        -------
        Choices
            What was chosen stays; the same again changes nothing.
        """
        parts: dict[str, Any] = {
            name: value.settled(epochs) for name, value in self if isinstance(value, Choices)
        }
        open_lengths = {
            name: length
            for name, length in self._lengths(epochs).items()
            if getattr(self, name) is None
        }
        return self.model_copy(update=parts | open_lengths)

    def _lengths(self, epochs: int) -> dict[str, float]:
        """Derive the lengths that may be left open from the epochs of the training."""
        return {}
