"""Patches in ranges on disk -> blocks of tensors, read ahead of whoever takes them.

Neither normalises nor moves anything to a device: that is done where it is cheap, on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ReadRange = Callable[[int, int], NDArray[Any]]
"""Reads the patches ``start`` to ``stop``, shape (stop - start, C, P, P), uint8 or float16, in any
order of memory; called from several threads."""


SPARE_BLOCKS = 2
"""Blocks that are read or wait while every reader has one: no reader stops while one is taken."""


def read_ahead(
    read: ReadRange,
    count: int,
    block: int,
    *,
    crop_px: int | None = None,
    readers: int = 2,
    pin: bool = False,
) -> Generator[tuple[int, Tensor], None, None]:
    """Stream patches in order, in blocks; closing the stream stops the readers.

    Parameters
    ----------
    read : callable
        Reads a range of patches.
    count : int
        Number of patches.
    block : int
        Patches read at once; only the last block may hold fewer.
    crop_px : int or None
        Side of a centre crop; the whole patch if not given. An odd margin leaves the extra row
        and column at the bottom right.
    readers : int
        Threads that read ahead; so many blocks, and :data:`SPARE_BLOCKS` more, wait in memory.
    pin : bool
        Put blocks into pinned memory, from which a GPU copies in the background.

    Yields
    ------
    start : int
        Index of the first patch of the block.
    patches : Tensor of shape (n, C, p, p), uint8 or float16
        The values as read, in the order of memory they were read in, p = ``crop_px`` or P.

    Raises
    ------
    ValueError
        If the crop is larger than the patches.
    """
    ranges: Iterable[tuple[int, int]] = iter(
        [(start, min(start + block, count)) for start in range(0, count, block)]
    )

    def load(start: int, stop: int) -> tuple[int, Tensor]:
        patches = read(start, stop)
        return start, _as_tensor(_centre(patches, crop_px or patches.shape[-1]), pin=pin)

    waiting: deque[Future[tuple[int, Tensor]]] = deque()
    with ThreadPoolExecutor(readers, thread_name_prefix="read-ahead") as pool:
        try:
            waiting.extend(pool.submit(load, *r) for r in islice(ranges, readers + SPARE_BLOCKS))
            while waiting:
                loaded = waiting.popleft().result()
                waiting.extend(pool.submit(load, *r) for r in islice(ranges, 1))
                yield loaded
        finally:  # an abandoned or failing stream must not wait for blocks that nobody will take
            for future in waiting:
                future.cancel()


def _centre(patches: NDArray[Any], side: int) -> NDArray[Any]:
    if side > patches.shape[-1]:
        raise ValueError(f"cannot crop {side} px from patches of {patches.shape[-1]} px")
    start = (patches.shape[-1] - side) // 2
    return patches[..., start : start + side, start : start + side]


def _as_tensor(patches: NDArray[Any], *, pin: bool) -> Tensor:
    """Share the memory of the patches where whoever takes them may have it, else copy them."""
    if not pin and patches.flags.writeable:
        return torch.from_numpy(patches)
    # RGB is read with its colours last; a copy in another order would be several times slower
    colours_last = patches.strides[1] < patches.strides[-1]
    tensor = torch.empty(
        patches.shape,
        dtype=torch.uint8 if patches.dtype == np.uint8 else torch.float16,
        memory_format=torch.channels_last if colours_last else torch.contiguous_format,
        pin_memory=pin,
    )
    tensor.numpy()[...] = patches
    return tensor
