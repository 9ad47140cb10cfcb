"""Stored patches -> parts of them of any size and slight slant, enlarged to the input side.

One bilinear sampling does all of it; colours are not touched. Rigid crops are those of
:mod:`wsi_models.views.geometry`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from wsi_models.parts import draws
from wsi_models.views.geometry import require_room

RATIO = 4 / 3
"""Most that a crop is longer than wide, or wider than long."""

ANCHORS = ((2 / 3, 2 / 3), (2 / 3, -2 / 3), (-2 / 3, -2 / 3))
"""Three points of a crop that are displaced, where its centre is (0, 0) and its corner (1, 1)."""


def warped_crops(
    patches: Tensor,
    patch_px: int,
    generator: torch.Generator,
    *,
    least_area: float,
    displacement: float,
) -> Tensor:
    """Crop, enlarge, slant, turn and flip patches at random.

    Parameters
    ----------
    patches : Tensor of shape (B, C, S, S)
        Stored patches.
    patch_px : int
        Side P of the result, and most of a crop; S is at least that.
    generator : torch.Generator
        Source of all draws.
    least_area : float
        Crops have between this share and all of P x P, uniformly, and sides of a ratio of up to
        4:3; a side longer than P is cut to P.
    displacement : float
        Three points of a crop move by up to this share of its side along each axis, and all
        others with them by the affine map that this makes.

    Returns
    -------
    Tensor of shape (B, C, P, P)
        Without fill: a slanted crop shows what lies beside it, and beyond the patch its mirror.

    Raises
    ------
    ValueError
        If the stored patches are smaller than the result.
    """
    count, channels, stored_px, _ = patches.shape
    require_room(stored_px, patch_px, "quarter")
    device = patches.device
    size = _crop_sizes(count, patch_px, least_area, generator, device) / stored_px
    centre = draws.uniform((count, 2), -1, 1, generator, device) * (1 - size)
    slant = _slants(count, displacement, generator, device)
    inside = size[:, :, None] * slant
    inside[:, :, 2] += centre
    matrix = _turns(count, generator, device) @ inside
    grid = functional.affine_grid(
        matrix.to(patches.dtype), [count, channels, patch_px, patch_px], align_corners=False
    )
    return functional.grid_sample(
        patches, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _crop_sizes(
    count: int,
    patch_px: int,
    least_area: float,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Draw widths and heights, shape (N, 2), px."""
    side = draws.uniform((count,), least_area, 1, generator, device).sqrt() * patch_px
    log_ratio = draws.uniform((count,), -math.log(RATIO), math.log(RATIO), generator, device)
    stretch = (log_ratio / 2).exp()
    return torch.stack([side * stretch, side / stretch], dim=1).clamp(max=patch_px)


def _slants(
    count: int, displacement: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw affine maps, shape (N, 2, 3), that move the anchors by their displacements."""
    # a crop is two units wide
    reach = 2 * displacement
    moves = draws.uniform((count, 2, 3), -reach, reach, generator, device)
    anchors = torch.tensor([(*point, 1.0) for point in ANCHORS], device=device).T
    slant: Tensor = torch.eye(2, 3, device=device) + moves @ torch.linalg.inv(anchors)
    return slant


def _turns(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw quarter turns with flips, shape (N, 2, 2)."""
    angle = draws.integers((count,), 4, generator, device) * (math.pi / 2)
    mirror = 1 - 2 * draws.integers((count, 2), 2, generator, device).to(torch.float32)
    cos, sin = angle.cos().round(), angle.sin().round()
    turn = torch.stack([torch.stack([cos, -sin], dim=-1), torch.stack([sin, cos], dim=-1)], dim=-2)
    return turn * mirror[:, None, :]
