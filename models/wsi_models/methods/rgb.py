"""RGB patches -> class logits: the network, views and evaluation that the baselines share.

What each baseline minimises is in its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor, nn

from wsi_models.methods.averaged import AveragedConfig, AveragedMethod
from wsi_models.parts.backbone import EncoderConfig, ResNet18Config, build_encoder
from wsi_models.views import RgbViewConfig, RgbViews

if TYPE_CHECKING:
    from wsi_models.methods.base import Batch


class RgbConfig(AveragedConfig):
    """What every baseline can be told."""

    encoder: EncoderConfig = Field(ResNet18Config(), description="The encoder of RGB patches.")
    views: RgbViewConfig = Field(RgbViewConfig(), description="What the network sees.")


class RgbNetwork(nn.Module):
    """An encoder and a linear layer.

    Parameters
    ----------
    encoder : Module
        Maps (B, 3, P, P) to (B, ``features``).
    features : int
        Number of features.
    class_count : int
        Number C of classes.
    """

    def __init__(self, encoder: nn.Module, features: int, class_count: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features, class_count)

    def forward(self, rgb: Tensor) -> Tensor:
        """Compute the logits, shape (B, C), of normalised patches of shape (B, 3, P, P)."""
        logits: Tensor = self.head(self.encoder(rgb))
        return logits


class RgbMethod(AveragedMethod[RgbNetwork]):
    """A method on RGB patches; see :class:`AveragedMethod`."""

    def __init__(self, config: RgbConfig, classes: int, sizes: tuple[int, int]) -> None:
        encoder = build_encoder(config.encoder, 3, config.views.patch_px)
        network = RgbNetwork(encoder.module, encoder.features, classes)
        super().__init__(config, classes, network, sizes)
        self.views = RgbViews(config.views)

    def evaluation_input(self, batch: Batch) -> Tensor:
        """Make the input of the evaluated network, shape (B, 3, P, P)."""
        return self.views.plain(batch)

    def classify(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Compute the logits that the network gives."""
        logits: Tensor = network(inputs)
        return logits
