"""EfficientNet-Lite0 as an encoder of RGB tiles: the one whose weights come with a package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_models.encoders.errors import EncoderError
from wsi_models.parts.backbone import EfficientNetLite0Config, build_encoder
from wsi_models.parts.imagenet import WeightsError

if TYPE_CHECKING:
    from torch import nn

    from wsi_models.encoders.card import EncoderCard


@dataclass(frozen=True, slots=True)
class LiteEncoder:
    """EfficientNet-Lite0 and the average over its last maps.

    Attributes
    ----------
    card : EncoderCard
        What is published of it.
    """

    card: EncoderCard

    def build(self) -> nn.Module:
        """Build the network with random weights; see :class:`~wsi_models.encoders.PatchEncoder`.

        Raises
        ------
        EncoderError
            If the extra ``efficientnet`` is not installed.
        """
        config = EfficientNetLite0Config(weights=None)
        try:
            return build_encoder(config, 3, self.card.transform.input_px).module
        except WeightsError as error:
            raise EncoderError(str(error)) from error
