"""The base of every choice that a training recipe can make: frozen, without unknown names.

Holds no choice itself.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Choices(BaseModel):
    """Base of all choices of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
