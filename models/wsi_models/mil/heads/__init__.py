"""The features of a bag -> logits of the slide and the attention of each instance, per model.

Two classes need one output; other numbers of classes get one output each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_models.mil.heads.attention import AbmilHead, ClamSbHead
from wsi_models.mil.heads.base import BagScores, Head
from wsi_models.mil.heads.dsmil import DsmilHead, load_released_dsmil
from wsi_models.mil.heads.pooling import PoolingHead

if TYPE_CHECKING:
    from wsi_models.mil.config import ModelConfig

__all__ = [
    "AbmilHead",
    "BagScores",
    "ClamSbHead",
    "DsmilHead",
    "Head",
    "PoolingHead",
    "build_head",
    "load_released_dsmil",
]


def build_head(config: ModelConfig, feature_count: int, class_count: int) -> Head:
    """Build the network of a model with random weights.

    Parameters
    ----------
    config : ModelConfig
        Which model.
    feature_count : int
        Length F of the vector of an instance.
    class_count : int
        Number C of classes, at least two.

    Returns
    -------
    Head
        On the CPU, in training mode.
    """
    match config.model:
        case "abmil":
            return AbmilHead(config, feature_count, class_count)
        case "clam-sb":
            return ClamSbHead(config, feature_count, class_count)
        case "dsmil":
            return DsmilHead(config, feature_count, class_count)
        case _:
            return PoolingHead(config, feature_count, class_count)
