"""One stain channel -> a feature vector, by a residual network.

Builds networks only; pretrained weights are loaded by :mod:`wsi_models.parts.imagenet`.
"""

from __future__ import annotations

from typing import cast

from torch import nn

Stages = tuple[int, int, int, int]
"""One number per stage of a residual network, finest stage first."""

RESNET18_LAYERS: Stages = (2, 2, 2, 2)
RESNET18_PLANES: Stages = (64, 128, 256, 512)


def residual_network(
    channels: int,
    *,
    layers: Stages = RESNET18_LAYERS,
    block_inplanes: Stages = RESNET18_PLANES,
) -> nn.Module:
    """Build a 2-D residual network of basic blocks without a classification layer.

    Parameters
    ----------
    channels : int
        Channels of its input.
    layers : tuple of int
        Basic blocks per stage; (2, 2, 2, 2) is ResNet-18.
    block_inplanes : tuple of int
        Channels per stage; the last is the number of features.

    Returns
    -------
    Module
        Maps (B, channels, H, W) to (B, ``block_inplanes[-1]``) float features: the average over
        the last feature map, non-negative. H and W are any multiple of 32. Parameters have
        torchvision's names and, with the defaults, its shapes.

    References
    ----------
    .. [1] K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """
    # imported here because it takes seconds, which nobody should wait for who builds no network
    from monai.networks.nets.resnet import ResNet

    network = ResNet(
        block="basic",
        layers=list(layers),
        block_inplanes=list(block_inplanes),
        spatial_dims=2,
        n_input_channels=channels,
        conv1_t_size=7,
        conv1_t_stride=2,
        feed_forward=False,
        shortcut_type="B",
        bias_downsample=False,
    )
    return cast("nn.Module", network)


def silence_residuals(network: nn.Module) -> None:
    """Make every block of a residual network start as its shortcut.

    The scale of the last batch normalisation of each block becomes zero. Networks without such
    blocks stay as they are.

    References
    ----------
    .. [1] P. Goyal et al., Accurate, Large Minibatch SGD, arXiv:1706.02677, section 5.1.
    """
    from monai.networks.nets.resnet import ResNetBlock

    for module in network.modules():
        if isinstance(module, ResNetBlock):
            nn.init.zeros_(cast("nn.BatchNorm2d", module.bn2).weight)
