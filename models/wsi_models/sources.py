"""Labelled patches by index -> batches on a device, and what a model makes of them.

What the loop and the evaluation ask of data, whoever offers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_models.methods.base import Batch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Indices = NDArray[np.int64]


class PatchSource(Protocol):
    """N patches of several slides.

    Attributes
    ----------
    classes : tuple of str
        Names of the classes.
    label : ndarray of shape (N,), int64
        Class of each patch; -1 where unknown.
    group : sequence of N str
        Patient, slide or prototype of each patch.
    block : ndarray of shape (N,), int64, or None
        Which patches are read together; None where the order of reading does not matter.
    patch_px : int
        Side of the stored patches, px.
    mpp : float
        Their resolution, um/px.
    stain_convention : str
        Which stains they have, and how their patches are made, as a bundle keeps it.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...  # noqa: D102 -- described above
    @property
    def label(self) -> Indices: ...  # noqa: D102
    @property
    def group(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def block(self) -> Indices | None: ...  # noqa: D102
    @property
    def patch_px(self) -> int: ...  # noqa: D102
    @property
    def mpp(self) -> float: ...  # noqa: D102
    @property
    def stain_convention(self) -> str: ...  # noqa: D102

    def fetch(self, indices: Indices) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``rgb`` (n, 3, S, S) uint8, ``unmix`` (n, 2, 3) float32 and ``label`` (n,)."""


class Predictor(Protocol):
    """What classifies patches: a method, or a trained model."""

    @property
    def classes(self) -> int:
        """Number C of classes."""

    def predict(self, batch: Batch) -> Tensor:
        """Compute logits, shape (B, C), without gradient."""


class Embedder(Protocol):
    """What describes patches: a method, or a trained model."""

    def embed(self, batch: Batch) -> Tensor:
        """Compute features, shape (B, F), without gradient."""


def fetch_ahead(source: PatchSource, batches: Sequence[Indices]) -> Iterator[Batch]:
    """Yield the batches of the given patches, reading the next while one is used."""
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(source.fetch, indices) for indices in batches[:1]]
        for position in range(len(batches)):
            batch = Batch(*coming.pop().result())
            if position + 1 < len(batches):
                coming.append(reader.submit(source.fetch, batches[position + 1]))
            yield batch


def predict_logits(
    fabric: Fabric, model: Predictor, source: PatchSource, indices: Indices, batch_size: int
) -> Tensor:
    """Predict patches, shared among all processes.

    Parameters
    ----------
    fabric : Fabric
        Device, precision and processes.
    model : Predictor
        On the device.
    source : PatchSource
        The patches.
    indices : ndarray of shape (n,), int64
        Which of them.
    batch_size : int
        Patches in one forward pass.

    Returns
    -------
    Tensor of shape (n, C), float32
        Logits in the order of ``indices``, on the CPU; the same in every process.
    """
    if len(indices) == 0:
        return torch.empty((0, model.classes))
    return _shared(fabric, model.predict, source, indices, batch_size)


def predict_features(
    fabric: Fabric, model: Embedder, source: PatchSource, indices: Indices, batch_size: int
) -> Tensor:
    """Describe at least one patch, shared among all processes, as :func:`predict_logits` does.

    Returns
    -------
    Tensor of shape (n, F), float32
        Features in the order of ``indices``, on the CPU; the same in every process.
    """
    return _shared(fabric, model.embed, source, indices, batch_size)


def _shared(
    fabric: Fabric,
    compute: Callable[[Batch], Tensor],
    source: PatchSource,
    indices: Indices,
    batch_size: int,
) -> Tensor:
    """Compute a row for each patch, each process its share of them."""
    share = np.resize(indices, -(-len(indices) // fabric.world_size) * fabric.world_size)
    mine = share[fabric.global_rank :: fabric.world_size]
    parts = []
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    for batch in fetch_ahead(source, batches):
        with fabric.autocast():
            rows = compute(batch.to(fabric.device))
        parts.append(rows.float().cpu())
    found = torch.cat(parts)
    if fabric.world_size > 1:
        gathered = fabric.all_gather(found)
        assert isinstance(gathered, Tensor)
        found = gathered.transpose(0, 1).reshape(-1, found.shape[1]).cpu()
    return found[: len(indices)]
