"""Stored RGB patches -> a weakly and a strongly changed view of each, as S5CL contrasts them.

What is learned from the two is decided elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsi_models.parts import draws
from wsi_models.views.color import turn_hue
from wsi_models.views.hed import jitter_hed
from wsi_models.views.inputs import Patches, RgbViews, to_unit
from wsi_models.views.warp import warped_crops

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from wsi_models.views.config import TwinViewConfig


class TwinViews(RgbViews):
    """Patches in RGB, as S5CL sees them.

    The weak view, :meth:`random`: jitter of brightness, contrast and saturation, then of the
    hue, then turn, crop and flips. The strong view, :meth:`warped`: jitter of the stains, a crop
    of any size enlarged to the input, slant, quarter turn and flips.

    Parameters
    ----------
    config : TwinViewConfig
        The choices.

    Notes
    -----
    The release draws the jitter of the stains once per run, so that all patches get the same;
    here each patch gets its own at each call. It crops, then slants what it has cropped with
    mirrored borders; here one sampling does both, so that the border shows the tissue beside it.
    The hue is turned in YIQ rather than in HSV.

    References
    ----------
    .. [1] M. Tran et al., S5CL, MICCAI 2022.
    """

    config: TwinViewConfig

    def __init__(self, config: TwinViewConfig) -> None:
        super().__init__(config)

    def warped(self, patches: Patches, generator: torch.Generator) -> Tensor:
        """Draw a strongly changed view of each patch, shape (B, 3, P, P)."""
        config = self.config
        rgb = to_unit(patches.rgb)
        if config.hed_jitter > 0:
            rgb = jitter_hed(rgb, config.hed_jitter, generator)
        crops = warped_crops(
            rgb,
            config.patch_px,
            generator,
            least_area=config.least_area,
            displacement=config.displacement,
        )
        return self.normalise(crops)

    def _recolor(self, rgb: Tensor, generator: torch.Generator) -> Tensor:
        rgb = super()._recolor(rgb, generator)
        most = self.config.hue_jitter
        if most == 0:
            return rgb
        return turn_hue(rgb, draws.uniform((len(rgb),), -most, most, generator, rgb.device))
