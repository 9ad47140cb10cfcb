"""Stored patches -> patches of the input side, rotated, cropped and flipped at random, or centred.

One nearest-neighbour sampling does all of it, each channel group with a geometry of its own;
colours are not touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from wsi_models.parts import draws

Rotation = Literal["any", "quarter"]
"""Any angle, or multiples of 90 degrees."""


def upright_side(stored_px: int, rotation: Rotation) -> int:
    """Measure the largest centred square of a rotated patch that never holds fill, px.

    ``floor(stored / sqrt(2))`` for any angle (282 of 400 px), all of it for quarter turns.
    """
    return math.floor(stored_px / math.sqrt(2)) if rotation == "any" else stored_px


def require_room(stored_px: int, patch_px: int, rotation: Rotation) -> None:
    """Refuse stored patches that are too small for the input and the rotation.

    Raises
    ------
    ValueError
        If a crop of ``patch_px`` could hold fill.
    """
    room = upright_side(stored_px, rotation)
    if patch_px > room:
        raise ValueError(
            f"stored patches of {stored_px} px give at most {room} px with rotation={rotation!r}, "
            f"but patch_px is {patch_px}; store larger patches, lower patch_px, "
            f"or choose rotation='quarter' (at most {stored_px} px)"
        )


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each crop lies in its stored patch: rotate, crop the centre, crop, then flip.

    Attributes
    ----------
    angle : Tensor of shape (N,)
        Rotation of the picture in radians, counter-clockwise as seen.
    corner : Tensor of shape (N, 2), int64
        Column and row of the crop's top-left in the centre crop of :func:`upright_side`.
    flip : Tensor of shape (N, 2), bool
        Whether the crop is mirrored left-right, and upside down.
    """

    angle: Tensor
    corner: Tensor
    flip: Tensor


def draw_placement(
    count: int,
    sides: tuple[int, int],
    rotation: Rotation,
    generator: torch.Generator,
    device: torch.device,
) -> Placement:
    """Draw angles, crops and flips, all uniformly.

    Parameters
    ----------
    count : int
        Number N of crops.
    sides : tuple of int
        Side of the stored patches and of the crops, px.
    rotation : {"any", "quarter"}
        Which angles may occur.
    generator : torch.Generator
        Source of all draws.
    device : torch.device
        Where the placement goes.
    """
    stored_px, patch_px = sides
    require_room(stored_px, patch_px, rotation)
    if rotation == "any":
        angle = draws.uniform((count,), -2 * math.pi, 2 * math.pi, generator, device)
    else:
        angle = draws.integers((count,), 4, generator, device) * (math.pi / 2)
    room = upright_side(stored_px, rotation) - patch_px + 1
    corner = draws.integers((count, 2), room, generator, device)
    flip = draws.integers((count, 2), 2, generator, device) == 1
    return Placement(angle, corner, flip)


def place(patches: Tensor, placement: Placement, patch_px: int, rotation: Rotation) -> Tensor:
    """Cut the crops out of the stored patches.

    Parameters
    ----------
    patches : Tensor of shape (N, C, S, S)
        Stored patches, one per crop.
    placement : Placement
        Where the crops lie.
    patch_px : int
        Side P of the crops.
    rotation : {"any", "quarter"}
        Which centre crop ``placement.corner`` counts from.

    Returns
    -------
    Tensor of shape (N, C, P, P)
        Values of ``patches`` at the nearest pixel.

    Notes
    -----
    Crops and flips move the lattice of pixels onto itself, so rotating with nearest-neighbour
    sampling and then cropping and flipping gives the same pixels as the one sampling here.
    """
    stored_px = patches.shape[-1]
    inset = (stored_px - upright_side(stored_px, rotation)) // 2
    # the centre of the crop as seen from the centre of the rotated patch, px
    offset = placement.corner + inset + (patch_px - stored_px) / 2
    mirror = 1 - 2 * placement.flip.to(torch.float32)
    cos, sin = placement.angle.cos(), placement.angle.sin()
    # turning the picture counter-clockwise reads the stored patch clockwise; rows point down
    back = torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
    linear = back * mirror[:, None, :] * (patch_px / stored_px)
    shift = (back @ offset.to(torch.float32)[:, :, None]) * (2 / stored_px)
    matrix = torch.cat([linear, shift], dim=-1)
    size = [len(patches), patches.shape[1], patch_px, patch_px]
    grid = functional.affine_grid(matrix, size, align_corners=False)
    return functional.grid_sample(
        patches, grid.to(patches.dtype), mode="nearest", padding_mode="zeros", align_corners=False
    )


def random_crops(
    patches: Tensor,
    patch_px: int,
    rotation: Rotation,
    generator: torch.Generator,
    *,
    same_geometry: bool,
) -> Tensor:
    """Rotate, crop and flip patches at random.

    Parameters
    ----------
    patches : Tensor of shape (B, C, S, S)
        Stored patches.
    patch_px : int
        Side P of the crops.
    rotation : {"any", "quarter"}
        Which angles may occur.
    generator : torch.Generator
        Source of all draws.
    same_geometry : bool
        One placement for all channels of a patch, or one for each channel.

    Returns
    -------
    Tensor of shape (B, C, P, P)
        Crops without fill.

    Raises
    ------
    ValueError
        If the stored patches have no room for them.
    """
    count, channels, stored_px, _ = patches.shape
    if not same_geometry:
        patches = patches.reshape(count * channels, 1, stored_px, stored_px)
    placement = draw_placement(
        len(patches), (stored_px, patch_px), rotation, generator, patches.device
    )
    crops = place(patches, placement, patch_px, rotation)
    return crops.reshape(count, channels, patch_px, patch_px)


def centre_crop(patches: Tensor, patch_px: int) -> Tensor:
    """Cut the centre out of patches.

    Parameters
    ----------
    patches : Tensor of shape (B, C, S, S)
        Stored patches.
    patch_px : int
        Side P of the crop, at most S.

    Returns
    -------
    Tensor of shape (B, C, P, P)
        A view.

    Raises
    ------
    ValueError
        If the patches are smaller.
    """
    require_room(patches.shape[-1], patch_px, "quarter")
    inset = (patches.shape[-1] - patch_px) // 2
    return patches[..., inset : inset + patch_px, inset : inset + patch_px]
