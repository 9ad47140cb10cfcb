"""Labelled RGB patches -> cross-entropy: the baseline that learns from labels only.

With a residual network or a transformer, as configured; unlabelled patches are not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from wsi_models.losses.classification import soft_cross_entropy
from wsi_models.methods.averaged import STEP_SIZE, floats, require_sizes, step_sizes
from wsi_models.methods.base import Batch, Losses
from wsi_models.methods.rgb import RgbConfig, RgbMethod

if TYPE_CHECKING:
    import torch

    from wsi_models.views import Normalisation


class SupervisedConfig(RgbConfig):
    """Supervised learning; by default all of a step's 64 patches are labelled."""

    method: Literal["supervised"] = Field("supervised", description="Which method.")
    frozen_encoder: bool = Field(
        False,
        description="Leave the encoder as it starts and train the linear layer alone: a linear "
        "probe, the baseline that training has to beat.",
    )

    def build(self, classes: int, normalisation: Normalisation | None) -> Supervised:
        """Build the method."""
        return Supervised(self, classes)


class Supervised(RgbMethod):
    """Cross-entropy on labelled patches.

    Parameters
    ----------
    config : SupervisedConfig
        The choices.
    classes : int
        Number C of classes.
    """

    def __init__(self, config: SupervisedConfig, classes: int) -> None:
        sizes = step_sizes(classes, config.labelled_per_step, 0, whole=STEP_SIZE)
        super().__init__(config, classes, sizes)
        self.config = config
        if config.frozen_encoder:
            self.network.encoder.requires_grad_(False)

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the loss of one step; see :meth:`Method.training_step`."""
        require_sizes(self, labelled, unlabelled)
        self.network.train()
        if self.config.frozen_encoder:
            self.network.encoder.eval()  # its running statistics stay as well
        logits = self.network(self.views.random(labelled, generator))
        total = soft_cross_entropy(logits, self._targets(labelled))
        return Losses(total, floats(supervised=total, total=total))
