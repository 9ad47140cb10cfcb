"""Two views of unlabelled RGB patches -> features, by whatever makes views of a patch alike.

The base of CluSiam, CluBYOL and what they are compared with: they differ in how unlike two views
are said to be. No label is read; judging the features is the business of others.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from wsi_models.losses.siamese import centroid_cosine, straight_through
from wsi_models.methods.averaged import floats, require_sizes
from wsi_models.methods.base import Batch, Losses, Method
from wsi_models.methods.declared import MethodChoices
from wsi_models.methods.optimisation import (
    CosineSgdConfig,
    Schedule,
    build_cosine_sgd,
    build_half_cosine,
)
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

logger = logging.getLogger(__name__)

LEAST_SPREAD = 0.05
"""Spread of the features below which an epoch is warned of; untrained networks have more."""

USE_DECAY = 0.99
"""Share of the running mean of clusters' sizes that a step keeps."""

LEAST_CLUSTERS = 1.5
"""Mean number of clusters in use below which an epoch is warned of."""


class SiameseConfig(MethodChoices):
    """What all methods of two views can be told."""

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


class TargetedMethod(SiameseMethod):
    """A siamese method whose views are compared with those of an average of its own network.

    The target is the average of encoder and projector, moved after each step; it sees its batches
    in training mode and keeps its own statistics.

    Parameters
    ----------
    config : SiameseConfig
        The choices.
    predictor : Module
        Maps projections to projections.
    decay : float
        Share of the target that a step keeps.
    """

    def __init__(self, config: SiameseConfig, predictor: nn.Module, decay: float) -> None:
        super().__init__(config, predictor)
        self.target = Ema(self.online(), decay, buffers="own")

    def target_projections(self, views: list[Tensor]) -> list[Tensor]:
        """Compute what the target makes of the views, without gradient."""
        target = self.target.network.train()
        with torch.no_grad():
            return [target(view) for view in views]

    def after_step(self) -> None:
        """Move the target."""
        self.target.update(self.online())

    def online(self) -> nn.Module:
        """Return what the target is the average of."""
        return nn.Sequential(self.network.encoder, self.network.projector)
