"""Hematoxylin and eosin patches -> class logits and the stain embeddings of CLASS-M.

The network only: losses, views and the training loop live elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from wsi_models.parts.encoder import (
    RESNET18_LAYERS,
    RESNET18_PLANES,
    Stages,
    channel_encoder,
)


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


class EncoderPair(NamedTuple):
    """Two encoders to build a :class:`ClassMNetwork` from.

    Attributes
    ----------
    encoder_h, encoder_e : Module
        Each maps (B, 1, P, P) to (B, ``features``); they share no weights.
    features : int
        Number F of features of both.
    """

    encoder_h: nn.Module
    encoder_e: nn.Module
    features: int


class ClassMNetwork(nn.Module):
    """Two encoders that share no weights, one per stain, and a linear head on their average.

    ``logits = W (f_H + f_E) / 2 + b`` with the raw features ``f_H``, ``f_E`` of the two encoders;
    ``z_H = BN_H(f_H)`` and ``z_E = BN_E(f_E)`` with batch normalisation without affine
    parameters, so every embedding dimension has zero mean and unit variance over a batch [1]_.

    Parameters
    ----------
    class_count : int
        Number C of classes.
    layers, block_inplanes : tuple of int
        Blocks and channels per stage of each encoder; the defaults are the paper's ResNet-18,
        with F = 512 features.
    encoders : EncoderPair or None
        Encoders of another kind; then ``layers`` and ``block_inplanes`` are not used.

    Raises
    ------
    ValueError
        If there are fewer than two classes.

    References
    ----------
    .. [1] B. Zhang et al., CLASS-M: Adaptive stain separation-based contrastive learning with
       pseudo-labeling for histopathological image classification, Medical Image Analysis 105
       (2025) 103711.
    """

    def __init__(
        self,
        class_count: int,
        *,
        layers: Stages = RESNET18_LAYERS,
        block_inplanes: Stages = RESNET18_PLANES,
        encoders: EncoderPair | None = None,
    ) -> None:
        super().__init__()
        if class_count < 2:
            raise ValueError(f"a classifier needs at least 2 classes, got {class_count}")
        if encoders is None:
            encoders = EncoderPair(
                channel_encoder(layers=layers, block_inplanes=block_inplanes),
                channel_encoder(layers=layers, block_inplanes=block_inplanes),
                block_inplanes[-1],
            )
        self.encoder_h, self.encoder_e, features = encoders
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

    def classify(self, he: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of patches as :meth:`encode` takes them."""
        return self._logits(*self.encode(he))

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


class ClassMClassifier(nn.Module):
    """A :class:`ClassMNetwork` as a plain classifier: patches in, logits out.

    Parameters
    ----------
    network : ClassMNetwork
        The network; its parameters are shared, not copied.
    """

    def __init__(self, network: ClassMNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, he: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of normalised patches of shape (B, 2, P, P)."""
        return self.network.classify(he)
