"""Labelled and unlabelled RGB patches -> the losses of TEAR.

FixMatch whose pseudo-labels give way where the running average of the network disagrees, and
whose features are held together with that average's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from wsi_models.losses.classification import full_precision, soft_cross_entropy
from wsi_models.losses.prototypes import prototype_distance
from wsi_models.methods.averaged import both_batches, floats, probabilities
from wsi_models.methods.base import UNKNOWN, Batch, Losses
from wsi_models.methods.fixmatch import ThresholdConfig, threshold_sizes
from wsi_models.methods.optimisation import OptimisationConfig
from wsi_models.methods.rgb import RgbMethod
from wsi_models.parts.alignment import DistributionAlignment
from wsi_models.parts.clustering import cluster_directions
from wsi_models.parts.relaxation import RelaxationConfig, disagreement, label_weight, relax

if TYPE_CHECKING:
    from wsi_models.views import Normalisation

TEAR_OPTIMISATION = OptimisationConfig(
    name="sgd", lr=1e-3, weight_decay=5e-4, schedule="cosine", clip=1.0
)


class TearConfig(ThresholdConfig):
    """TEAR and its parts; without all three it is FixMatch."""

    method: Literal["tear"] = Field("tear", description="Which method.")
    alignment: bool = Field(
        True, description="Correct predictions for classes that were predicted too often lately."
    )
    adapl: bool = Field(
        True, description="Soften pseudo-labels where the average network disagrees."
    )
    iph: bool = Field(True, description="Hold clusters of features together over the iterations.")
    relaxation: RelaxationConfig = Field(
        RelaxationConfig(), description="How disagreement softens a pseudo-label."
    )
    own_view: bool = Field(
        True, description="Show the average network a weak view of its own, as in the paper."
    )
    prototype_weight: float = Field(0.1, ge=0, description="Weight of the distance of clusters.")
    optimisation: OptimisationConfig = Field(
        TEAR_OPTIMISATION, description="The optimizer and its schedule."
    )

    def build(self, classes: int, normalisation: Normalisation | None) -> Tear:
        """Build the method."""
        return Tear(self, classes)


class _Previous(NamedTuple):
    """What the average network makes of unlabelled patches."""

    features: Tensor
    prob: Tensor


class _Pseudo(NamedTuple):
    """Labels of unlabelled patches, how sure they are, whether they are learned, and how far."""

    label: Tensor
    confidence: Tensor
    trusted: Tensor
    weight: Tensor


class Tear(RgbMethod):
    """TEAR [1]_: adaptive pseudo-labels (AdaPL) and harmonised prototypes (IPH), reconstructed.

    Parameters
    ----------
    config : TearConfig
        The choices.
    classes : int
        Number C of classes.

    Notes
    -----
    **A reconstruction.** The estimator of AdaPL is in neither the abstract nor the public code,
    which lacks what it calls. Here the squared difference of the predictions of network and
    average estimates the loss, and what the label loses goes to all other classes alike, as the
    figure of the paper shows; ``relaxation`` names the choices.

    IPH is corrected. The release clusters the features of one network, groups those of the other
    by predicted class, pairs clusters with classes by number, applies labels of unlabelled patches
    to a list that begins with labelled ones, and divides by a count of other terms than it sums.
    Here the features of the average network are clustered into C clusters, and both networks'
    features are grouped by these, so that prototypes correspond; those of fewer than two patches
    are left out of the mean.

    Network and average each have their own memory for the alignment of their predictions, as in
    the release. Further departures: encoders, views and balanced batches are those of this
    package's FixMatch; weights of batch
    normalisation decay like all others; ``Losses.pseudo`` is -1 below the threshold.

    References
    ----------
    .. [1] Q. Yang, X. Liu, Z. Chen and Y. Yuan, Semi-supervised Medical Image Classification with
       Temporal Knowledge-Aware Regularization, MICCAI 2022.
    """

    def __init__(self, config: TearConfig, classes: int) -> None:
        sizes = threshold_sizes(config, classes)
        if config.iph and sizes[1] < classes:
            raise ValueError(
                f"unlabelled_per_step is {sizes[1]}, too few for {classes} clusters; "
                f"choose at least {classes}, or iph = false"
            )
        super().__init__(config, classes, sizes)
        self.config = config
        self.alignment = DistributionAlignment(classes) if config.alignment else None
        self.previous_alignment = DistributionAlignment(classes) if config.alignment else None

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
        features = self.in_chunks(
            self.network.features, torch.cat(views), self.config.normalised_together
        )
        logits, weak, strong = torch.split(self.network.head(features), sizes)
        before = self._recall(unlabelled, views[1], generator)
        pseudo = self._label(weak.detach(), before)
        target = relax(pseudo.label, pseudo.weight, self.classes)
        errors = functional.cross_entropy(full_precision(strong), target, reduction="none")
        parts = {
            "supervised": soft_cross_entropy(logits, self._targets(labelled)),
            "consistency": (errors * pseudo.trusted).mean(),
        }
        total = parts["supervised"] + self.config.unlabelled_weight * parts["consistency"]
        if self.config.iph and before is not None:
            own = torch.split(features, sizes)[1]
            cluster = cluster_directions(before.features, self.classes, generator)
            parts["prototypes"] = prototype_distance(own, before.features, cluster, self.classes)
            total = total + self.config.prototype_weight * parts["prototypes"]
        logged = floats(
            **parts,
            total=total,
            pseudo_confidence=pseudo.confidence.mean(),
            pseudo_share=pseudo.trusted.double().mean(),
            pseudo_weight=pseudo.weight.mean(),
        )
        label = pseudo.label.masked_fill(~pseudo.trusted, UNKNOWN)
        return Losses(total, logged, label, pseudo.confidence)

    @torch.no_grad()
    def _recall(
        self, unlabelled: Batch, weak: Tensor, generator: torch.Generator
    ) -> _Previous | None:
        """Ask the average network, if anything depends on it."""
        if not (self.config.adapl or self.config.iph):
            return None
        view = self.views.random(unlabelled, generator) if self.config.own_view else weak
        average = self.ema.network
        features = average.features(view)
        return _Previous(features, probabilities(average.head(features)))

    @torch.no_grad()
    def _label(self, logits: Tensor, before: _Previous | None) -> _Pseudo:
        """Settle what unlabelled patches are learned as, and how firmly."""
        prob = probabilities(logits)
        prob = _align(prob, self.alignment)
        confidence, label = prob.max(dim=1)
        weight = torch.ones_like(confidence)
        if before is not None and self.config.adapl:
            config = self.config.relaxation
            previous = _align(before.prob, self.previous_alignment)
            estimate = disagreement(prob, previous, config.distance)
            weight = label_weight(estimate, config)
        return _Pseudo(label, confidence, confidence >= self.config.threshold, weight)


def _align(prob: Tensor, alignment: DistributionAlignment | None) -> Tensor:
    """Remember predictions and correct them by what was remembered of the same network."""
    if alignment is None:
        return prob
    alignment.update(prob)
    aligned: Tensor = alignment(prob)
    return aligned
