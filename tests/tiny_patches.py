"""Small patches of known stains and classes, for tests of views and methods."""

from __future__ import annotations

import torch
from torch import Tensor
from wsi_models.methods.base import Batch

STAINS = torch.tensor([[0.594, 0.731, 0.327], [0.154, 0.738, 0.644]], dtype=torch.float64)
"""Rows H and E, in optical density."""

MAXIMA = torch.tensor([1.1, 0.8], dtype=torch.float64)

ROWS = (torch.linalg.pinv(STAINS).T / (2 * MAXIMA[:, None])).to(torch.float32)
"""What ``Batch.unmix`` holds for these stains, shape (2, 3)."""


def colored(concentrations: Tensor) -> Tensor:
    """Turn stain concentrations (..., 2, S, S) into RGB (..., 3, S, S), uint8."""
    density = torch.einsum("...shw,sc->...chw", concentrations.to(torch.float64), STAINS)
    return (255 * 10**-density).round().clamp(0, 255).to(torch.uint8)


def tiny_batch(classes: int, per_class: int, *, side: int = 46, seed: int = 0) -> Batch:
    """Draw textured patches whose stains tell their class, in turns of the classes."""
    generator = torch.Generator().manual_seed(seed)
    count = classes * per_class
    label = torch.arange(count) % classes
    texture = torch.rand((count, 2, side, side), generator=generator)
    level = torch.stack([label + 1.0, classes - label.to(torch.float32)], dim=1) / classes
    concentrations = texture * level[:, :, None, None] * MAXIMA[None, :, None, None]
    return Batch(colored(concentrations), ROWS.expand(count, 2, 3).clone(), label)


def without_labels(batch: Batch, label: int = -1) -> Batch:
    """Return the same patches, all with one label."""
    return Batch(batch.rgb, batch.unmix, torch.full_like(batch.label, label))
