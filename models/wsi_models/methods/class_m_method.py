"""Labelled and unlabelled patches -> the losses of CLASS-M, its predecessor CLASS, and ablations.

One step as published, with batch sizes that follow the number of classes; the network is
:mod:`wsi_models.networks.class_m`'s, views are :mod:`wsi_models.views`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from wsi_models.losses.classification import soft_cross_entropy
from wsi_models.losses.contrastive import default_margin, roll_triplet
from wsi_models.methods.averaged import (
    LABELLED_SIZE,
    STEP_SIZE,
    AveragedConfig,
    AveragedMethod,
    floats,
    require_sizes,
    step_sizes,
)
from wsi_models.methods.base import Batch, Losses
from wsi_models.methods.mixing import MixingConfig, mixed_losses, ramp
from wsi_models.networks.class_m import ClassMNetwork
from wsi_models.networks.description import StainPairConfig, build_network
from wsi_models.parts import draws
from wsi_models.parts.backbone import EncoderConfig, ResNet18Config
from wsi_models.views import Normalisation, StainViewConfig, StainViews, measure_normalisation

if TYPE_CHECKING:
    from wsi_models.views.inputs import Patches

MIXED_CONTRASTIVE_WEIGHT = 0.001
PLAIN_CONTRASTIVE_WEIGHT = 0.01

MIXED_SIZE = LABELLED_SIZE + 2 * (STEP_SIZE - LABELLED_SIZE)
"""Mixed patches of a step, published: the hinge is summed over as many, whatever the batch."""


class ClassMConfig(AveragedConfig):
    """CLASS-M as published, and its ablations."""

    method: Literal["class-m"] = Field("class-m", description="Which method.")
    encoder: EncoderConfig = Field(
        ResNet18Config(), description="The encoder that each stain has one of."
    )
    views: StainViewConfig = Field(StainViewConfig(), description="What the network sees.")
    unlabelled_per_step: int | None = Field(
        None, ge=1, description="Unlabelled patches of a step; by default what remains of 64."
    )
    mixup: bool = Field(
        True,
        description="Mix labelled and pseudo-labelled patches; else the method is CLASS.",
    )
    contrastive: bool = Field(True, description="Contrast the two stains of each patch.")
    mixing: MixingConfig = Field(MixingConfig(), description="Pseudo-labels and mixing.")
    contrastive_weight: float | None = Field(
        None,
        ge=0,
        description="Weight of the hinge, summed over the published batch; by default 0.001, and "
        "0.01 without mixup.",
    )
    normalised_together: int | None = Field(
        None,
        ge=2,
        description="Without mixup: patches that batch normalisation sees at once; all of a step "
        "if not set.",
    )
    margin: float | None = Field(
        None, description="Margin of the hinge; by default 37/32 sqrt(2 d) for d features."
    )

    def network(self) -> StainPairConfig:
        """Describe the network that is trained."""
        return StainPairConfig(encoder=self.encoder)

    def build(self, classes: int, normalisation: Normalisation | None) -> ClassM:
        """Build CLASS-M."""
        if normalisation is None:
            raise ValueError(
                "class-m needs the normalisation of its training set; "
                "measure it with measure_normalisation(batches, config.views)"
            )
        return ClassM(self, classes, normalisation)

    def measure(self, patches: Iterable[Patches]) -> Normalisation:
        """Measure the mean and deviation of both channels."""
        return measure_normalisation(patches, self.views)

    @property
    def is_servable(self) -> bool:
        """Whether the input is the slide's own stains, which alone are stored."""
        return self.views.channels == "he" and self.views.stain_matrix == "slide"

    def describe_loss(self) -> str:
        """Name the parts of the loss."""
        parts = ["cross-entropy"]
        if self.mixup:
            parts += ["MixUp", "consistency with sharpened pseudo-labels"]
        if self.contrastive:
            parts.append("triplet contrast of the stains")
        return ("CLASS-M: " if self.mixup else "CLASS: ") + ", ".join(parts)


class ClassM(AveragedMethod[ClassMNetwork]):
    """CLASS-M: pseudo-labels, MixUp, and contrast between the stains of a patch.

    Parameters
    ----------
    config : ClassMConfig
        The choices.
    classes : int
        Number C of classes.
    normalisation : Normalisation
        Of the training set.

    Notes
    -----
    ``L = L_x + w L_u + 0.001 L_ct`` as in [1]_, where L_ct is the sum of the hinge over the 95
    mixed patches of the published batch. Smaller and larger batches take 95 times its mean, since
    the other losses are means: the balance of the losses is that of the paper at any batch size.

    The network is in training mode throughout, also
    where it guesses labels. The third forward pass, of all mixed patches at once, is the only one
    that yields embeddings. The average network includes the running statistics and starts anew
    after the first epoch. Unlike in the authors' release, the extra decay shrinks weights only.

    Without MixUp the method is CLASS: ``sum CE + 0.01 sum hinge`` over one view of each patch, in
    one forward pass unless ``normalised_together`` says otherwise. Its cross-entropy is a sum
    over the labelled patches, against which the weight 0.001 would be some 50 times weaker than in
    CLASS-M; 0.01 is what the predecessor of the method used [2]_. Both sums are those of the
    published 33 labelled and 64 patches in all, whatever the batch.

    References
    ----------
    .. [1] B. Zhang et al., CLASS-M, Medical Image Analysis 105 (2025) 103711.
    .. [2] B. Zhang et al., Stain Based Contrastive Co-training, MICCAI MOVI 2022.
    """

    def __init__(self, config: ClassMConfig, classes: int, normalisation: Normalisation) -> None:
        network = build_network(config.network(), classes, config.views.patch_px)
        labelled, unlabelled = step_sizes(
            classes, config.labelled_per_step, config.unlabelled_per_step
        )
        super().__init__(
            config,
            classes,
            network,
            (labelled, unlabelled if config.mixup or config.contrastive else 0),
        )
        self.config = config
        self.views = StainViews(config.views, normalisation)
        self.margin = (
            default_margin(network.head.in_features) if config.margin is None else config.margin
        )
        default = MIXED_CONTRASTIVE_WEIGHT if config.mixup else PLAIN_CONTRASTIVE_WEIGHT
        self._summed = MIXED_SIZE if config.mixup else STEP_SIZE
        given = config.contrastive_weight
        self.contrastive_weight = default if given is None else given

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the losses of one step; see :meth:`Method.training_step`."""
        require_sizes(self, labelled, unlabelled)
        self.network.train()
        if self.config.mixup and unlabelled is not None:
            return self._mixed_step(labelled, unlabelled, clock, generator)
        return self._plain_step(labelled, unlabelled, generator)

    def evaluation_input(self, batch: Batch) -> Tensor:
        """Make the input of the evaluated network, shape (B, 2, P, P)."""
        return self.views.plain(batch)

    def _mixed_step(
        self, labelled: Batch, unlabelled: Batch, clock: float, generator: torch.Generator
    ) -> Losses:
        """Take the step of CLASS-M."""
        config = self.config.mixing
        view = self.views.random(labelled, generator)
        others = [self.views.random(unlabelled, generator) for _ in range(config.views)]
        mixed = mixed_losses(
            self.network.classify, (view, self._targets(labelled)), others, config, generator
        )
        total = mixed.supervised + ramp(clock, config) * mixed.consistency
        parts = {"supervised": mixed.supervised, "consistency": mixed.consistency}
        if self.config.contrastive:
            parts["contrastive"] = self._contrast(mixed.items, generator)
            total = total + self.contrastive_weight * parts["contrastive"]
        confidence, pseudo = mixed.pseudo.prob.max(dim=1)
        parts |= {"total": total, "pseudo_confidence": confidence.mean()}
        return Losses(total, floats(**parts), pseudo, confidence)

    def _plain_step(
        self, labelled: Batch, unlabelled: Batch | None, generator: torch.Generator
    ) -> Losses:
        """Take the step of CLASS, which learns nothing from the unlabelled but the contrast."""
        batches = [labelled] if unlabelled is None else [labelled, unlabelled]
        items = torch.cat([self.views.random(batch, generator) for batch in batches])
        order = draws.permutation(len(items), generator, items.device)
        chunks = torch.split(items[order], self.config.normalised_together or len(items))
        outputs = [self.network(chunk) for chunk in chunks]
        logits = torch.cat([output.logits for output in outputs])[order.argsort()]
        targets = self._targets(labelled)
        supervised = soft_cross_entropy(logits[: len(labelled)], targets) * LABELLED_SIZE
        total, parts = supervised, {"supervised": supervised}
        if self.config.contrastive:
            parts["contrastive"] = self._hinge(
                torch.cat([output.z_h for output in outputs]),
                torch.cat([output.z_e for output in outputs]),
            )
            total = total + self.contrastive_weight * parts["contrastive"]
        return Losses(total, floats(**parts, total=total))

    def _contrast(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """Contrast the stains of mixed patches in random order."""
        order = draws.permutation(len(items), generator, items.device)
        output = self.network(items[order])
        return self._hinge(output.z_h, output.z_e)

    def _hinge(self, z_h: Tensor, z_e: Tensor) -> Tensor:
        """Sum the hinge as over a batch of the published size."""
        return roll_triplet(z_h, z_e, self.margin) * (self._summed / len(z_h))
