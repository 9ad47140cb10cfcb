"""RGB patches -> the same with other amounts of hematoxylin, eosin and DAB.

Deliberately not the slide's own stains: a fixed matrix serves where none was estimated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wsi_models.parts import draws

HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of R, G and B per unit of hematoxylin, eosin and DAB; Ruifrok and Johnston."""

UNIT = -math.log(1e-6)
"""Natural optical density that counts as one unit of stain, so that 1e-6 is the darkest."""


def jitter_hed(rgb: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Scale and shift the stains of each patch, then stretch it to the whole range.

    A stain s becomes ``a s + b`` with a from U[1 - strength, 1 + strength] and b from
    U[-strength, strength], each stain of each patch with draws of its own.

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        In [0, 1].
    strength : float
        S5CL's is 0.01, in units in which white is 0 and black 1.
    generator : torch.Generator
        Source of the draws.

    Returns
    -------
    Tensor of shape (B, 3, S, S)
        In [0, 1], from 0 to 1 in each patch that is not of one intensity.

    Notes
    -----
    Negative amounts of a stain are kept, unlike in scikit-image, so that a colour which the three
    stains cannot mix changes only by the jitter.

    References
    ----------
    .. [1] D. Tellez et al., Whole-Slide Mitosis Detection in H&E Breast Histology Using PHH3,
       IEEE Transactions on Medical Imaging 37 (2018).
    """
    count, device = len(rgb), rgb.device
    scale = draws.uniform((count, 3), 1 - strength, 1 + strength, generator, device)
    shift = draws.uniform((count, 3), -strength, strength, generator, device)
    return _stretch(change_stains(rgb, scale, shift))


def change_stains(rgb: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift the three stains of each patch.

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        In [0, 1]; read as at least 1e-6.
    scale, shift : Tensor of shape (B, 3)
        For hematoxylin, eosin and DAB; (1, 0) changes nothing.

    Returns
    -------
    Tensor of shape (B, 3, S, S)
        In [0, 1].
    """
    colors = torch.tensor(HED, dtype=torch.float64)
    forth, back = torch.linalg.inv(colors).to(rgb), colors.to(rgb)
    # density -> stains -> scaled stains -> density is one matrix per patch
    mix = torch.einsum("cs,bs,sd->bdc", forth, scale.to(rgb.dtype), back)
    offset = UNIT * (shift.to(rgb.dtype) @ back)
    density = -rgb.clamp(min=1e-6).log()
    changed = torch.einsum("bdc,bchw->bdhw", mix, density) + offset[:, :, None, None]
    return torch.exp(-changed).clamp(0, 1)


def _stretch(rgb: Tensor) -> Tensor:
    low, high = rgb.amin(dim=(1, 2, 3), keepdim=True), rgb.amax(dim=(1, 2, 3), keepdim=True)
    return torch.where(high > low, (rgb - low) / (high - low).clamp(min=1e-6), rgb)
