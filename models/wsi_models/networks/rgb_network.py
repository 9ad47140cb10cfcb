"""RGB patches -> features and class logits: an encoder and one or two linear layers.

The network only: losses, views and the training loop live elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from wsi_models.parts.patch_network import PatchNetwork

if TYPE_CHECKING:
    from wsi_models.parts.backbone import Encoder


class RgbNetwork(PatchNetwork):
    """An encoder and a linear layer.

    Parameters
    ----------
    encoder : Encoder
        Takes three channels.
    class_count : int
        Number C of classes.
    """

    def __init__(self, encoder: Encoder, class_count: int) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.head = nn.Linear(encoder.features, class_count)

    def features(self, patches: Tensor) -> Tensor:
        """Compute what the encoder gives, shape (B, F)."""
        features: Tensor = self.encoder(patches)
        return features

    def classify(self, patches: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of normalised patches of shape (B, 3, P, P)."""
        logits: Tensor = self.head(self.features(patches))
        return logits

    def features_and_logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features and logits in one pass."""
        features = self.features(patches)
        return features, self.head(features)

    def forward(self, patches: Tensor) -> Tensor:
        """Compute the logits; see :meth:`classify`."""
        return self.classify(patches)


class EmbeddingNetwork(PatchNetwork):
    """An encoder, a linear layer to a small embedding, and a linear layer to the classes.

    Parameters
    ----------
    encoder : Encoder
        Takes three channels.
    embedding : int
        Number F of features of the embedding.
    class_count : int
        Number C of classes.

    Notes
    -----
    Nothing but a matrix lies between encoder, embedding and classes, as in the release of S5CL:
    the embedding is where patches of one class are pulled together, and its features are what
    :meth:`features` gives.

    References
    ----------
    .. [1] M. Tran et al., S5CL, MICCAI 2022.
    """

    def __init__(self, encoder: Encoder, embedding: int, class_count: int) -> None:
        super().__init__()
        self.encoder = encoder.module
        self.embedder = nn.Linear(encoder.features, embedding)
        self.head = nn.Linear(embedding, class_count)

    def features(self, patches: Tensor) -> Tensor:
        """Compute the embedding, shape (B, F), not scaled to any length."""
        embedding: Tensor = self.embedder(self.encoder(patches))
        return embedding

    def classify(self, patches: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of normalised patches of shape (B, 3, P, P)."""
        logits: Tensor = self.head(self.features(patches))
        return logits

    def features_and_logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features and logits in one pass."""
        features = self.features(patches)
        return features, self.head(features)

    def forward(self, patches: Tensor) -> Tensor:
        """Compute the logits; see :meth:`classify`."""
        return self.classify(patches)
