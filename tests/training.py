"""A small real method and patches of known classes, for tests of the loop."""

from __future__ import annotations

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from wsi_models.methods.base import Batch, Losses, Method
from wsi_models.methods.optimisation import Schedule
from wsi_models.parts.patch_network import PatchNetwork

UNMIX = torch.tensor([[1.838, 0.0341, -0.760], [-1.373, 0.772, 1.215]])


class Softmax(PatchNetwork):
    """Softmax regression on whatever numbers it is given."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.1), nn.Linear(2, classes))

    def features(self, patches: Tensor) -> Tensor:
        return patches

    def classify(self, patches: Tensor) -> Tensor:
        logits: Tensor = self.layers(patches)
        return logits


class MeanStains(Method):
    """Softmax regression on the mean of both stains, with noise and pseudo-labels."""

    def __init__(self, classes: int, *, unlabelled: int = 4, lr: float = 0.1) -> None:
        super().__init__()
        self.classes = classes
        self.labelled_per_step, self.unlabelled_per_step = 2 * classes, unlabelled
        self.network = Softmax(classes)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._lr = lr

    def training_step(
        self,
        labelled: Batch,
        unlabelled: Batch | None,
        clock: float,
        generator: torch.Generator,
    ) -> Losses:
        if unlabelled is not None and (unlabelled.label != -1).any():
            raise AssertionError("the labels of unlabelled patches must be withheld")
        inputs = self.evaluation_input(labelled)
        noise = torch.randn(inputs.shape, generator=generator, device=inputs.device)
        logits = self.network.classify(inputs + 0.01 * noise)
        loss = functional.cross_entropy(logits, labelled.label)
        parts = {"labelled": float(loss.detach())}
        if unlabelled is None:
            return Losses(total=loss, parts=parts)
        pseudo = self.network.classify(self.evaluation_input(unlabelled)).softmax(dim=1)
        parts["pseudo_confidence"] = float(pseudo.detach().max(dim=1).values.mean())
        entropy = -(pseudo * pseudo.clamp(min=1e-6).log()).sum(dim=1).mean()
        total = loss + 0.01 * min(clock / 16, 1) * entropy
        return Losses(total=total, parts=parts, pseudo=pseudo.detach().argmax(dim=1))

    def after_step(self) -> None:
        self.get_buffer("steps").add_(1)

    def optimizer(self) -> Optimizer:
        return SGD(self.network.parameters(), self._lr, momentum=0.9)

    def scheduler(self, optimizer: Optimizer, iterations: int) -> Schedule | None:
        return Schedule(ReduceLROnPlateau(optimizer, factor=0.5, patience=0), per_step=False)

    def export_network(self) -> PatchNetwork:
        return self.network.eval()

    def evaluation_input(self, batch: Batch) -> Tensor:
        density = -torch.log10(batch.rgb.float().clamp(min=1) / 255)
        stains = torch.einsum("bsc,bchw->bshw", batch.unmix, density).clamp(0, 1)
        return stains.mean(dim=(2, 3))


class Colours:
    """Patches whose class shows in their colour: class 0 is red, 1 blue, 2 pale.

    Every tenth label is unknown; each group has patches of one class.
    """

    patch_px = 8
    mpp = 1.0
    stain_convention = "macenko-log10-he-v1"
    classes = ("red", "blue", "pale")
    block: NDArray[np.int64] | None = None

    def __init__(self, n: int = 300, *, noise: float = 25.0) -> None:
        rng = np.random.default_rng(5)
        self.truth = np.arange(n) % 3
        self.label = np.where(np.arange(n) % 10 == 9, -1, self.truth).astype(np.int64)
        self.group = tuple(f"patient-{i % 30}" for i in range(n))
        colours = np.array([[220, 130, 190], [150, 120, 200], [235, 215, 230]])
        rgb = colours[self.truth][:, :, None, None] + rng.normal(0, noise, (n, 3, 8, 8))
        rgb += rng.normal(0, noise, (n, 3, 1, 1))
        self.rgb = torch.from_numpy(rgb.clip(0, 255).astype(np.uint8))

    def fetch(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        where = torch.from_numpy(np.asarray(indices))
        label = torch.from_numpy(self.label[indices])
        return self.rgb[where], UNMIX.expand(len(where), 2, 3), label


def cpu(devices: int = 1) -> Fabric:
    fabric = Fabric(accelerator="cpu", devices=devices, precision="32-true")
    fabric.launch()
    return fabric
