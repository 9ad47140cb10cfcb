"""Unlabelled RGB patches -> the losses of SimCLR, Barlow Twins, MoCo v3 and SwAV.

What CluSiam is compared with in its paper, and what CLASS-M is. They share views, encoder,
projector and schedule with it, so that they differ in their loss alone; clusters are learnt beside
them, as with ``alpha = 0`` of CluSiam, so that each draws a map as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from wsi_models.losses.invariance import (
    balanced_codes,
    nt_xent,
    redundancy,
    swapped_prediction,
    tell_apart,
)
from wsi_models.methods.siamese import SiameseConfig, SiameseMethod, TargetedMethod
from wsi_models.networks.cluster_network import hidden_layer

if TYPE_CHECKING:
    from wsi_models.methods.base import Batch, Losses
    from wsi_models.views import Normalisation


class SimClrConfig(SiameseConfig):
    """SimCLR (Chen et al., ICML 2020)."""

    method: Literal["simclr"] = Field("simclr", description="Which method.")
    alpha: float = Field(0.0, ge=0, lt=1, description="Share of the cluster loss.")
    projected: int = Field(128, ge=1, description="Length of a projection.")
    cluster_hidden: int = Field(128, ge=1, description="Width of the cluster projector.")
    temperature: float = Field(0.5, gt=0, description="Of the contrast.")

    def build(self, classes: int, normalisation: Normalisation | None) -> SimClr:
        """Build the method, which has clusters instead of classes."""
        return SimClr(self)


class SimClr(SiameseMethod):
    """SimCLR: each view is told from the views of all other patches of the step.

    Parameters
    ----------
    config : SimClrConfig
        The choices.

    References
    ----------
    .. [1] T. Chen et al., A Simple Framework for Contrastive Learning of Visual Representations,
       ICML 2020.
    """

    def __init__(self, config: SimClrConfig) -> None:
        super().__init__(config, nn.Identity())
        self.config = config

    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Contrast the projections."""
        return nt_xent(projections[0], projections[1], self.config.temperature)


class BarlowConfig(SiameseConfig):
    """Barlow Twins (Zbontar et al., ICML 2021)."""

    method: Literal["barlow"] = Field("barlow", description="Which method.")
    alpha: float = Field(0.0, ge=0, lt=1, description="Share of the cluster loss.")
    projected: int = Field(8192, ge=2, description="Length of a projection.")
    cluster_hidden: int = Field(256, ge=1, description="Width of the cluster projector.")
    redundancy: float = Field(0.0051, ge=0, description="Weight of the likeness of features.")
    scale: float = Field(
        0.024, gt=0, description="What the loss is multiplied by, as the published code does."
    )

    def build(self, classes: int, normalisation: Normalisation | None) -> BarlowTwins:
        """Build the method, which has clusters instead of classes."""
        return BarlowTwins(self)


class BarlowTwins(SiameseMethod):
    """Barlow Twins: each feature is alike in both views, and unlike every other feature.

    The projector ends in batch normalisation without parameters, so that products over the batch
    are correlations.

    Parameters
    ----------
    config : BarlowConfig
        The choices.

    References
    ----------
    .. [1] J. Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction,
       ICML 2021.
    """

    def __init__(self, config: BarlowConfig) -> None:
        super().__init__(config, nn.Identity())
        self.config = config

    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Compare the correlations of features with the identity."""
        loss = redundancy(projections[0], projections[1], self.config.redundancy)
        return self.config.scale * loss


class MoCoConfig(SiameseConfig):
    """MoCo v3 (Chen, Xie and He, ICCV 2021)."""

    method: Literal["mocov3"] = Field("mocov3", description="Which method.")
    alpha: float = Field(0.0, ge=0, lt=1, description="Share of the cluster loss.")
    projected: int = Field(256, ge=1, description="Length of a projection.")
    predictor_hidden: int = Field(4096, ge=1, description="Width of the predictor.")
    cluster_hidden: int = Field(256, ge=1, description="Width of the cluster projector.")
    temperature: float = Field(1.0, gt=0, description="Of the contrast; 0.2 for transformers.")
    target_decay: float = Field(
        0.99, ge=0, lt=1, description="Share of the target network that the first step keeps."
    )

    def build(self, classes: int, normalisation: Normalisation | None) -> MoCo:
        """Build the method, which has clusters instead of classes."""
        return MoCo(self)


class MoCo(TargetedMethod):
    """MoCo v3: what a view predicts is told from the target's keys of the other patches.

    The share that the target keeps rises to 1 along half a cosine over the epochs of the schedule.

    Parameters
    ----------
    config : MoCoConfig
        The choices.

    References
    ----------
    .. [1] X. Chen, S. Xie, K. He, An Empirical Study of Training Self-Supervised Vision
       Transformers, ICCV 2021.
    """

    def __init__(self, config: MoCoConfig) -> None:
        predictor = nn.Sequential(
            *hidden_layer(config.projected, config.predictor_hidden),
            nn.Linear(config.predictor_hidden, config.projected, bias=False),
            nn.BatchNorm1d(config.projected, affine=False),
        )
        super().__init__(config, predictor, config.target_decay)
        self.config = config
        self._decay = config.target_decay

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the losses of one step, and note how far training is."""
        self._decay = self.decay_at(clock)
        return super().training_step(labelled, unlabelled, clock, generator)

    def after_step(self) -> None:
        """Move the target."""
        self.target.update(self.online(), self._decay)

    def decay_at(self, clock: float) -> float:
        """Return the share that the target keeps, ``1 - (1 - decay) (1 + cos(pi t / T)) / 2``."""
        epochs = self.config.optimisation.epochs
        if epochs is None:
            return self.config.target_decay
        done = min(1.0, max(0.0, (clock - 1) / epochs))
        return 1 - (1 - self.config.target_decay) * (1 + math.cos(math.pi * done)) / 2

    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Contrast what each view predicts with the target's projection of the other."""
        first, second = self.target_projections(views)
        predicted = [self.predictor(found) for found in projections]
        temperature = self.config.temperature
        return tell_apart(predicted[0], second, temperature) + tell_apart(
            predicted[1], first, temperature
        )


class SwavConfig(SiameseConfig):
    """SwAV (Caron et al., NeurIPS 2020) with two views."""

    method: Literal["swav"] = Field("swav", description="Which method.")
    alpha: float = Field(0.0, ge=0, lt=1, description="Share of the cluster loss.")
    projected: int = Field(128, ge=1, description="Length of a projection.")
    cluster_hidden: int = Field(128, ge=1, description="Width of the cluster projector.")
    prototypes: int = Field(3000, ge=2, description="Prototypes that codes are made of.")
    temperature: float = Field(0.1, gt=0, description="Of the prediction of codes.")
    epsilon: float = Field(0.05, gt=0, description="Softness of the codes.")
    rounds: int = Field(3, ge=1, description="Rounds of Sinkhorn and Knopp.")
    frozen_epochs: int = Field(1, ge=0, description="First epochs in which prototypes rest.")

    def build(self, classes: int, normalisation: Normalisation | None) -> SwAV:
        """Build the method, which has clusters instead of classes."""
        return SwAV(self)


class SwAV(SiameseMethod):
    """SwAV: the prototypes of one view are predicted from the other.

    Prototypes have unit length and are used alike within a step. Two views are drawn; the further
    small ones of the published code, and its queue for small steps, are not built.

    Parameters
    ----------
    config : SwavConfig
        The choices.

    References
    ----------
    .. [1] M. Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster
       Assignments, NeurIPS 2020.
    """

    def __init__(self, config: SwavConfig) -> None:
        prototypes = nn.Linear(config.projected, config.prototypes, bias=False)
        super().__init__(config, prototypes)
        self.config = config
        self._prototypes = prototypes
        self._resting = False
        self.after_step()

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the losses of one step; prototypes rest at first."""
        self._resting = clock < 1 + self.config.frozen_epochs
        return super().training_step(labelled, unlabelled, clock, generator)

    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Predict the codes of each view from the other."""
        weight = self._prototypes.weight
        prototypes = weight.detach() if self._resting else weight
        scores = [functional.normalize(found, dim=1) @ prototypes.T for found in projections]
        codes = [balanced_codes(s, self.config.epsilon, self.config.rounds) for s in scores]
        return swapped_prediction(scores, codes, self.config.temperature)

    @torch.no_grad()
    def after_step(self) -> None:
        """Bring the prototypes back to unit length."""
        weight = self._prototypes.weight
        weight.copy_(functional.normalize(weight, dim=1))
