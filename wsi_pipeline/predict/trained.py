"""A network that is ready to predict, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from wsi_pipeline.types import EncoderSpec, ModelSpec


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedEncoder:
    """A network that is ready to encode patches; it has no classes.

    Attributes
    ----------
    module : torch.nn.Module
        Takes patches as the specification says and gives (B, F) features.
    spec : EncoderSpec
        What it expects and gives.
    fingerprint : str
        Hash of all that decides a vector besides its patch: weights, transform, pooling.
    trained_on : str
        What it is, in words: what it may be trusted with.
    origin : dict of str to str
        Where its weights are from: ``title``, ``weights_file``, ``weights_sha256``,
        ``weights_digest``, ``licence``, as far as there are any.
    """

    module: nn.Module
    spec: EncoderSpec
    fingerprint: str
    trained_on: str
    origin: dict[str, str] = field(default_factory=dict)
