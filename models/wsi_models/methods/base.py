"""Batches of stored patches -> losses to minimise and predictions: what every method offers.

The loop that calls a method, the samplers and the checkpoints live elsewhere; a method knows
nothing of files, devices of its own choosing, or epochs beyond the clock it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from wsi_models.methods.optimisation import Schedule
    from wsi_models.networks.description import JudgedBy
    from wsi_models.parts.patch_network import PatchNetwork

UNKNOWN = -1
"""The label of a patch whose class is not known."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Stored patches with what is needed to make network input of them.

    Attributes
    ----------
    rgb : Tensor of shape (B, 3, S, S), uint8
        Patches as stored; S is at least the input side of the network, larger if a rotated
        input is to hold no fill.
    unmix : Tensor of shape (B, 2, 3), float32
        Per patch, for its slide: rows that turn log10 optical density (background 255,
        intensities of at least 1) into the input of the network before clipping, which is the
        pseudo-inverse row of a stain over twice its largest concentration.
    label : Tensor of shape (B,), int64
        Class of each patch; -1 where it is unknown. Methods never read the labels of patches
        that they are given as unlabelled.
    """

    rgb: Tensor
    unmix: Tensor
    label: Tensor

    def __post_init__(self) -> None:
        """Refuse tensors that do not belong together."""
        count = len(self.rgb)
        if self.rgb.ndim != 4 or self.rgb.shape[1] != 3 or self.rgb.shape[2] != self.rgb.shape[3]:
            raise ValueError(f"rgb must have shape (B, 3, S, S), got {tuple(self.rgb.shape)}")
        if self.rgb.dtype != torch.uint8:
            raise ValueError(f"rgb must be uint8, got {self.rgb.dtype}")
        if self.unmix.shape != (count, 2, 3):
            raise ValueError(f"unmix must be ({count}, 2, 3), got {tuple(self.unmix.shape)}")
        if self.label.shape != (count,) or self.label.dtype != torch.int64:
            raise ValueError(
                f"label must be ({count},) int64, got {tuple(self.label.shape)} {self.label.dtype}"
            )

    def __len__(self) -> int:
        """Count the patches."""
        return len(self.rgb)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(
            rgb=self.rgb.to(device, non_blocking=True),
            unmix=self.unmix.to(device, non_blocking=True),
            label=self.label.to(device, non_blocking=True),
        )


@dataclass(frozen=True, slots=True)
class Losses:
    """What one training step gives.

    Attributes
    ----------
    total : Tensor
        The scalar to minimise, with its gradient.
    parts : mapping of str to float
        Values to log by name, among them ``pseudo_confidence`` where there are pseudo-labels.
    pseudo : Tensor of shape (U,), int64, or None
        The pseudo-label of each unlabelled patch in the order given, -1 where the method does not
        trust it, so that a loop that happens to know the truth can log how many are right. The
        method itself never does.
    confidence : Tensor of shape (U,), or None
        The probability that the method gives each pseudo-label, so that such a loop can log how
        far it is to be believed.
    """

    total: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)
    pseudo: Tensor | None = None
    confidence: Tensor | None = None


class Method(nn.Module, ABC):
    """A way to train a network on patches.

    The whole method is one module: its trained network, the average of it where there is one,
    and all else that has to outlive an interruption are in :meth:`state_dict`. All randomness
    comes from the generator that is passed in.

    Attributes
    ----------
    classes : int
        Number C of outputs: the classes, or what the method tells apart without labels.
    labelled_per_step, unlabelled_per_step : int
        Sizes of the two batches of :meth:`training_step`; 0 means that it takes none. A method
        that takes no labelled patches gets all training patches as unlabelled ones.
    judged_by : {"logits", "neighbours"}
        Whether its outputs are the classes of the labels, or else its features are judged by the
        class of the nearest labelled training patch.
    """

    judged_by: ClassVar[JudgedBy] = "logits"

    classes: int
    labelled_per_step: int
    unlabelled_per_step: int

    @abstractmethod
    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Compute the losses of one step, in training mode.

        Parameters
        ----------
        labelled : Batch
            ``labelled_per_step`` patches.
        unlabelled : Batch or None
            ``unlabelled_per_step`` patches; None where the method takes none.
        clock : float
            The epoch, counted from 1, plus the part of it that is done: ``epoch + iter / iters``.
        generator : torch.Generator
            Source of every random draw of the step.

        Returns
        -------
        Losses
            The total with its gradient, and values to log.

        Raises
        ------
        ValueError
            If a batch is missing, or of another size than the method takes.
        """

    @abstractmethod
    def optimizer(self) -> Optimizer:
        """Build the optimizer of the trained parameters."""

    def scheduler(self, optimizer: Optimizer, iterations: int) -> Schedule | None:
        """Build the schedule of the learning rate, given the steps of an epoch."""
        return None

    def after_step(self) -> None:
        """Do what follows each step of the optimizer, such as averaging weights."""

    def after_epoch(self, epoch: int) -> None:
        """Do what follows each epoch, counted from 1."""

    def inspect(self, means: Mapping[str, float]) -> None:
        """Warn, through logging, of what the means of an epoch's parts show to go wrong."""

    def output_names(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """Name the outputs, given the classes of the labels."""
        return labels

    def output_order(self) -> list[int]:
        """Order the outputs, those first whose colours are to differ most."""
        return list(range(self.classes))

    @abstractmethod
    def export_network(self) -> PatchNetwork:
        """Return the network that is evaluated, in evaluation mode: what a bundle keeps.

        It shares its weights with the method, and takes normalised patches.
        """

    @abstractmethod
    def evaluation_input(self, batch: Batch) -> Tensor:
        """Make the input of the evaluated network: centre crop, no jitter, normalised."""

    def predict(self, batch: Batch) -> Tensor:
        """Compute the logits of patches by the network that is evaluated.

        Parameters
        ----------
        batch : Batch
            Any number of patches; their labels are not read.

        Returns
        -------
        Tensor of shape (B, C)
            Before the softmax; without gradient. The same whatever the batch size, up to
            rounding, since the network is in evaluation mode.
        """
        network = self.export_network()
        with torch.no_grad():
            inputs = self.evaluation_input(batch)
            if len(batch) == 0:  # residual networks cannot flatten nothing
                return inputs.new_zeros((0, self.classes))
            return network.classify(inputs)

    def embed(self, batch: Batch) -> Tensor:
        """Compute the features of patches, shape (B, F), by the network that is evaluated.

        As :meth:`predict` does, for at least one patch.
        """
        network = self.export_network()
        with torch.no_grad():
            return network.features(self.evaluation_input(batch))

    def forward(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        """Call :meth:`training_step`: the door for wrappers that hook into the forward pass."""
        return self.training_step(labelled, unlabelled, clock, generator)
