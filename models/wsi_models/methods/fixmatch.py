"""Labelled and unlabelled RGB patches -> the losses of FixMatch.

Pseudo-labels of weak views, where certain enough, are what strong views are to be recognised as.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch.nn import functional

from wsi_models.losses.classification import full_precision, soft_cross_entropy
from wsi_models.methods.averaged import both_batches, floats, probabilities, step_sizes
from wsi_models.methods.base import UNKNOWN, Batch, Losses
from wsi_models.methods.optimisation import OptimisationConfig
from wsi_models.methods.rgb import RgbConfig, RgbMethod
from wsi_models.parts.ema import BufferPolicy

if TYPE_CHECKING:
    from wsi_models.views import Normalisation

LABELLED_SIZE = 64
"""Labelled patches of a step, published."""

UNLABELLED_RATIO = 7
"""Unlabelled patches of a step for each labelled one, published."""

NotNegative = Annotated[float, Field(ge=0)]

FIXMATCH_OPTIMISATION = OptimisationConfig(
    name="sgd", lr=0.03, weight_decay=5e-4, schedule="cosine"
)


class ThresholdConfig(RgbConfig):
    """What FixMatch and its successors can be told; the defaults are FixMatch's own."""

    labelled_per_step: int | None = Field(
        None,
        ge=1,
        description="Labelled patches of a step, a multiple of the classes; by default the "
        "largest up to 64, as published.",
    )
    unlabelled_per_step: int | None = Field(
        None,
        ge=1,
        description="Unlabelled patches of a step; by default 7 for each labelled one, as "
        "published.",
    )
    normalised_together: int | None = Field(
        None,
        ge=2,
        description="Patches that batch normalisation sees at once; all of a step if not set.",
    )
    threshold: float = Field(
        0.95, ge=0, le=1, description="Least probability of a pseudo-label that is learned."
    )
    unlabelled_weight: float = Field(1.0, ge=0, description="Weight of the unlabelled loss.")
    strong_factors: tuple[NotNegative, NotNegative] = Field(
        (0.3, 1.3),
        description="Least and most that remains of a strong view's brightness, contrast, "
        "saturation and sharpness; FixMatch's own 0.05 leaves nothing of stained tissue.",
    )
    optimisation: OptimisationConfig = Field(
        FIXMATCH_OPTIMISATION, description="The optimizer and its schedule."
    )
    ema_buffers: BufferPolicy = Field(
        "copy", description="Average the running statistics too, or copy the latest."
    )
    ema_restart_epoch: int = Field(
        0, ge=0, description="Epoch after which the average starts anew; 0 is never."
    )
    extra_decay: float = Field(
        0.0,
        ge=0,
        description="Share of the weights, times the first learning rate, lost at each step.",
    )


def threshold_sizes(config: ThresholdConfig, classes: int) -> tuple[int, int]:
    """Settle how many labelled and unlabelled patches a step of FixMatch or TEAR takes."""
    labelled, _ = step_sizes(classes, config.labelled_per_step, None, whole=LABELLED_SIZE)
    unlabelled = config.unlabelled_per_step or UNLABELLED_RATIO * labelled
    return step_sizes(classes, labelled, unlabelled)


class FixMatchConfig(ThresholdConfig):
    """FixMatch; optimizer, average and threshold are the usual ones of the method."""

    method: Literal["fixmatch"] = Field("fixmatch", description="Which method.")

    def build(self, classes: int, normalisation: Normalisation | None) -> FixMatch:
        """Build the method."""
        return FixMatch(self, classes)


class FixMatch(RgbMethod):
    """FixMatch [1]_.

    Parameters
    ----------
    config : FixMatchConfig
        The choices.
    classes : int
        Number C of classes.

    Notes
    -----
    Labelled, weak and strong views go through the network in one batch, so that batch
    normalisation sees all three, or in chunks of ``normalised_together`` that each hold some of
    all three. The unlabelled loss is averaged over all unlabelled patches,
    also over those below the threshold, whose ``Losses.pseudo`` is -1.

    References
    ----------
    .. [1] K. Sohn et al., FixMatch: Simplifying Semi-Supervised Learning with Consistency and
       Confidence, NeurIPS 2020, equations 3 and 4.
    """

    def __init__(self, config: FixMatchConfig, classes: int) -> None:
        super().__init__(config, classes, threshold_sizes(config, classes))
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
        views = self.three_views(labelled, unlabelled, generator, self.config.strong_factors)
        sizes = [len(view) for view in views]
        together = self.in_chunks(self.network, torch.cat(views), self.config.normalised_together)
        logits, weak, strong = torch.split(together, sizes)
        supervised = soft_cross_entropy(logits, self._targets(labelled))
        confidence, pseudo = probabilities(weak.detach()).max(dim=1)
        trusted = confidence >= self.config.threshold
        errors = functional.cross_entropy(full_precision(strong), pseudo, reduction="none")
        consistency = (errors * trusted).mean()
        total = supervised + self.config.unlabelled_weight * consistency
        parts = floats(
            supervised=supervised,
            consistency=consistency,
            total=total,
            pseudo_confidence=confidence.mean(),
            pseudo_share=trusted.double().mean(),
        )
        return Losses(total, parts, pseudo.masked_fill(~trusted, UNKNOWN), confidence)
