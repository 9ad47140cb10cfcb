"""Labelled and unlabelled RGB patches -> the losses of S5CL.

Supervised, self-supervised and semi-supervised contrast on one embedding, and cross-entropy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from wsi_models.losses.classification import soft_cross_entropy
from wsi_models.losses.supervised_contrast import supervised_contrast
from wsi_models.methods.averaged import (
    AveragedConfig,
    AveragedMethod,
    both_batches,
    floats,
    probabilities,
    require_sizes,
    step_sizes,
)
from wsi_models.methods.base import Batch, Losses
from wsi_models.methods.optimisation import OptimisationConfig
from wsi_models.networks.description import RgbEmbeddingConfig, build_network
from wsi_models.networks.rgb_network import EmbeddingNetwork
from wsi_models.parts.backbone import EncoderConfig, ResNet18Config
from wsi_models.parts.ema import BufferPolicy
from wsi_models.views import TwinViewConfig, TwinViews

if TYPE_CHECKING:
    from wsi_models.views import Normalisation

PER_CLASS = 4
"""Labelled patches of a class in a step, published."""

UNLABELLED_SIZE = 128
"""Unlabelled patches of a step, published."""

S5CL_OPTIMISATION = OptimisationConfig(
    name="adamax", lr=1e-4, weight_decay=1e-4, schedule="constant"
)


class S5CLConfig(AveragedConfig):
    """S5CL and its ablations; the defaults are the published ones."""

    method: Literal["s5cl"] = Field("s5cl", description="Which method.")
    encoder: EncoderConfig = Field(ResNet18Config(), description="The encoder of RGB patches.")
    embedding: int = Field(64, ge=2, description="Features of the embedding.")
    views: TwinViewConfig = Field(TwinViewConfig(), description="What the network sees.")
    labelled_per_step: int | None = Field(
        None, ge=1, description="Labelled patches of a step; by default 4 of each class."
    )
    unlabelled_per_step: int | None = Field(
        None, ge=1, description="Unlabelled patches of a step; by default 128."
    )
    labelled_contrast: bool = Field(
        True, description="Contrast labelled patches; without it and the other: cross-entropy only."
    )
    unlabelled_contrast: bool = Field(
        True, description="Contrast unlabelled patches; without it none are taken."
    )
    labelled_temperature: float = Field(
        0.2, gt=0, description="Of the labelled contrast; the lower, the tighter the clusters."
    )
    unlabelled_temperature: float = Field(
        0.7, gt=0, description="Of the unlabelled contrast; higher, since it is less certain."
    )
    warmup_epochs: float = Field(
        1.0,
        ge=0,
        description="Epochs in which each unlabelled patch is its own class, before "
        "pseudo-labels are.",
    )
    optimisation: OptimisationConfig = Field(
        S5CL_OPTIMISATION, description="The optimizer and its schedule."
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="Share of the average network that a step keeps; 0 has none."
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

    @model_validator(mode="after")
    def _keeps_the_hierarchy(self) -> Self:
        if self.unlabelled_temperature <= self.labelled_temperature:
            raise ValueError(
                f"unlabelled_temperature is {self.unlabelled_temperature}, not above "
                f"labelled_temperature {self.labelled_temperature}; S5CL rests on pulling together "
                "less tightly what is less certain"
            )
        return self

    def network(self) -> RgbEmbeddingConfig:
        """Describe the network that is trained."""
        return RgbEmbeddingConfig(encoder=self.encoder, embedding=self.embedding)

    def build(self, classes: int, normalisation: Normalisation | None) -> S5CL:
        """Build the method."""
        return S5CL(self, classes)


class S5CL(AveragedMethod[EmbeddingNetwork]):
    """S5CL [1]_: unifying fully-, self- and semi-supervised learning by a hierarchy of contrasts.

    The total is ``L_l + L_u + L_c``: the supervised contrast of both views of labelled patches,
    that of unlabelled patches, and the cross-entropy of the weak views of labelled patches. L_u
    takes each unlabelled patch as a class of its own at first, and after ``warmup_epochs`` the
    class that the network gives its weak view, certain or not.

    Parameters
    ----------
    config : S5CLConfig
        The choices. Without ``unlabelled_contrast`` it is supervised contrast with cross-entropy,
        without ``labelled_contrast`` as well it is cross-entropy alone, on the same views.
    classes : int
        Number C of classes.

    Notes
    -----
    Departures from the release: every batch has equally many patches of every class, where the
    sampler of the release leaves classes out, up to batches of one class without any contrast;
    views draw the jitter of stains per patch (see :class:`~wsi_models.views.TwinViews`);
    evaluation does not leave the network in evaluation mode; pseudo-labels start by the clock of
    epochs rather than after 781 steps. Its three optimizers have the same settings, so that one
    does the same. It has no average of the network, which is ``ema_decay`` 0.

    References
    ----------
    .. [1] M. Tran et al., S5CL: Unifying Fully-Supervised, Self-supervised, and Semi-supervised
       Learning Through Hierarchical Contrastive Learning, MICCAI 2022.
    """

    def __init__(self, config: S5CLConfig, classes: int) -> None:
        labelled = config.labelled_per_step or PER_CLASS * classes
        unlabelled = config.unlabelled_per_step or UNLABELLED_SIZE
        sizes = step_sizes(classes, labelled, unlabelled if config.unlabelled_contrast else 0)
        network = build_network(config.network(), classes, config.views.patch_px)
        super().__init__(config, classes, network, sizes)
        self.config = config
        self.views = TwinViews(config.views)

    def evaluation_input(self, batch: Batch) -> Tensor:
        """Make the input of the evaluated network, shape (B, 3, P, P)."""
        return self.views.plain(batch)

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the losses of one step; see :meth:`Method.training_step`."""
        if self.config.unlabelled_contrast:
            return self._full_step(*both_batches(self, labelled, unlabelled), clock, generator)
        require_sizes(self, labelled, unlabelled)
        return self._supervised_step(labelled, generator)

    def _supervised_step(self, labelled: Batch, generator: torch.Generator) -> Losses:
        self.network.train()
        targets = self._targets(labelled)
        views = [self.views.random(labelled, generator)]
        if self.config.labelled_contrast:
            views.append(self.views.warped(labelled, generator))
        embedding = self.network.features(torch.cat(views))
        parts = self._labelled_losses(embedding, labelled, targets)
        total = torch.stack(list(parts.values())).sum()
        return Losses(total, floats(**parts, total=total))

    def _full_step(
        self, labelled: Batch, unlabelled: Batch, clock: float, generator: torch.Generator
    ) -> Losses:
        self.network.train()
        targets = self._targets(labelled)
        pairs = [
            view
            for batch in (labelled, unlabelled)
            for view in (self.views.random(batch, generator), self.views.warped(batch, generator))
        ]
        embedding = self.network.features(torch.cat(pairs))
        own, others = embedding[: 2 * len(labelled)], embedding[2 * len(labelled) :]
        parts = self._labelled_losses(own, labelled, targets)
        with torch.no_grad():
            prob = probabilities(self.network.head(others[: len(unlabelled)]))
        confidence, pseudo = prob.max(dim=1)
        warming = clock < 1 + self.config.warmup_epochs
        group = torch.arange(len(unlabelled), device=pseudo.device) if warming else pseudo
        parts["unlabelled_contrast"] = supervised_contrast(
            others, group.repeat(2), self.config.unlabelled_temperature
        )
        total = torch.stack(list(parts.values())).sum()
        logged = floats(**parts, total=total, pseudo_confidence=confidence.mean())
        return Losses(total, logged, pseudo, confidence)

    def _labelled_losses(
        self, embedding: Tensor, labelled: Batch, targets: Tensor
    ) -> dict[str, Tensor]:
        """Compute the losses of the weak and, behind them, the strong views of labelled patches."""
        logits = self.network.head(embedding[: len(labelled)])
        losses = {"supervised": soft_cross_entropy(logits, targets)}
        if self.config.labelled_contrast:
            losses["labelled_contrast"] = supervised_contrast(
                embedding, labelled.label.repeat(2), self.config.labelled_temperature
            )
        return losses
