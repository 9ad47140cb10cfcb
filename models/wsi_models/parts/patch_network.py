"""Patches -> features and outputs: what every network that a bundle can hold has in common.

The networks themselves, and how they are trained, live elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class PatchNetwork(nn.Module, ABC):
    """A network that describes patches, and judges them by that description."""

    @abstractmethod
    def features(self, patches: Tensor) -> Tensor:
        """Describe patches.

        Parameters
        ----------
        patches : Tensor of shape (B, channels, P, P)
            Normalised patches: two stains, hematoxylin first, or RGB.

        Returns
        -------
        Tensor of shape (B, F)
            One vector per patch, as methods on slides and nearest neighbours use it.
        """

    @abstractmethod
    def classify(self, patches: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of patches as :meth:`features` takes them."""

    def features_and_logits(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both, as :meth:`features` and :meth:`classify` do.

        Networks whose logits follow from the features do it in one pass.
        """
        return self.features(patches), self.classify(patches)


class Classifier(nn.Module):
    """A network as a plain classifier: patches in, logits out.

    Parameters
    ----------
    network : PatchNetwork
        The network; its parameters are shared, not copied.
    """

    def __init__(self, network: PatchNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of normalised patches."""
        return self.network.classify(patches)


class FeatureExtractor(nn.Module):
    """A network as a plain encoder: patches in, features out.

    Parameters
    ----------
    network : PatchNetwork
        The network; its parameters are shared, not copied.
    """

    def __init__(self, network: PatchNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor) -> Tensor:
        """Compute the features, shape (B, F), of normalised patches."""
        return self.network.features(patches)
