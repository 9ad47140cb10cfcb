"""Labelled and unlabelled RGB patches -> the losses of MixMatch.

The step of CLASS-M on RGB instead of stains, and without the contrast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from wsi_models.methods.averaged import both_batches, floats, step_sizes
from wsi_models.methods.base import Batch, Losses
from wsi_models.methods.mixing import MixingConfig, mixed_losses, ramp
from wsi_models.methods.rgb import RgbConfig, RgbMethod

if TYPE_CHECKING:
    import torch

    from wsi_models.views import Normalisation


class MixMatchConfig(RgbConfig):
    """MixMatch with the settings of CLASS-M, so that the two differ in what CLASS-M adds.

    The original weighs the consistency loss with 75 instead of 7.5:
    ``mixing.unlabelled_weight``.
    """

    method: Literal["mixmatch"] = Field("mixmatch", description="Which method.")
    unlabelled_per_step: int | None = Field(
        None, ge=1, description="Unlabelled patches of a step; by default what remains of 64."
    )
    mixing: MixingConfig = Field(MixingConfig(), description="Pseudo-labels and mixing.")

    def build(self, classes: int, normalisation: Normalisation | None) -> MixMatch:
        """Build the method."""
        return MixMatch(self, classes)


class MixMatch(RgbMethod):
    """MixMatch [1]_.

    Parameters
    ----------
    config : MixMatchConfig
        The choices.
    classes : int
        Number C of classes.

    References
    ----------
    .. [1] D. Berthelot et al., MixMatch: A Holistic Approach to Semi-Supervised Learning,
       NeurIPS 2019.
    """

    def __init__(self, config: MixMatchConfig, classes: int) -> None:
        sizes = step_sizes(classes, config.labelled_per_step, config.unlabelled_per_step)
        super().__init__(config, classes, sizes)
        self.config = config

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the losses of one step; see :meth:`Method.training_step`."""
        labelled, unlabelled = both_batches(self, labelled, unlabelled)
        self.network.train()
        config = self.config.mixing
        view = self.views.random(labelled, generator)
        others = [self.views.random(unlabelled, generator) for _ in range(config.views)]
        mixed = mixed_losses(
            self.network, (view, self._targets(labelled)), others, config, generator
        )
        total = mixed.supervised + ramp(clock, config) * mixed.consistency
        confidence, pseudo = mixed.pseudo.prob.max(dim=1)
        parts = floats(
            supervised=mixed.supervised,
            consistency=mixed.consistency,
            total=total,
            pseudo_confidence=confidence.mean(),
        )
        return Losses(total, parts, pseudo, confidence)
