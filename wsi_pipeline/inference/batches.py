"""A network on a device -> how many patches it takes at once.

Measures memory, not speed: beyond a few hundred patches a GPU gains nothing, and a processor gains
nothing from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

LARGEST_BATCH = 512
"""Most patches in an automatic batch: a network that is no faster there is no faster beyond."""

SMALLEST_BATCH = 8
"""Patches in an automatic batch on a processor: activations of more leave its cache. A GPU starts
from here."""

MEMORY_SHARE = 0.8
"""Share of a GPU's free memory that an automatic batch may fill; copies wait in the rest."""


def find_batch_size(fits: Callable[[int], bool], limit: int) -> int:
    """Double a batch as long as it fits.

    Parameters
    ----------
    fits : callable
        Whether a batch of so many patches fits; not asked for :data:`SMALLEST_BATCH` or fewer.
    limit : int
        Most patches wanted.

    Returns
    -------
    int
        The limit, or the last doubling of :data:`SMALLEST_BATCH` that fits.
    """
    size = min(SMALLEST_BATCH, limit)
    while size < limit:
        larger = min(2 * size, limit)
        if not fits(larger):
            break
        size = larger
    return size


def automatic_batch_size(network: nn.Module, example: torch.Tensor, count: int) -> int:
    """Find the batch size for a network on the device it is on.

    Parameters
    ----------
    network : Module
        Takes batches as ``example``; in evaluation mode, without gradients, under the autocasting
        it will run with.
    example : Tensor of shape (B, ...)
        Some patches on the device; the batches tried repeat the first.
    count : int
        Patches there are.

    Returns
    -------
    int
        On a GPU, found by doubling until :data:`MEMORY_SHARE` of its memory is used or
        :data:`LARGEST_BATCH` is reached; :data:`SMALLEST_BATCH` on anything else. Never more than
        ``count``.
    """
    if example.device.type != "cuda":
        return min(SMALLEST_BATCH, count)

    def fits(size: int) -> bool:
        torch.cuda.reset_peak_memory_stats(example.device)
        try:
            network(example[:1].repeat(size, 1, 1, 1))
        except torch.OutOfMemoryError:
            return False
        free, _ = torch.cuda.mem_get_info(example.device)
        available = free + torch.cuda.memory_reserved(example.device)
        return torch.cuda.max_memory_allocated(example.device) <= MEMORY_SHARE * available

    return find_batch_size(fits, min(LARGEST_BATCH, count))
