"""Patches in shards on disk -> full batches of tensors, read ahead of whoever takes them.

Neither normalises nor moves anything to a device: that is done where it is cheap, on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PatchSource(Protocol):
    """Stained patches that can be read in ranges, from several threads.

    :class:`~wsi_pipeline.store.PatchStore` is one; anything with these members will do.
    """

    @property
    def patch_px(self) -> int:
        """Side P of the patches, px."""

    @property
    def shard_patches(self) -> int:
        """Patches that are read at once."""

    def __len__(self) -> int:
        """Count the patches."""

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8] | NDArray[np.float16]:
        """Read the H/E patches ``start`` to ``stop``, shape (stop - start, 2, P, P)."""


def shard_batches(
    source: PatchSource,
    batch_size: int,
    *,
    crop_px: int | None = None,
    readers: int = 2,
    pin: bool = False,
) -> Generator[Tensor, None, None]:
    """Stream all patches of a source, in order, in batches; closing it stops the readers.

    Parameters
    ----------
    source : PatchSource
        The patches.
    batch_size : int
        Patches in a batch; only the last may hold fewer. Batches do not depend on the shards.
    crop_px : int or None
        Side of a centre crop; the whole patch if not given. An odd margin leaves the extra row
        and column at the bottom right.
    readers : int
        Threads that read whole shards ahead; so many shards, and one more, are in memory.
    pin : bool
        Put batches into pinned memory, from which a GPU copies in the background.

    Yields
    ------
    Tensor of shape (n, 2, p, p), uint8 or float16
        The stored values, p = ``crop_px`` or P.

    Raises
    ------
    ValueError
        If the crop is larger than the patches.
    """
    side = crop_px or source.patch_px
    if side > source.patch_px:
        raise ValueError(f"cannot crop {side} px from patches of {source.patch_px} px")
    left = len(source)
    batch, filled = None, 0
    for shard in _shards_ahead(source, readers):
        patches = _centre(shard, side)
        while len(patches):
            if batch is None:
                batch = _allocate(min(batch_size, left), patches, pin=pin)
            taken = patches[: len(batch) - filled]
            batch.numpy()[filled : filled + len(taken)] = taken
            patches, filled = patches[len(taken) :], filled + len(taken)
            if filled == len(batch):
                yield batch
                left -= filled
                batch, filled = None, 0


def _shards_ahead(source: PatchSource, readers: int) -> Iterator[NDArray[Any]]:
    """Read shard after shard, ``readers`` of them at a time, and yield them in order."""
    step = source.shard_patches
    ranges: Iterable[tuple[int, int]] = iter(
        [(start, min(start + step, len(source))) for start in range(0, len(source), step)]
    )
    waiting: deque[Future[NDArray[Any]]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="read-ahead") as pool:
        try:
            waiting.extend(pool.submit(source.read_he, *r) for r in islice(ranges, readers))
            while waiting:
                shard = waiting.popleft().result()
                waiting.extend(pool.submit(source.read_he, *r) for r in islice(ranges, 1))
                yield shard
        finally:  # an abandoned or failing stream must not wait for shards that nobody will take
            for future in waiting:
                future.cancel()


def _centre(patches: NDArray[Any], side: int) -> NDArray[Any]:
    start = (patches.shape[-1] - side) // 2
    return patches[..., start : start + side, start : start + side]


def _allocate(n: int, like: NDArray[Any], *, pin: bool) -> Tensor:
    dtype = torch.uint8 if like.dtype == np.uint8 else torch.float16
    return torch.empty((n, *like.shape[1:]), dtype=dtype, pin_memory=pin)
