"""Labels and a seed -> the patches of every batch of an epoch.

A sampler is a function of seed, epoch and rank: there is no position to save, so a resumed run
draws what an uninterrupted one would have drawn. Pixels are fetched elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_models.errors import TrainingError

Indices = NDArray[np.int64]

BUFFER_BLOCKS = 32
"""Blocks that are shuffled together where patches are read from disk block by block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """What all samplers of a run share.

    Attributes
    ----------
    seed : int
        Another order per seed.
    block : ndarray of shape (N,), int, or None
        Which patches are read from disk together; None where all are in memory.
    rank, ranks : int
        This process and the number of processes; each draws its own share.
    """

    seed: int
    block: Indices | None = None
    rank: int = 0
    ranks: int = 1


class BalancedBatches:
    """Batches with the same number of patches of every class.

    Parameters
    ----------
    label : ndarray of shape (N,), int
        Class of every patch of the data.
    indices : ndarray of shape (n,), int
        The labelled patches to draw from.
    batch : int
        Patches in a batch; a multiple of the number of classes.
    drawing : Drawing
        Seed, blocks and share of this process.

    Raises
    ------
    TrainingError
        If ``batch`` is no multiple of the number of classes, or there is nothing to draw.

    Notes
    -----
    As in CLASS-M, the list of each class is shuffled at the start of an epoch and read circularly:
    a rare class is seen as often as a frequent one, each of its patches equally often. Every batch
    is shuffled after it is drawn, so that the order of its patches tells nothing of their classes.
    """

    def __init__(self, label: Indices, indices: Indices, batch: int, drawing: Drawing) -> None:
        classes = np.unique(label[indices])
        if len(classes) == 0:
            raise TrainingError("no training patch has a label; check the split and the label map")
        if batch % len(classes):
            raise TrainingError(
                f"{batch} labelled patches per step are no multiple of the {len(classes)} classes; "
                f"choose {max(1, batch // len(classes)) * len(classes)}"
            )
        self.batch = batch
        self._by_class = [indices[label[indices] == value] for value in classes]
        self._drawing = drawing

    def epoch(self, epoch: int, iterations: int) -> Indices:
        """Draw the batches of one epoch.

        Parameters
        ----------
        epoch : int
            Number of the epoch, from 1.
        iterations : int
            Batches in it.

        Returns
        -------
        ndarray of shape (iterations, batch), int64
            Indices of patches, in random order within a batch.
        """
        rng = np.random.default_rng([self._drawing.seed, epoch])
        per_class = self.batch // len(self._by_class)
        columns = []
        for members in self._by_class:
            order = _shuffle(members, self._drawing.block, rng)
            drawn = np.resize(order, (iterations, self._drawing.ranks, per_class))
            columns.append(drawn[:, self._drawing.rank])
        return rng.permuted(np.concatenate(columns, axis=1), axis=1)


class PermutedBatches:
    """Batches in which every patch comes once before any comes twice.

    Parameters
    ----------
    indices : ndarray of shape (n,), int
        The patches to draw from.
    batch : int
        Patches in a batch.
    drawing : Drawing
        Seed, blocks and share of this process.

    Raises
    ------
    TrainingError
        If there is nothing to draw.

    Notes
    -----
    The permutations follow one another without a gap, across batches and epochs.
    """

    def __init__(self, indices: Indices, batch: int, drawing: Drawing) -> None:
        if len(indices) == 0:
            raise TrainingError(
                "the method learns from unlabelled patches and there are none; keep fewer labels "
                "(labels_per_class), or add stores without labels"
            )
        self.batch = batch
        self._indices, self._drawing = indices, drawing

    def epoch(self, epoch: int, iterations: int) -> Indices:
        """Draw the batches of one epoch, as :meth:`BalancedBatches.epoch` does."""
        length = iterations * self._drawing.ranks * self.batch
        start = (epoch - 1) * length
        first, last = start // len(self._indices), (start + length - 1) // len(self._indices)
        stream = np.concatenate([self._permutation(turn) for turn in range(first, last + 1)])
        offset = start - first * len(self._indices)
        drawn = stream[offset : offset + length]
        return drawn.reshape(iterations, self._drawing.ranks, self.batch)[:, self._drawing.rank]

    def _permutation(self, turn: int) -> Indices:
        # a third number tells these draws from those of the labelled patches
        return _shuffle(
            self._indices, self._drawing.block, np.random.default_rng([self._drawing.seed, turn, 1])
        )


def _shuffle(members: Indices, block: Indices | None, rng: np.random.Generator) -> Indices:
    """Permute ``members``; with blocks, so that nearby positions share few of them."""
    if block is None:
        return rng.permutation(members)
    by_block = members[np.argsort(block[members], kind="stable")]
    _, starts = np.unique(block[by_block], return_index=True)
    runs = np.split(by_block, starts[1:])
    order = rng.permutation(len(runs))
    buffers = [
        rng.permutation(np.concatenate([runs[i] for i in order[start : start + BUFFER_BLOCKS]]))
        for start in range(0, len(order), BUFFER_BLOCKS)
    ]
    return np.concatenate(buffers)
