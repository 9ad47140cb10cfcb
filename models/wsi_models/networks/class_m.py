"""Hematoxylin and eosin patches -> class logits and the stain embeddings of CLASS-M.

The network only: losses, views and the training loop live elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from wsi_models.parts.patch_network import PatchNetwork

if TYPE_CHECKING:
    from wsi_models.parts.backbone import Encoder


class ClassMOutput(NamedTuple):
    """What the network gives in training.

    Attributes
    ----------
    logits : Tensor of shape (B, C)
        Before the softmax.
    z_h, z_e : Tensor of shape (B, F)
        Normalised features of the two channels, for the contrastive loss.
    """

    logits: Tensor
    z_h: Tensor
    z_e: Tensor


class ClassMNetwork(PatchNetwork):
    """Two encoders that share no weights, one per stain, and a linear head on their average.

    ``logits = W (f_H + f_E) / 2 + b`` with the raw features ``f_H``, ``f_E`` of the two encoders;
    ``z_H = BN_H(f_H)`` and ``z_E = BN_E(f_E)`` with batch normalisation without affine
    parameters, so every embedding dimension has zero mean and unit variance over a batch [1]_.

    Parameters
    ----------
    class_count : int
        Number C of classes.
    encoder_h, encoder_e : Encoder
        Each takes one channel and gives F features; ResNet-18 with F = 512 in the paper.

    Raises
    ------
    ValueError
        If there are fewer than two classes, or the encoders differ in their features.

    References
    ----------
    .. [1] B. Zhang et al., CLASS-M: Adaptive stain separation-based contrastive learning with
       pseudo-labeling for histopathological image classification, Medical Image Analysis 105
       (2025) 103711.
    """

    def __init__(self, class_count: int, encoder_h: Encoder, encoder_e: Encoder) -> None:
        super().__init__()
        if class_count < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {class_count}")
        features = encoder_h.features
        if encoder_e.features != features:
            raise ValueError(f"encoders give {features} and {encoder_e.features} features")
        self.encoder_h, self.encoder_e = encoder_h.module, encoder_e.module
        self.head = nn.Linear(features, class_count)
        self.norm_h = nn.BatchNorm1d(features, affine=False)
        self.norm_e = nn.BatchNorm1d(features, affine=False)

    def encode(self, he: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the raw features of both channels.

        Parameters
        ----------
        he : Tensor of shape (B, 2, P, P)
            Normalised patches, hematoxylin first.

        Returns
        -------
        tuple of Tensor of shape (B, F)
            Features of hematoxylin and of eosin, non-negative.

        Raises
        ------
        ValueError
            If ``he`` does not have two channels.
        """
        if he.ndim != 4 or he.shape[1] != 2:
            raise ValueError(f"he must have shape (B, 2, P, P), got {tuple(he.shape)}")
        return self.encoder_h(he[:, :1]), self.encoder_e(he[:, 1:])

    def features(self, patches: Tensor) -> Tensor:
        """Concatenate the raw features of both channels, shape (B, 2 F), hematoxylin first."""
        return torch.cat(self.encode(patches), dim=1)

    def classify(self, patches: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of patches as :meth:`encode` takes them."""
        return self._logits(*self.encode(patches))

    def features_and_logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features and logits in one pass."""
        f_h, f_e = self.encode(patches)
        return torch.cat([f_h, f_e], dim=1), self._logits(f_h, f_e)

    def forward(self, he: Tensor) -> ClassMOutput:
        """Compute logits and embeddings of patches as :meth:`encode` takes them.

        In training mode the embeddings are normalised by the batch, which must hold at least two
        patches; in evaluation mode by running statistics.
        """
        f_h, f_e = self.encode(he)
        return ClassMOutput(self._logits(f_h, f_e), self.norm_h(f_h), self.norm_e(f_e))

    def _logits(self, f_h: Tensor, f_e: Tensor) -> Tensor:
        logits: Tensor = self.head((f_h + f_e) / 2)
        return logits
