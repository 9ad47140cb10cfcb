"""How patches become input: the choices of a recipe, checked.

Says what is done; :mod:`wsi_models.views.inputs` does it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsi_models.parts.choices import Choices
from wsi_models.views.color import ChannelPair
from wsi_models.views.geometry import Rotation, require_room

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class GeometryConfig(Choices):
    """Which part of a stored patch the network sees."""

    patch_px: int = Field(256, ge=8, description="Side of the network's input, px.")
    rotation: Rotation = Field(
        "any",
        description="'any' angle needs stored patches of patch_px * sqrt(2), for no fill; "
        "'quarter' turns need patch_px.",
    )

    def require_room(self, stored_px: int) -> None:
        """Refuse stored patches of a side that is too small, with a ValueError."""
        require_room(stored_px, self.patch_px, self.rotation)


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
    blur_px: float = Field(
        0.0,
        ge=0,
        description="Most deviation of a blur of each stain, px, drawn for each patch; for "
        "scanners that focus or compress differently. The paper has none.",
    )
    noise: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Most deviation of noise added to each stain, in [0, 1], drawn for each "
        "patch. The paper has none.",
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


class TwinViewConfig(RgbViewConfig):
    """How an RGB patch is shown twice, weakly and strongly changed; the defaults are S5CL's."""

    rotation: Rotation = Field(
        "quarter", description="Of weak views, as for others; strong ones turn by quarters."
    )
    hue_jitter: float = Field(
        0.1, ge=0, le=0.5, description="Jitter of the hue of weak views, in turns."
    )
    hed_jitter: float = Field(
        0.01, ge=0, lt=1, description="Jitter of the stains of strong views, drawn for each patch."
    )
    least_area: float = Field(
        0.08, gt=0, le=1, description="Least share of the input that a strong view enlarges."
    )
    displacement: float = Field(
        0.05, ge=0, lt=0.3, description="Slant of strong views, as a share of the side."
    )


class SiameseViewConfig(Choices):
    """How patches are shown to methods without labels; the defaults are those of CluSiam."""

    patch_px: int = Field(224, ge=8, description="Side of the network's input, px.")
    crop_share: tuple[Share, Share] = Field(
        (0.2, 1.0), description="Least and most of a stored patch's area that a view shows."
    )
    crop_aspect: tuple[Positive, Positive] = Field(
        (3 / 4, 4 / 3), description="Least and most width over height of what a view shows."
    )
    jitter_share: float = Field(
        0.8, ge=0, le=1, description="Share of the views whose colours are jittered."
    )
    rgb_jitter: float = Field(
        0.4, ge=0, lt=1, description="Jitter of brightness, contrast and saturation."
    )
    hue_jitter: float = Field(0.1, ge=0, le=0.5, description="Jitter of the hue, in turns.")
    grey_share: float = Field(0.2, ge=0, le=1, description="Share of the views that are grey.")
    blur_share: float = Field(0.5, ge=0, le=1, description="Share of the views that are blurred.")
    blur_px: tuple[Positive, Positive] = Field(
        (0.1, 2.0),
        description="Least and most deviation of a blur, px; published for inputs of 224 px.",
    )
    mean: tuple[float, float, float] = Field(
        (0.485, 0.456, 0.406), description="Subtracted; the default is ImageNet's."
    )
    std: tuple[Positive, Positive, Positive] = Field(
        (0.229, 0.224, 0.225), description="Divided by; the default is ImageNet's."
    )

    def require_room(self, stored_px: int) -> None:
        """Refuse stored patches without room for the centre, with a ValueError."""
        require_room(stored_px, self.patch_px, "quarter")
