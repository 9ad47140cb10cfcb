"""A network that is ready to predict, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from wsi_pipeline.types import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A network that is ready to predict.

    Attributes
    ----------
    module : torch.nn.Module
        Takes (B, 2, P, P) normalised H/E patches and gives (B, K) logits.
    spec : ModelSpec
        What it expects and gives.
    fingerprint : str
        Hash of its weights.
    trained_on : str
        What it learnt from, in words: what it may be trusted with.
    """

    module: nn.Module
    spec: ModelSpec
    fingerprint: str
    trained_on: str
