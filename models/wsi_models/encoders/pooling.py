"""The tokens of a vision transformer, or the maps of a convolutional network -> one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from wsi_models.encoders.card import Pooling


def pool_tokens(tokens: Tensor, prefix: int, pooling: Pooling) -> Tensor:
    """Pool the tokens of a transformer.

    Parameters
    ----------
    tokens : Tensor of shape (B, prefix + N, D)
        The class token, then the registers, then those of the N patches.
    prefix : int
        Class token and registers.
    pooling : {"class", "mean", "class+mean"}
        What is kept. Registers are never part of the mean.

    Returns
    -------
    Tensor of shape (B, D) or (B, 2 D)
        The vector.
    """
    if pooling == "class":
        return tokens[:, 0]
    mean = tokens[:, prefix:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=1)


class Pooled(nn.Module):
    """A network of timm and the pooling of what it gives before its head.

    Parameters
    ----------
    network : Module
        Has ``forward_features``, which gives tokens (B, T, D) or maps (B, D, h, w).
    prefix : int
        Tokens that are of no patch.
    pooling : {"class", "mean", "class+mean"}
        What is kept; maps have a mean alone.
    """

    def __init__(self, network: nn.Module, prefix: int, pooling: Pooling) -> None:
        super().__init__()
        self.network = network
        self.prefix = prefix
        self.pooling = pooling

    def forward(self, patches: Tensor) -> Tensor:
        """Compute the features of patches, shape (B, F)."""
        given: Tensor = self.network.forward_features(patches)  # type: ignore[operator]
        if given.ndim == 4:
            return given.mean(dim=(2, 3))
        return pool_tokens(given, self.prefix, self.pooling)
