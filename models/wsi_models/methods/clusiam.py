"""Unlabelled RGB patches -> the losses of CluSiam and CluBYOL, or of SimSiam and BYOL.

Two views of a patch are to be alike, and the clusters that patches are assigned to unlike each
other. No label is read; judging the features is the business of others.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from wsi_models.losses.siamese import centroid_cosine, negative_cosine, straight_through
from wsi_models.methods.averaged import floats, require_sizes
from wsi_models.methods.base import Batch, Losses, Method
from wsi_models.methods.declared import MethodChoices
from wsi_models.methods.optimisation import (
    CosineSgdConfig,
    Schedule,
    build_cosine_sgd,
    build_half_cosine,
)
from wsi_models.networks.cluster_network import hidden_layer
from wsi_models.networks.description import JudgedBy, RgbClusterConfig, build_network
from wsi_models.parts import draws
from wsi_models.parts.backbone import EncoderConfig, ResNet18Config, untrained
from wsi_models.parts.collapse import clusters_in_use, embedding_spread
from wsi_models.parts.ema import Ema
from wsi_models.parts.encoder import silence_residuals
from wsi_models.views import SiameseViewConfig, SiameseViews

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wsi_models.parts.patch_network import PatchNetwork
    from wsi_models.views import Normalisation

logger = logging.getLogger(__name__)

LEAST_SPREAD = 0.05
"""Spread of the features below which an epoch is warned of; untrained networks have more."""

USE_DECAY = 0.99
"""Share of the running mean of clusters' sizes that a step keeps."""

LEAST_CLUSTERS = 1.5
"""Mean number of clusters in use below which an epoch is warned of."""


class SiameseConfig(MethodChoices):
    """What CluSiam and CluBYOL can both be told."""

    needs_labels: ClassVar[bool] = False

    encoder: EncoderConfig = Field(
        ResNet18Config(weights=None), description="The encoder of RGB patches."
    )
    views: SiameseViewConfig = Field(
        SiameseViewConfig(), description="What the network sees; two draws per patch."
    )
    optimisation: CosineSgdConfig = Field(
        CosineSgdConfig(), description="The optimizer and its schedule."
    )
    unlabelled_per_step: int = Field(512, ge=2, description="Patches of a step.")
    clusters: int = Field(100, ge=2, description="Clusters at most; fewer come to be used.")
    alpha: float = Field(
        ge=0,
        lt=1,
        description="Share of the cluster loss; 0 trains the encoder as SimSiam or BYOL does.",
    )
    projected: int = Field(ge=1, description="Length of a projection.")
    predictor_hidden: int = Field(ge=1, description="Width of the predictor.")
    cluster_hidden: int = Field(ge=1, description="Width of the cluster projector.")

    def network(self) -> RgbClusterConfig:
        """Describe the network that is trained."""
        return RgbClusterConfig(
            encoder=self.encoder, projected=self.projected, hidden=self.cluster_hidden
        )

    def describe_loss(self) -> str:
        """Name both parts of the loss and their weights."""
        return (
            f"{1 - self.alpha:g} times the distance of two views and {self.alpha:g} times the "
            "mean cosine of cluster centroids"
        )


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


class SiameseMethod(Method):
    """Two views of each patch, ``(1 - alpha) invariance + alpha clustering`` [1]_.

    Parameters
    ----------
    config : SiameseConfig
        The choices.
    predictor : Module
        Maps projections to projections; trained, but no part of what a bundle keeps.

    Notes
    -----
    The evaluated network is the trained one itself: no average. Its outputs are clusters, most of
    which come to be empty; which one a patch belongs to is decided without noise.

    With ``alpha = 0`` the encoder learns from the invariance alone, exactly as in SimSiam and
    BYOL. The cluster heads are then trained beside it, on projections that pass no gradient on,
    so that these ablations can draw a map of clusters as well.

    Each view goes through the encoder by itself, as published, so that batch normalisation sees
    one view at a time; the cluster heads see both at once. Residual blocks start as identities
    where the encoder starts from random weights. Where the published code measures the
    normalisation of the input from another list of files than it trains on, the recipe says it.

    References
    ----------
    .. [1] W. Wu et al., Improving Representation Learning for Histopathologic Images with Cluster
       Constraints, ICCV 2023.
    """

    use: Tensor
    judged_by: ClassVar[JudgedBy] = "neighbours"
    labelled_per_step = 0

    def __init__(self, config: SiameseConfig, predictor: nn.Module) -> None:
        super().__init__()
        self.classes = config.clusters
        self.unlabelled_per_step = config.unlabelled_per_step
        self.network = build_network(config.network(), config.clusters, config.views.patch_px)
        if untrained(config.encoder) == config.encoder:
            silence_residuals(self.network.encoder)
        self.predictor = predictor
        self.views = SiameseViews(config.views)
        self.siamese = config
        self.register_buffer("use", torch.zeros(config.clusters))

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the losses of one step; see :meth:`Method.training_step`."""
        require_sizes(self, labelled, unlabelled)
        if unlabelled is None:
            raise ValueError("this method learns from unlabelled patches, got none")
        self.network.train()
        views = [self.views.random(unlabelled, generator) for _ in range(2)]
        features = [self.network.features(view) for view in views]
        projections = [self.network.project(found) for found in features]
        invariance = self.invariance(views, projections)
        both = torch.cat(projections)
        alpha = self.siamese.alpha
        logits = self.network.assign(both if alpha > 0 else both.detach())
        noise = draws.gumbel(tuple(logits.shape), generator, logits.device)
        self._count(logits)
        clustering = centroid_cosine(both, straight_through(logits, noise))
        total = (1 - alpha) * invariance + (alpha if alpha > 0 else 1.0) * clustering
        parts = floats(
            invariance=invariance,
            clustering=clustering,
            total=total,
            clusters=clusters_in_use(logits),
            clusters_noisy=clusters_in_use(logits + noise),
            feature_spread=embedding_spread(torch.cat(features)),
        )
        return Losses(total, parts)

    @abstractmethod
    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Compute how unlike the two views of each patch are.

        Parameters
        ----------
        views : list of two Tensor of shape (B, 3, P, P)
            What the network saw.
        projections : list of two Tensor of shape (B, D)
            What it made of them.

        Returns
        -------
        Tensor
            A scalar, with gradient.
        """

    @torch.no_grad()
    def _count(self, logits: Tensor) -> None:
        """Follow how many patches each cluster has."""
        sizes = functional.one_hot(logits.argmax(dim=1), self.classes).to(self.use.dtype)
        self.use.lerp_(sizes.mean(dim=0), 1 - USE_DECAY)

    def optimizer(self) -> Optimizer:
        """Build the optimizer of network and predictor, in this order of groups."""
        return build_cosine_sgd(self.siamese.optimisation, (self.network, self.predictor))

    def scheduler(self, optimizer: Optimizer, iterations: int) -> Schedule:
        """Build the schedule of the learning rate, stepped once per epoch."""
        return build_half_cosine(self.siamese.optimisation, optimizer)

    def inspect(self, means: Mapping[str, float]) -> None:
        """Warn of features that hardly differ and of patches that share one cluster."""
        if means["feature_spread"] < LEAST_SPREAD:
            logger.warning(
                "features hardly differ any more (spread %.3f, 0 is a single point): they have "
                "collapsed; use an earlier epoch, a lower learning rate, or method = 'clubyol'",
                means["feature_spread"],
            )
        if means["clusters"] >= LEAST_CLUSTERS:
            return
        if means["clusters_noisy"] < LEAST_CLUSTERS:
            logger.warning(
                "every patch is in one cluster, which even noise does not change: one output "
                "outgrew the others; lower alpha or the learning rate"
            )
        else:
            logger.warning(
                "without noise every patch is in one cluster, with it in %.0f: assignments are "
                "chance; raise alpha",
                means["clusters_noisy"],
            )

    def output_names(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Name the clusters by their number, whatever the labels."""
        return tuple(f"cluster {number}" for number in range(1, self.classes + 1))

    def output_order(self) -> list[int]:
        """Order the clusters from the largest to the smallest."""
        return list(self.use.argsort(descending=True, stable=True).tolist())

    def export_network(self) -> PatchNetwork:
        """Return the trained network, in evaluation mode."""
        return self.network.eval()

    def evaluation_input(self, batch: Batch) -> Tensor:
        """Make the input of the evaluated network, shape (B, 3, P, P)."""
        return self.views.plain(batch)


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


class CluByol(SiameseMethod):
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
        super().__init__(config, predictor)
        self.config = config
        self.target = Ema(self.online(), config.target_decay, buffers="own")

    def invariance(self, views: list[Tensor], projections: list[Tensor]) -> Tensor:
        """Compare what each view predicts with the target's projection of the other."""
        target = self.target.network.train()
        with torch.no_grad():
            first, second = (target(view) for view in views)
        predicted = [self.predictor(found) for found in projections]
        return 2 + negative_cosine(predicted[0], second) + negative_cosine(predicted[1], first)

    def after_step(self) -> None:
        """Move the target."""
        self.target.update(self.online())

    def online(self) -> nn.Module:
        """Return what the target is the average of."""
        return nn.Sequential(self.network.encoder, self.network.projector)
