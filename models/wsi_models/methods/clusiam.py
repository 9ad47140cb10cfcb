"""Unlabelled RGB patches -> the losses of CluSiam and CluBYOL, or of SimSiam and BYOL.

Two views of a patch are to be alike, and the clusters that patches are assigned to unlike each
other. No label is read; judging the features is the business of others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn

from wsi_models.losses.siamese import negative_cosine
from wsi_models.methods.optimisation import (
    Schedule,
    build_half_cosine,
)
from wsi_models.methods.siamese import SiameseConfig, SiameseMethod, TargetedMethod
from wsi_models.networks.cluster_network import hidden_layer

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wsi_models.views import Normalisation


class CluSiamConfig(SiameseConfig):
    """CluSiam; with ``alpha = 0``, SimSiam."""

    method: Literal["clusiam"] = Field("clusiam", description="Which method.")
    alpha: float = Field(
        0.5, ge=0, lt=1, description="Share of the cluster loss; 0 trains the encoder as SimSiam."
    )
    projected: int = Field(2048, ge=1, description="Length of a projection.")
    predictor_hidden: int = Field(512, ge=1, description="Width of the predictor.")
    cluster_hidden: int = Field(512, ge=1, description="Width of the cluster projector.")
    fixed_predictor_lr: bool = Field(
        True, description="Leave the predictor out of the schedule of the learning rate."
    )

    def build(self, classes: int, normalisation: Normalisation | None) -> CluSiam:
        """Build the method, which has clusters instead of classes."""
        return CluSiam(self)


class CluByolConfig(SiameseConfig):
    """CluBYOL; with ``alpha = 0``, BYOL."""

    method: Literal["clubyol"] = Field("clubyol", description="Which method.")
    alpha: float = Field(
        0.9, ge=0, lt=1, description="Share of the cluster loss; 0 trains the encoder as BYOL."
    )
    projected: int = Field(256, ge=1, description="Length of a projection.")
    predictor_hidden: int = Field(4096, ge=1, description="Width of the predictor.")
    cluster_hidden: int = Field(256, ge=1, description="Width of the cluster projector.")
    target_decay: float = Field(
        0.99, ge=0, lt=1, description="Share of the target network that a step keeps."
    )

    def build(self, classes: int, normalisation: Normalisation | None) -> CluByol:
        """Build the method, which has clusters instead of classes."""
        return CluByol(self)


class CluSiam(SiameseMethod):
    """CluSiam: SimSiam [1]_ with the cluster constraint.

    ``invariance = -mean cos(p1, z2) - mean cos(p2, z1)``, from -2 to 2: the sum of both, as in
    the published code, where SimSiam takes half of it.

    Parameters
    ----------
    config : CluSiamConfig
        The choices.

    References
    ----------
    .. [1] X. Chen, K. He, Exploring Simple Siamese Representation Learning, CVPR 2021.
    """

    def __init__(self, config: CluSiamConfig) -> None:
        predictor = nn.Sequential(
            *hidden_layer(config.projected, config.predictor_hidden),
            nn.Linear(config.predictor_hidden, config.projected),
        )
        super().__init__(config, predictor)
        self.config = config

    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Compare what each view predicts with the projection of the other."""
        first, second = projections
        return negative_cosine(self.predictor(first), second) + negative_cosine(
            self.predictor(second), first
        )

    def scheduler(self, optimizer: Optimizer, iterations: int) -> Schedule:
        """Build the schedule; the predictor keeps its rate, as SimSiam found best."""
        held = (1,) if self.config.fixed_predictor_lr else ()
        return build_half_cosine(self.config.optimisation, optimizer, held)


class CluByol(TargetedMethod):
    """CluBYOL: BYOL [1]_ with the cluster constraint.

    ``invariance = 2 - mean cos(p1, t2) - mean cos(p2, t1)``, from 0 to 4, where t are projections
    of the target network: half of BYOL's own. The target is the average of encoder and projector,
    moved after each step; it sees its batches in training mode and keeps its own statistics.

    Parameters
    ----------
    config : CluByolConfig
        The choices.

    References
    ----------
    .. [1] J.-B. Grill et al., Bootstrap Your Own Latent, NeurIPS 2020.
    """

    def __init__(self, config: CluByolConfig) -> None:
        predictor = nn.Sequential(
            *hidden_layer(config.projected, config.predictor_hidden, bias=True),
            nn.Linear(config.predictor_hidden, config.projected),
        )
        super().__init__(config, predictor, config.target_decay)
        self.config = config

    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Compare what each view predicts with the target's projection of the other."""
        first, second = self.target_projections(views)
        predicted = [self.predictor(found) for found in projections]
        return 2 + negative_cosine(predicted[0], second) + negative_cosine(predicted[1], first)
