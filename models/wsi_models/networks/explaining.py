"""A network of two stains -> what each stain says of a patch, and where in the patch it says it.

The head of such a network is linear on the average of the two stains' features, and these are
averages of maps, so both questions have exact answers; nothing is estimated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsi_models.parts.maps import feature_map

if TYPE_CHECKING:
    from wsi_models.networks.class_m import ClassMNetwork


class StainExplainer(nn.Module):
    """Tells the part of hematoxylin from the part of eosin in the logits of CLASS-M.

    ``logits = W (f_H + f_E) / 2 + b`` is the sum of ``W f_H / 2 + b / 2`` and
    ``W f_E / 2 + b / 2``; and with the maps ``M`` of an encoder, ``f = mean(M)``, each of them is
    the mean of ``W M / 2 + b / 2`` over the places of the patch (class activation maps [1]_).

    Parameters
    ----------
    network : ClassMNetwork
        In evaluation mode; its parameters are shared, not copied.

    References
    ----------
    .. [1] B. Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
    """

    def __init__(self, network: ClassMNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, he: Tensor) -> Tensor:
        """Compute the parts of the logits.

        Parameters
        ----------
        he : Tensor of shape (B, 2, P, P)
            Normalised patches, hematoxylin first.

        Returns
        -------
        Tensor of shape (B, 2 C)
            The parts of hematoxylin for all C classes, then those of eosin; their sum is the
            logits.
        """
        return torch.cat([self._half(features) for features in self.network.encode(he)], dim=1)

    def maps(self, he: Tensor) -> Tensor:
        """Compute the parts of the logits at every place of the patches.

        Parameters
        ----------
        he : Tensor of shape (B, 2, P, P)
            As for :meth:`forward`.

        Returns
        -------
        Tensor of shape (B, 2, C, h, w)
            The mean over the last two axes is what :meth:`forward` gives.
        """
        encoders = (self.network.encoder_h, self.network.encoder_e)
        parts = [
            self._half(feature_map(encoder, he[:, i : i + 1]).movedim(1, -1)).movedim(-1, 1)
            for i, encoder in enumerate(encoders)
        ]
        return torch.stack(parts, dim=1)

    def _half(self, features: Tensor) -> Tensor:
        """Apply half of the head to the last axis."""
        half: Tensor = self.network.head(features) / 2
        return half
