"""How patches become input: the choices of a recipe, checked.

Says what is done; :mod:`wsi_models.views.inputs` does it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wsi_models.parts.choices import Choices
from wsi_models.views.color import ChannelPair
from wsi_models.views.geometry import Rotation


class GeometryConfig(Choices):
    """Which part of a stored patch the network sees."""

    patch_px: int = Field(256, ge=8, description="Side of the network's input, px.")
    rotation: Rotation = Field(
        "any",
        description="'any' angle needs stored patches of patch_px * sqrt(2), for no fill; "
        "'quarter' turns need patch_px.",
    )


class StainViewConfig(GeometryConfig):
    """How the two stains of a patch are shown to a network in training."""

    rgb_jitter: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Jitter of brightness, contrast and saturation before the stains are "
        "separated; 0 is the ablation without RGB augmentation.",
    )
    channel_brightness: float = Field(
        0.1, ge=0, lt=1, description="Jitter of each stain on its own, after separation."
    )
    stain_matrix: Literal["slide", "fixed"] = Field(
        "slide", description="The slide's own stain matrix, or the published one for all."
    )
    channels: ChannelPair = Field("he", description="Stains, or two colours as an ablation.")
    same_geometry: bool = Field(
        False, description="One rotation, crop and flip for both channels of a patch."
    )


class RgbViewConfig(GeometryConfig):
    """How an RGB patch is shown to a network in training."""

    rgb_jitter: float = Field(
        0.1, ge=0, lt=1, description="Jitter of brightness, contrast and saturation."
    )
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="Subtracted; the default is ImageNet's."
    )
    std: tuple[float, float, float] = Field(
        (0.229, 0.224, 0.225), description="Divided by; the default is ImageNet's."
    )
