"""RGB patches -> features, projections and cluster logits: an encoder with the heads of CluSiam.

The network only: what it is trained with, such as its predictor, belongs to the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from wsi_models.parts.patch_network import PatchNetwork

if TYPE_CHECKING:
    from wsi_models.parts.backbone import Encoder


class ClusterNetwork(PatchNetwork):
    """An encoder, a projector, and a head that assigns projections to clusters.

    Parameters
    ----------
    encoder : Encoder
        Takes three channels.
    clusters : int
        Number K of clusters at most.
    projected : int
        Length D of a projection.
    hidden : int
        Width of the cluster projector.

    Notes
    -----
    The projector ends in batch normalisation without parameters, as published. Its last linear
    layer has no bias, where the published one is frozen: the normalisation takes either away.

    References
    ----------
    .. [1] W. Wu et al., Improving Representation Learning for Histopathologic Images with Cluster
       Constraints, ICCV 2023.
    """

    def __init__(self, encoder: Encoder, clusters: int, *, projected: int, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder.module
        width = encoder.features
        self.projector = nn.Sequential(
            *hidden_layer(width, width),
            *hidden_layer(width, width),
            nn.Linear(width, projected, bias=False),
            nn.BatchNorm1d(projected, affine=False),
        )
        self.cluster_projector = nn.Sequential(*hidden_layer(projected, hidden, bias=True))
        self.assigner = nn.Linear(hidden, clusters)

    def features(self, patches: Tensor) -> Tensor:
        """Compute what the encoder gives, shape (B, F), for patches of shape (B, 3, P, P)."""
        features: Tensor = self.encoder(patches)
        return features

    def project(self, features: Tensor) -> Tensor:
        """Compute the projections, shape (B, D), of features of shape (B, F)."""
        projections: Tensor = self.projector(features)
        return projections

    def assign(self, projections: Tensor) -> Tensor:
        """Compute the logits of the clusters, shape (B, K), of projections of shape (B, D)."""
        logits: Tensor = self.assigner(self.cluster_projector(projections))
        return logits

    def classify(self, patches: Tensor) -> Tensor:
        """Compute the logits of the clusters, shape (B, K)."""
        return self.assign(self.project(self.features(patches)))

    def features_and_logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features and the logits of the clusters in one pass."""
        features = self.features(patches)
        return features, self.assign(self.project(features))

    def forward(self, patches: Tensor) -> Tensor:
        """Compute the logits of the clusters; see :meth:`classify`."""
        return self.classify(patches)


def hidden_layer(inputs: int, outputs: int, *, bias: bool = False) -> tuple[nn.Module, ...]:
    """Build a linear layer with batch normalisation and rectifier."""
    return nn.Linear(inputs, outputs, bias=bias), nn.BatchNorm1d(outputs), nn.ReLU()
