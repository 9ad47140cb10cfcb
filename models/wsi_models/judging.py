"""A method or a trained model, and patches -> logits of the classes of their labels.

A classifier gives them itself; a network trained without labels is given them by the labelled
patches that its features are nearest to. What the logits are worth is measured elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from wsi_models.knn import References, neighbour_logits
from wsi_models.sources import Embedder, Predictor, predict_features, predict_logits

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from wsi_models.networks.description import JudgedBy
    from wsi_models.sources import Indices, PatchSource


class Judged(Predictor, Embedder, Protocol):
    """What can be judged: a method, or a trained model."""

    @property
    def judged_by(self) -> JudgedBy:
        """By its outputs, or by the nearest neighbours of its features."""


def class_logits(
    fabric: Fabric,
    model: Judged,
    source: PatchSource,
    parts: tuple[Indices, Indices],
    batch_size: int,
) -> Tensor:
    """Compute the logits by which a model is judged.

    Parameters
    ----------
    fabric : Fabric
        Device, precision and processes.
    model : Judged
        On the device.
    source : PatchSource
        The patches.
    parts : tuple of ndarray of int64
        The labelled patches to compare with, which a model judged by its own outputs needs not,
        and the patches to judge.
    batch_size : int
        Patches in one forward pass.

    Returns
    -------
    Tensor of shape (n, C), float32
        In the order of the patches to judge, on the CPU; C are the classes of the source.
    """
    if model.judged_by == "logits":
        return predict_logits(fabric, model, source, parts[1], batch_size)
    return nearest_logits(fabric, model, source, parts, batch_size)


def nearest_logits(
    fabric: Fabric,
    model: Embedder,
    source: PatchSource,
    parts: tuple[Indices, Indices],
    batch_size: int,
) -> Tensor:
    """Compute logits by the nearest neighbours of features, whatever the outputs of the model.

    Parameters and result are those of :func:`class_logits`.
    """
    reference, indices = parts
    known = predict_features(fabric, model, source, reference, batch_size)
    references = References(known, torch.from_numpy(source.label[reference]), len(source.classes))
    queries = predict_features(fabric, model, source, indices, batch_size)
    return neighbour_logits(queries.to(fabric.device), references).cpu()


def thin_out(reference: Indices, count: int, seed: int) -> Indices:
    """Draw at most ``count`` of the patches to compare with, in order of reading."""
    return np.sort(np.random.default_rng(seed).permutation(reference)[:count])
