"""The kept tiles of a slide -> the shards of its patch store: read, unmixed, compressed, written.

Blocks of patches are the work of one thread each; a few shards' worth of compressed blocks is all
that memory holds. Which tiles there are, and how they are stained, is decided elsewhere.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import HeValues, StoreConfig
from wsi_pipeline.slide.memory import room_for
from wsi_pipeline.slide.resampling import resize_square
from wsi_pipeline.stain import HeEncoder, encode_he_float16

if TYPE_CHECKING:
    from wsi_pipeline.slide.open import Slide
    from wsi_pipeline.store import Shard, StoreHeader, StoreWriter
    from wsi_pipeline.types import Progress, TileGrid

KEPT_BYTES = 1 << 28
"""Pixels of sampled tiles kept for extraction: all of them, unless tiles are very large."""

AHEAD_BYTES = 1 << 26
"""Pixels read while the stain matrix is estimated and the store begun; a quarter of those kept."""

BLOCK_PATCHES = 16
"""Patches one thread reads, unmixes and compresses in one go, at least."""

SHARDS_AHEAD = 2
"""Shards whose blocks are under way while the one before is completed."""

Seconds = dict[str, float]
"""Seconds by kind of work."""


class TileReader:
    """Reads the tiles of a slide; what was sampled once need not be decoded again.

    Parameters
    ----------
    slide : Slide
        The slide, open.
    max_bytes : int
        Most bytes kept of tiles that were sampled or read ahead.

    Attributes
    ----------
    slide : Slide
        The slide.
    """

    def __init__(self, slide: Slide, max_bytes: int = KEPT_BYTES) -> None:
        self.slide = slide
        self._room = self._all_room = max_bytes
        self._kept: dict[_Key, Future[NDArray[np.uint8]]] = {}
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes kept now, and those that are being read ahead."""
        with self._lock:
            return self._all_room - self._room

    def sample(self, grid: TileGrid, index: int, side_px: int) -> NDArray[np.uint8]:
        """Read one kept tile of the grid as a patch of ``side_px``, RGB, to be read again."""
        key = _key(grid, index)
        pixels = self._read(key, grid.read_px)
        done: Future[NDArray[np.uint8]] = Future()
        done.set_result(pixels)
        self._keep(key, grid, lambda: done)
        return resize_square(pixels, side_px)

    def look(self, grid: TileGrid, index: int) -> NDArray[np.uint8]:
        """Read one kept tile of the grid as it is stored, RGB; what was kept of it stays."""
        key = _key(grid, index)
        with self._lock:
            kept = self._kept.get(key)
        pixels = self._read(key, grid.read_px) if kept is None else kept.result()
        return resize_square(pixels, grid.patch_px)

    def read_ahead(self, grid: TileGrid, pool: Executor, sampled: Container[int]) -> None:
        """Begin to read the first tiles of the grid, for whoever asks for them next.

        Parameters
        ----------
        grid : TileGrid
            The tiles.
        pool : Executor
            Reads them, after what it was given before.
        sampled : container of int
            Indices that :meth:`sample` keeps.
        """
        count = min(self._all_room, AHEAD_BYTES) // _tile_bytes(grid)
        for index in range(min(count, len(grid))):
            if index not in sampled:
                key = _key(grid, index)
                self._keep(key, grid, partial(pool.submit, self._read, key, grid.read_px))

    def patch(
        self, grid: TileGrid, index: int, pixels: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Read one kept tile of the grid as it is stored, RGB; forgets what was kept of it.

        Decoded straight to ``pixels`` of its shape, if given and nothing is kept of it.
        """
        key = _key(grid, index)
        with self._lock:
            kept = self._kept.pop(key, None)
            self._room += 0 if kept is None else _tile_bytes(grid)
        if kept is None and grid.read_px == grid.patch_px:
            return self._read(key, grid.read_px, pixels)
        read = self._read(key, grid.read_px) if kept is None else kept.result()
        patch = resize_square(read, grid.patch_px)
        if pixels is None:
            return patch
        pixels[...] = patch
        return pixels

    def _keep(
        self, key: _Key, grid: TileGrid, begin: Callable[[], Future[NDArray[np.uint8]]]
    ) -> None:
        """Keep what is begun, if there is room."""
        with self._lock:
            if _tile_bytes(grid) <= self._room and key not in self._kept:
                self._kept[key] = begin()
                self._room -= _tile_bytes(grid)

    def _read(
        self, key: _Key, read_px: int, pixels: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        level, x, y = key
        return self.slide.read_level(level, (x, y), (read_px, read_px), pixels)


_Key = tuple[int, int, int]
"""Level of a tile, and its top-left corner in px of that level."""


def _tile_bytes(grid: TileGrid) -> int:
    return 3 * grid.read_px**2


def _key(grid: TileGrid, index: int) -> _Key:
    x, y = grid.level_xy[index].tolist()
    return grid.level, x, y


class Extraction:
    """Fills a store with the patches of a slide.

    Parameters
    ----------
    tiles : TileReader
        Reads the slide.
    header : StoreHeader
        Grid and stains of the slide.
    config : StoreConfig
        How patches are stored.
    """

    def __init__(self, tiles: TileReader, header: StoreHeader, config: StoreConfig) -> None:
        self._tiles = tiles
        self._slide_id = header.slide.slide_id
        self._grid = header.grid
        self._keep_rgb = config.keep_rgb
        self._encode = _encoder(header, config)
        self._dtype = np.dtype(config.he_values.value)
        self._chunk = config.chunk_patches
        self._block = self._chunk * -(-BLOCK_PATCHES // self._chunk)

    def fill(self, writer: StoreWriter, pool: ThreadPoolExecutor, progress: Progress) -> Seconds:
        """Write every pending shard.

        Parameters
        ----------
        writer : StoreWriter
            The store.
        pool : ThreadPoolExecutor
            Threads that read, unmix and compress; one more writes.
        progress : Progress
            Told of every block.

        Returns
        -------
        dict of str to float
            Seconds that all threads spent to ``decode``, ``unmix``, ``compress`` and ``write``.
        """
        spent = _Laps()
        pending = [writer.shards[index] for index in writer.pending()]
        progress.start(
            f"{self._slide_id}: patches", sum(shard.stop - shard.start for shard in pending)
        )
        writing: deque[Future[Seconds]] = deque()
        with ThreadPoolExecutor(1) as disk:
            for shard, blocks in self._read_ahead(pending, writer, pool):
                chunks: dict[str, list[bytes]] = {}
                for block in blocks:
                    done = block.result()
                    spent.add(done.seconds)
                    progress.advance(done.count)
                    for name, encoded in done.chunks.items():
                        chunks.setdefault(name, []).extend(encoded)
                writing.append(disk.submit(_write, writer, shard, chunks))
                if len(writing) > 1:
                    spent.add(writing.popleft().result())
            for written in writing:
                spent.add(written.result())
        return spent.seconds

    def _read_ahead(
        self, pending: list[Shard], writer: StoreWriter, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Shard, list[Future[_Block]]]]:
        """Yield shards with their blocks, in the order of the file."""
        under_way: deque[tuple[Shard, list[Future[_Block]]]] = deque()
        for shard in pending:
            starts = range(shard.start, shard.stop, self._block)
            blocks = [pool.submit(self._make_block, writer, shard, start) for start in starts]
            under_way.append((shard, blocks))
            if len(under_way) > SHARDS_AHEAD:
                yield under_way.popleft()
        yield from under_way

    def _make_block(self, writer: StoreWriter, shard: Shard, start: int) -> _Block:
        stop = min(start + self._block, shard.stop)
        laps = _Laps()
        chunks: dict[str, list[bytes]] = {}
        for first in range(start, stop, self._chunk):
            made = self._make_chunk(range(first, min(first + self._chunk, stop)), laps)
            for name, patches in made.items():
                chunks.setdefault(name, []).extend(writer.encode(name, patches))
            laps.count("compress")
        return _Block(stop - start, chunks, laps.seconds)

    def _make_chunk(self, indices: range, laps: _Laps) -> dict[str, NDArray[Any]]:
        n, side = len(indices), self._grid.patch_px
        made: dict[str, NDArray[Any]] = {"he": np.empty((n, 2, side, side), dtype=self._dtype)}
        rgb = room_for((n if self._keep_rgb else 1, side, side, 3))
        if self._keep_rgb:
            made["rgb"] = rgb
        for place, index in enumerate(indices):
            # one place for all that are not kept: it stays in the processor's cache
            patch = self._tiles.patch(self._grid, index, rgb[place % len(rgb)])
            laps.count("decode")
            self._encode(patch, made["he"][place])
            laps.count("unmix")
        return made


@dataclass(frozen=True, slots=True)
class _Block:
    """Compressed chunks of some patches by array, and the seconds they took by kind of work."""

    count: int
    chunks: dict[str, list[bytes]]
    seconds: Seconds


class _Laps:
    """Counts the time since the last count as one kind of work or another."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self._last = time.perf_counter()

    def count(self, work: str) -> None:
        """Count the time since the last count."""
        now = time.perf_counter()
        self.add({work: now - self._last})
        self._last = now

    def add(self, seconds: Seconds) -> None:
        """Add what others counted."""
        for work, spent in seconds.items():
            self.seconds[work] = self.seconds.get(work, 0.0) + spent


def _write(writer: StoreWriter, shard: Shard, chunks: dict[str, list[bytes]]) -> Seconds:
    laps = _Laps()
    writer.write_encoded(shard.index, chunks)
    laps.count("write")
    return laps.seconds


def _encoder(header: StoreHeader, config: StoreConfig) -> Callable[..., None]:
    """Return what separates a patch into the planes it is given."""
    matrix = header.stain.matrix
    if config.he_values is HeValues.UINT8:
        return HeEncoder(matrix).encode

    def encode(rgb: NDArray[np.uint8], planes: NDArray[np.float16]) -> None:
        planes[...] = encode_he_float16(rgb, matrix)

    return encode
