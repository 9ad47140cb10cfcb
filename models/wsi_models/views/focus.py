"""Patches -> patches as a worse scanner or a coarser compression would give them.

Blur and noise only, each patch with draws of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from wsi_models.parts import draws

BLUR_REACH = 3
"""Deviations after which the kernel of a blur ends."""

LEAST_BLUR_PX = 0.1
"""A deviation, px, that leaves a patch as it is."""


def defocus(channels: Tensor, most_px: float, generator: torch.Generator) -> Tensor:
    """Blur each channel of each patch by a deviation of its own.

    Parameters
    ----------
    channels : Tensor of shape (B, C, P, P)
        Any values.
    most_px : float
        Deviations come from U[0.1, most_px], px.
    generator : torch.Generator
        Source of the deviations.
    """
    planes = channels.flatten(0, 1)[:, None]
    most = max(most_px, LEAST_BLUR_PX)
    deviation = draws.uniform((len(planes),), LEAST_BLUR_PX, most, generator, channels.device)
    return gaussian_blur(planes, deviation, most).view_as(channels)


def add_noise(channels: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Add normal noise to each channel of each patch, as strong as drawn for it.

    Parameters
    ----------
    channels : Tensor of shape (B, C, P, P)
        In [0, 1].
    most : float
        Standard deviations come from U[0, most].
    generator : torch.Generator
        Source of deviations and noise.

    Returns
    -------
    Tensor of shape (B, C, P, P)
        Clipped to [0, 1].
    """
    shape = (*channels.shape[:2], 1, 1)
    deviation = draws.uniform(shape, 0, most, generator, channels.device)
    noise = draws.normal(tuple(channels.shape), generator, channels.device)
    return (channels + deviation * noise).clamp(0, 1)


def gaussian_blur(patches: Tensor, deviation: Tensor, most_px: float) -> Tensor:
    """Blur each patch by a Gaussian of its own.

    Parameters
    ----------
    patches : Tensor of shape (B, C, P, P)
        Their borders are replicated.
    deviation : Tensor of shape (B,)
        Standard deviation, px.
    most_px : float
        The largest deviation; three times it is where the kernels end.
    """
    count, reach = len(patches), math.ceil(BLUR_REACH * most_px)
    steps = torch.arange(-reach, reach + 1, device=patches.device)
    kernel = (-0.5 * (steps / deviation[:, None]).square()).exp()
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).to(patches.dtype)
    # patches as channels, so that each meets its own kernel
    planes = functional.pad(patches.transpose(0, 1), (reach,) * 4, mode="replicate")
    planes = functional.conv2d(planes, kernel.view(count, 1, 1, -1), groups=count)
    planes = functional.conv2d(planes, kernel.view(count, 1, -1, 1), groups=count)
    return planes.transpose(0, 1)
