"""Encoders of patches: what is published of each, its network, its weights, checked.

A network is built by a library (``timm``) or by other packages through the entry points of group
``wsi_pipeline.encoders``. Slides, tiles and devices are the business of others.
"""

from __future__ import annotations

from wsi_models.encoders.base import LoadedEncoder, PatchEncoder
from wsi_models.encoders.card import EncoderCard, Pooling, Transform, WeightsSource
from wsi_models.encoders.errors import EncoderError
from wsi_models.encoders.registry import (
    GROUP,
    available_encoders,
    find_encoder,
    load_encoder,
    read_cards,
    with_choices,
)
from wsi_models.encoders.weights import find_weights, read_encoder_weights, where

__all__ = [
    "GROUP",
    "EncoderCard",
    "EncoderError",
    "LoadedEncoder",
    "PatchEncoder",
    "Pooling",
    "Transform",
    "WeightsSource",
    "available_encoders",
    "find_encoder",
    "find_weights",
    "load_encoder",
    "read_cards",
    "read_encoder_weights",
    "where",
    "with_choices",
]
