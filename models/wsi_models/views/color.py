"""RGB patches -> jittered RGB, and RGB -> what the two channels of a network see of it.

Colour only: where the pixels lie is :mod:`wsi_models.views.geometry`'s business.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from wsi_models.parts import draws

ChannelPair = Literal["he", "red_green", "red_blue"]
"""The two views of a patch: its stains, or two of its colours as an ablation."""

COLOR_CHANNELS: dict[str, tuple[int, int]] = {"red_green": (0, 1), "red_blue": (0, 2)}

FIXED_UNMIX = ((1.838, 0.0341, -0.760), (-1.373, 0.772, 1.215))
"""The fallback of the CLASS-M release, H and E; its maxima are 0.5, so twice them is 1."""

LUMA = (0.2989, 0.5870, 0.1140)

YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""Luma and the two colour differences of NTSC, from RGB."""

JitterOp = Literal["brightness", "contrast", "saturation", "sharpness"]


def blend(rgb: Tensor, ops: tuple[JitterOp, ...], choice: Tensor, factor: Tensor) -> Tensor:
    """Blend each patch with a degenerate copy of itself: black, grey, or blurred.

    ``clip(factor * x + (1 - factor) * degenerate(x), 0, 1)``, where the degenerate copy is black
    for brightness, the mean grey of the patch for contrast, its grey image for saturation, and
    its 3 x 3 mean for sharpness. A factor of 1 changes nothing. None changes the hue.

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        In [0, 1].
    ops : tuple of str
        The operations to choose from.
    choice : Tensor of shape (B,), int64
        Index in ``ops`` of each patch's operation.
    factor : Tensor of shape (B,)
        How much of the patch remains; above 1 exaggerates.

    Returns
    -------
    Tensor of shape (B, 3, S, S)
        In [0, 1].
    """
    degenerate = torch.zeros_like(rgb)
    for index, op in enumerate(ops):
        if op != "brightness":
            chosen = (choice == index).to(rgb.dtype).view(-1, 1, 1, 1)
            degenerate = degenerate + chosen * _degenerate(rgb, op)
    share = factor.to(rgb.dtype).view(-1, 1, 1, 1)
    return (share * rgb + (1 - share) * degenerate).clamp(0, 1)


def _degenerate(rgb: Tensor, op: JitterOp) -> Tensor:
    if op == "sharpness":
        return functional.avg_pool2d(functional.pad(rgb, (1, 1, 1, 1), mode="replicate"), 3, 1)
    weights = rgb.new_tensor(LUMA).view(1, 3, 1, 1)
    grey = (rgb * weights).sum(dim=1, keepdim=True)
    return grey.mean(dim=(2, 3), keepdim=True) if op == "contrast" else grey


def jitter_rgb(rgb: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Jitter brightness, contrast and saturation of each patch, in an order of its own.

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        In [0, 1].
    strength : float
        Factors come from U[1 - strength, 1 + strength]; the paper's is 0.1.
    generator : torch.Generator
        Source of orders and factors.

    Returns
    -------
    Tensor of shape (B, 3, S, S)
        In [0, 1].
    """
    ops: tuple[JitterOp, ...] = ("brightness", "contrast", "saturation")
    count, device = len(rgb), rgb.device
    order = draws.uniform((count, 3), 0, 1, generator, device).argsort(dim=1)
    factors = draws.uniform((count, 3), 1 - strength, 1 + strength, generator, device)
    for step in range(3):
        rgb = blend(rgb, ops, order[:, step], factors[:, step])
    return rgb


def turn_hue(rgb: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of each patch, leaving its luma as it is.

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        In [0, 1].
    turns : Tensor of shape (B,)
        Share of a full turn; the colours are turned in the plane of I and Q of YIQ.

    Returns
    -------
    Tensor of shape (B, 3, S, S)
        In [0, 1].
    """
    to_yiq = rgb.new_tensor(YIQ)
    angle = (2 * math.pi * turns).to(rgb.dtype)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.eye(3, dtype=rgb.dtype, device=rgb.device).repeat(len(rgb), 1, 1)
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = cos, -sin, sin, cos
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, rgb).clamp(0, 1)


def jitter_brightness(channels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Multiply each channel of each patch by a factor of its own, and clip to [0, 1].

    Parameters
    ----------
    channels : Tensor of shape (B, C, P, P)
        In [0, 1].
    strength : float
        Factors come from U[1 - strength, 1 + strength].
    generator : torch.Generator
        Source of the factors.
    """
    shape = (*channels.shape[:2], 1, 1)
    factors = draws.uniform(shape, 1 - strength, 1 + strength, generator, channels.device)
    return (channels * factors).clamp(0, 1)


def separate(rgb: Tensor, unmix: Tensor) -> Tensor:
    """Turn RGB into stain concentrations in the scale of the network.

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        Intensities in [0, 1], where 1 is background; read as at least 1/255.
    unmix : Tensor of shape (B, 2, 3)
        Rows that turn log10 optical density into concentration over twice its maximum.

    Returns
    -------
    Tensor of shape (B, 2, S, S)
        Hematoxylin and eosin, clipped to [0, 1].
    """
    density = -torch.log10(rgb.clamp(min=1 / 255))
    return torch.einsum("bcs,bshw->bchw", unmix.to(rgb.dtype), density).clamp(0, 1)


def view_channels(rgb: Tensor, unmix: Tensor, channels: ChannelPair) -> Tensor:
    """Make the two channels of a network from RGB in [0, 1].

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        Intensities in [0, 1].
    unmix : Tensor of shape (B, 2, 3)
        As for :func:`separate`; only stains need it.
    channels : {"he", "red_green", "red_blue"}
        Stains, or two of the colours as they are.

    Returns
    -------
    Tensor of shape (B, 2, S, S)
        In [0, 1].
    """
    if channels not in get_args(ChannelPair):
        raise ValueError(f"channels must be one of {get_args(ChannelPair)}, got {channels!r}")
    if channels == "he":
        return separate(rgb, unmix)
    return rgb[:, list(COLOR_CHANNELS[channels])]
