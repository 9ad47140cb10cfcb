"""Decoded tiles kept for the threads that ask for them next.

Knows keys and arrays only; what is decoded, and how, is handed in.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DECODING_LOCKS = 64
"""More than threads that read one slide, so that two of them seldom wait for different tiles."""

TileKey = tuple[int, int, int]
"""Level, column and row of a tile."""


class TileCache:
    """The decoded tiles used last, within a limit of bytes; safe to share between threads.

    Patches rarely align with stored tiles, so neighbours need the same ones, often at the same
    moment: a tile that one thread decodes is waited for by the others, not decoded again.

    Parameters
    ----------
    max_bytes : int
        Most bytes kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: OrderedDict[TileKey, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = tuple(threading.Lock() for _ in range(_DECODING_LOCKS))

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return self._bytes

    def get(
        self, key: TileKey, decode: Callable[[TileKey], NDArray[np.uint8] | None]
    ) -> NDArray[np.uint8] | None:
        """Return a tile, decoding it if it is not kept.

        Parameters
        ----------
        key : tuple of int
            Level, column and row.
        decode : callable
            Returns the tile of a key, or None where it is missing.

        Returns
        -------
        ndarray of shape (h, w, 3), uint8, or None
            The tile, shared with others: not to be written to.
        """
        tile = self._find(key)
        if tile is not None:
            return tile
        with self._decoding[hash(key) % _DECODING_LOCKS]:
            tile = self._find(key)
            if tile is None:
                tile = decode(key)
                if tile is not None:
                    self._keep(key, tile)
        return tile

    def clear(self) -> None:
        """Drop every tile."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0

    def _find(self, key: TileKey) -> NDArray[np.uint8] | None:
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def _keep(self, key: TileKey, tile: NDArray[np.uint8]) -> None:
        if tile.nbytes > self._max_bytes:
            return
        with self._lock:
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._max_bytes:
                _, dropped = self._tiles.popitem(last=False)
                self._bytes -= dropped.nbytes
