"""Stored RGB patches -> two strongly changed views of each, for methods that learn without labels.

Batched and on the device of the patches, each patch with draws of its own; what is learned from
the views is decided elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_models.parts import draws
from wsi_models.views.color import LUMA, jitter_rgb, turn_hue
from wsi_models.views.config import RgbViewConfig
from wsi_models.views.focus import gaussian_blur
from wsi_models.views.inputs import RgbViews, to_unit

if TYPE_CHECKING:
    from wsi_models.views.config import SiameseViewConfig
    from wsi_models.views.inputs import Patches


class SiameseViews(nn.Module):
    """Views as SimSiam draws them and CluSiam uses them.

    In training: a part of the patch resized to the input, mirrored, its colours jittered, some
    patches grey, some blurred. In evaluation: the centre at its own resolution.

    Parameters
    ----------
    config : SiameseViewConfig
        The choices.

    Notes
    -----
    Departures from the published code [1]_, which changes one picture at a time: a part that
    would stick out of the patch is narrowed instead of drawn again, parts are resized by bilinear
    interpolation, and the hue is turned in YIQ, after the other colours, instead of in HSV.

    References
    ----------
    .. [1] W. Wu et al., Improving Representation Learning for Histopathologic Images with Cluster
       Constraints, ICCV 2023.
    """

    def __init__(self, config: SiameseViewConfig) -> None:
        super().__init__()
        self.config = config
        self._upright = RgbViews(
            RgbViewConfig(patch_px=config.patch_px, mean=config.mean, std=config.std)
        )

    def random(self, patches: Patches, generator: torch.Generator) -> Tensor:
        """Draw one training view of each patch, shape (B, 3, P, P); call it twice for a pair."""
        config = self.config
        rgb = resized_crops(to_unit(patches.rgb), config, generator)
        jittered = self._jitter(rgb, generator)
        rgb = torch.where(_some(rgb, config.jitter_share, generator), jittered, rgb)
        grey = (rgb * rgb.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        rgb = torch.where(_some(rgb, config.grey_share, generator), grey, rgb)
        deviation = draws.uniform((len(rgb),), *config.blur_px, generator, rgb.device)
        blurred = gaussian_blur(rgb, deviation, config.blur_px[1])
        rgb = torch.where(_some(rgb, config.blur_share, generator), blurred, rgb)
        return self._upright.normalise(rgb)

    def plain(self, patches: Patches) -> Tensor:
        """Make the evaluation view of each patch, shape (B, 3, P, P)."""
        return self._upright.plain(patches)

    def _jitter(self, rgb: Tensor, generator: torch.Generator) -> Tensor:
        config = self.config
        rgb = jitter_rgb(rgb, config.rgb_jitter, generator)
        turns = draws.uniform(
            (len(rgb),), -config.hue_jitter, config.hue_jitter, generator, rgb.device
        )
        return turn_hue(rgb, turns)


def resized_crops(rgb: Tensor, config: SiameseViewConfig, generator: torch.Generator) -> Tensor:
    """Cut a rectangle anywhere out of each patch, resize it to the input, mirror every other one.

    Parameters
    ----------
    rgb : Tensor of shape (B, 3, S, S)
        Stored patches.
    config : SiameseViewConfig
        ``crop_share`` is the least and most of their area, ``crop_aspect`` the least and most of
        width over height, drawn uniformly in its logarithm.
    generator : torch.Generator
        Source of all draws.

    Returns
    -------
    Tensor of shape (B, 3, P, P)
        The rectangles.
    """
    count, device = len(rgb), rgb.device
    area = draws.uniform((count,), *config.crop_share, generator, device)
    narrow, wide = (math.log(value) for value in config.crop_aspect)
    aspect = draws.uniform((count,), narrow, wide, generator, device).exp()
    # sides in shares of the patch; (x, y)
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1)
    centre = (1 - sides) * draws.uniform((count, 2), -1, 1, generator, device)
    mirror = 1.0 - 2 * draws.integers((count,), 2, generator, device)
    matrix = rgb.new_zeros((count, 2, 3))
    matrix[:, 0, 0], matrix[:, 1, 1] = mirror * sides[:, 0], sides[:, 1]
    matrix[:, :, 2] = centre
    size = [count, rgb.shape[1], config.patch_px, config.patch_px]
    grid = functional.affine_grid(matrix, size, align_corners=False)
    return functional.grid_sample(rgb, grid, padding_mode="border", align_corners=False)


def _some(rgb: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Choose a share of the patches, shape (B, 1, 1, 1), bool."""
    return draws.uniform((len(rgb), 1, 1, 1), 0, 1, generator, rgb.device) < share
