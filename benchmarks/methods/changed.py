"""Patches of a store -> a part of them, or some with another label, as a benchmark asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor
    from wsi_models.sources import Indices

    from wsi_pipeline.training_data import TrainingData


class Changed:
    """Some patches of a source, with labels of their own.

    Parameters
    ----------
    source : TrainingData
        All patches.
    kept : ndarray of shape (N,), int64
        Which there are.
    label : ndarray of shape (N,), int64
        Their classes.
    """

    def __init__(self, source: TrainingData, kept: Indices, label: Indices) -> None:
        self._source, self._kept, self.label = source, kept, label
        self.classes, self.patch_px, self.mpp = source.classes, source.patch_px, source.mpp
        self.stain_convention = source.stain_convention
        self.group: Sequence[str] = [source.group[index] for index in kept]
        self.block: Indices | None = None

    def fetch(self, indices: Indices) -> tuple[Tensor, Tensor, Tensor]:
        """Get patches, as the source does."""
        rgb, unmix, _ = self._source.fetch(self._kept[indices])
        return rgb, unmix, torch.from_numpy(self.label[indices])


def thin_out(source: TrainingData, rare: int, share: float, seed: int) -> Changed:
    """Keep all patches but those of class ``rare``, and so many of these that they are a share."""
    common = np.flatnonzero(source.label != rare)
    count = round(len(common) * share / (1 - share))
    rng = np.random.default_rng([seed, 9])
    drawn = rng.choice(np.flatnonzero(source.label == rare), count, replace=False)
    kept = np.sort(np.concatenate([common, drawn]))
    return Changed(source, kept, source.label[kept])


def mislabel(source: TrainingData, which: Indices, share: float, seed: int) -> Changed:
    """Give a share of the patches ``which`` another class, any of the others alike."""
    label = source.label.copy()
    rng = np.random.default_rng([seed, 13])
    wrong = rng.choice(which, round(share * len(which)), replace=False)
    classes = len(source.classes)
    label[wrong] = (label[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return Changed(source, np.arange(len(label)), label)
