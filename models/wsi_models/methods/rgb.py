"""RGB patches -> class logits: the choices, views and evaluation that the baselines share.

What each baseline minimises is in its own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from wsi_models.methods.averaged import AveragedConfig, AveragedMethod
from wsi_models.networks.description import RgbClassifierConfig, build_network
from wsi_models.networks.rgb_network import RgbNetwork
from wsi_models.parts.backbone import EncoderConfig, ResNet18Config
from wsi_models.parts.interleave import interleave
from wsi_models.views import RgbViewConfig, RgbViews

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from wsi_models.methods.base import Batch


class RgbConfig(AveragedConfig):
    """What every baseline can be told."""

    encoder: EncoderConfig = Field(ResNet18Config(), description="The encoder of RGB patches.")
    views: RgbViewConfig = Field(RgbViewConfig(), description="What the network sees.")

    def network(self) -> RgbClassifierConfig:
        """Describe the network that is trained."""
        return RgbClassifierConfig(encoder=self.encoder)


class RgbMethod(AveragedMethod[RgbNetwork]):
    """A method on RGB patches; see :class:`AveragedMethod`."""

    def __init__(self, config: RgbConfig, classes: int, sizes: tuple[int, int]) -> None:
        network = build_network(config.network(), classes, config.views.patch_px)
        super().__init__(config, classes, network, sizes)
        self.views = RgbViews(config.views)

    def three_views(
        self,
        labelled: Batch,
        unlabelled: Batch,
        generator: torch.Generator,
        factors: tuple[float, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw what FixMatch compares: labelled, and unlabelled weakly and strongly changed."""
        return (
            self.views.random(labelled, generator),
            self.views.random(unlabelled, generator),
            self.views.strong(unlabelled, generator, factors),
        )

    @staticmethod
    def in_chunks(compute: Callable[[Tensor], Tensor], items: Tensor, size: int | None) -> Tensor:
        """Send patches through a network at once, or in mixed chunks of ``size``."""
        if size is None or size >= len(items):
            return compute(items)
        return interleave(len(items), size, items.device).apply(compute, items)

    def evaluation_input(self, batch: Batch) -> Tensor:
        """Make the input of the evaluated network, shape (B, 3, P, P)."""
        return self.views.plain(batch)
