"""Patches <-> the bytes of a shard of a Zarr v3 array.

Encodes and decodes what zarr-python would, chunk for chunk, without its event loop: the format is
Zarr's, and Zarr reads it. Which shard holds which patches, and where files lie, is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

COMPRESSOR: Final = "lz4"
LEVEL: Final = 1
"""Chosen by ``benchmarks/store.py``; a store says itself how it was compressed."""

_CHECKSUM_BYTES = 4
_ABSENT = np.uint64(2**64 - 1)


class ChunkDamageError(ValueError):
    """Bytes of a shard are missing or do not agree with their checksum."""


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """How patches lie in a shard.

    Attributes
    ----------
    patch_shape : tuple of int
        Shape of one patch.
    dtype : numpy.dtype
        Type of its values.
    chunk_patches : int
        Patches compressed together.
    shard_patches : int
        Patches of a full shard, a multiple of ``chunk_patches``.

    Notes
    -----
    A shard is its chunks, one after the other, and an index of one (offset, bytes) pair of
    little-endian uint64 per chunk. A chunk is a blosc frame. Every chunk and the index end in
    their CRC-32C.
    """

    patch_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_patches: int
    shard_patches: int

    @property
    def index_bytes(self) -> int:
        """Size of the index with its checksum."""
        return 16 * (self.shard_patches // self.chunk_patches) + _CHECKSUM_BYTES

    def encode(self, patches: NDArray[Any]) -> list[bytes]:
        """Compress patches that begin with a chunk.

        Parameters
        ----------
        patches : ndarray of shape (n, ...)
            Contiguous patches; a last chunk that they do not fill is filled with zeros.

        Returns
        -------
        list of bytes
            The chunks.
        """
        chunks = []
        for start in range(0, len(patches), self.chunk_patches):
            values = patches[start : start + self.chunk_patches]
            short = self.chunk_patches - len(values)
            if short:
                values = np.concatenate([values, np.zeros((short, *self.patch_shape), self.dtype)])
            frame = blosc.compress(
                values,
                COMPRESSOR.encode(),
                LEVEL,
                shuffle=blosc.BITSHUFFLE,
                typesize=self.dtype.itemsize,
            )
            chunks.append(_with_checksum(frame))
        return chunks

    def index(self, chunks: Sequence[bytes]) -> bytes:
        """Return the index of a shard made of ``chunks``, which may be fewer than it can hold."""
        entries = np.full((self.shard_patches // self.chunk_patches, 2), _ABSENT, dtype="<u8")
        sizes = [len(chunk) for chunk in chunks]
        entries[: len(sizes), 0] = np.cumsum([0, *sizes[:-1]])
        entries[: len(sizes), 1] = sizes
        return _with_checksum(entries.tobytes())

    def read(self, path: Path, start: int, patches: NDArray[Any]) -> None:
        """Read consecutive patches of one shard.

        Parameters
        ----------
        path : Path
            File of the shard.
        start : int
            First patch wanted, counted from the beginning of the shard.
        patches : ndarray of shape (n, ...)
            Receives the patches; contiguous.

        Raises
        ------
        ChunkDamageError
            If chunks are missing, or bytes do not agree with their checksum.
        OSError
            If the file cannot be read.
        """
        stop = start + len(patches)
        first, last = start // self.chunk_patches, -(-stop // self.chunk_patches)
        with path.open("rb", buffering=0) as file:
            entries = self._read_index(file.fileno())[first:last]
            if (entries == _ABSENT).any():
                raise ChunkDamageError(f"chunks {first} to {last - 1} are not all there")
            begin = int(entries[:, 0].min())
            span = memoryview(
                os.pread(file.fileno(), int(entries.sum(axis=1).max()) - begin, begin)
            )
        for number, (offset, size) in enumerate(entries.tolist(), start=first):
            data = span[offset - begin : offset - begin + size]
            at = number * self.chunk_patches - start
            self._decode(data, patches, at)

    def _read_index(self, file: int) -> NDArray[np.uint64]:
        size = os.fstat(file).st_size
        data = os.pread(file, self.index_bytes, max(0, size - self.index_bytes))
        if len(data) < self.index_bytes:
            raise ChunkDamageError(f"its index takes {self.index_bytes} bytes, it has {size}")
        return np.frombuffer(_without_checksum(data), dtype="<u8").reshape(-1, 2)

    def _decode(self, data: memoryview, patches: NDArray[Any], at: int) -> None:
        """Decompress a chunk whose first patch belongs at ``patches[at]``, as far as it fits."""
        frame = _without_checksum(data)
        whole = patches[at : at + self.chunk_patches]
        if at >= 0 and len(whole) == self.chunk_patches:
            _decompress(frame, whole)
            return
        values = np.empty((self.chunk_patches, *self.patch_shape), dtype=self.dtype)
        _decompress(frame, values)
        begin, end = max(at, 0), min(at + self.chunk_patches, len(patches))
        patches[begin:end] = values[begin - at : end - at]


def round_to_bits(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Round 8-bit values to multiples of ``2 ** (8 - bits)``, which compress better.

    Parameters
    ----------
    values : ndarray of uint8
        Any values.
    bits : int
        1 to 8; 8 changes nothing.

    Returns
    -------
    ndarray of uint8
        At most half a step away; near 255, which is no multiple, less than a whole one.
    """
    if bits == 8:
        return values
    step = 1 << (8 - bits)
    half = np.uint8(step // 2)
    return np.asarray((np.minimum(values, 255 - half) + half) & np.uint8(256 - step))


def write_shard_file(path: Path, chunks: Sequence[bytes], index: bytes) -> None:
    """Write a shard and wait until its bytes are on disk.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    # through a buffer: the system may take a part of what it is given, and the buffer goes on
    with path.open("wb") as file:
        for chunk in (*chunks, index):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _decompress(frame: memoryview, values: NDArray[Any]) -> None:
    try:
        blosc.decompress(frame, values)
    except (RuntimeError, ValueError) as error:
        raise ChunkDamageError(f"a chunk cannot be decompressed: {error}") from error


def _with_checksum(data: bytes) -> bytes:
    return data + _checksum(data)


def _without_checksum(data: bytes | memoryview) -> memoryview:
    view = memoryview(data)
    body, stored = view[:-_CHECKSUM_BYTES], view[-_CHECKSUM_BYTES:]
    if _checksum(body) != stored:
        raise ChunkDamageError("bytes do not agree with their checksum")
    return body


def _checksum(data: bytes | memoryview) -> bytes:
    value: int = google_crc32c.value(np.frombuffer(data, dtype=np.uint8))
    return value.to_bytes(_CHECKSUM_BYTES, "little")
