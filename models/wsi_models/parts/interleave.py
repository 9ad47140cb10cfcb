"""A batch in parts of different origin -> chunks that each hold some of every part, and back.

Batch normalisation then sees mixed chunks, as in MixMatch; here only the order is worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Interleave:
    """An order of a batch, cut into chunks.

    Attributes
    ----------
    order : Tensor of shape (B,), int64
        Position in the batch of each item of the interleaved batch.
    sizes : tuple of int
        Items per chunk of the interleaved batch, all positive.
    """

    order: Tensor
    sizes: tuple[int, ...]

    def chunks(self, items: Tensor) -> tuple[Tensor, ...]:
        """Reorder a batch of shape (B, ...) and cut it into chunks."""
        return torch.split(items[self.order], list(self.sizes))

    def undo(self, chunks: tuple[Tensor, ...]) -> Tensor:
        """Join chunks in the order that the batch had before :meth:`chunks`."""
        return torch.cat(chunks)[self.order.argsort()]

    def apply(self, network: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        """Send each chunk through a network on its own; results in the order of the batch."""
        return self.undo(tuple(network(chunk) for chunk in self.chunks(items)))


def interleave(count: int, size: int, device: torch.device | str = "cpu") -> Interleave:
    """Spread the first ``size`` items of a batch over all its chunks.

    The batch is cut into chunks of ``size`` items, the last perhaps shorter, and every chunk into
    as many pieces as there are chunks; piece k of the first chunk changes places with piece k of
    chunk k.

    Parameters
    ----------
    count : int
        Items B of the batch.
    size : int
        Items of its first part, from 1 to ``count``.
    device : torch.device or str
        Where the order goes.

    Returns
    -------
    Interleave
        Chunks of unequal length where pieces of unequal length changed places: (33, 33, 29)
        become (29, 33, 33).

    Raises
    ------
    ValueError
        If ``size`` is not from 1 to ``count``.

    Notes
    -----
    Undoing is the inverse permutation, so it holds whatever the lengths; swapping the pieces once
    more, as is usual, does not when the last chunk is too short to have all of them.

    References
    ----------
    .. [1] D. Berthelot et al., MixMatch, NeurIPS 2019, section 3.4.
    """
    if not 1 <= size <= count:
        raise ValueError(f"chunks of {size} cannot be cut from {count} items")
    starts = range(0, count, size)
    edges = _piece_edges(size, len(starts))
    pieces = [
        [range(min(start + low, count), min(start + high, count)) for low, high in edges]
        for start in starts
    ]
    for k in range(1, len(starts)):
        pieces[0][k], pieces[k][k] = pieces[k][k], pieces[0][k]
    chunks = [[item for piece in chunk for item in piece] for chunk in pieces]
    order = torch.tensor([item for chunk in chunks for item in chunk], device=device)
    return Interleave(order, tuple(len(chunk) for chunk in chunks if chunk))


def _piece_edges(size: int, count: int) -> list[tuple[int, int]]:
    """Cut ``range(size)`` into ``count`` pieces, the longer ones last."""
    longer = size % count
    lengths = [size // count + (k >= count - longer) for k in range(count)]
    ends = [sum(lengths[: k + 1]) for k in range(count)]
    return [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
