"""Batches of patches -> a sealed patch store: shard by shard, from any thread, resumable.

Decides neither which patches there are nor what is in them.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreError, StoreExistsError
from wsi_pipeline.files import take_place
from wsi_pipeline.store.identity import decisive, differences
from wsi_pipeline.store.reading import PatchStore
from wsi_pipeline.store.schema import (
    StoreHeader,
    create_group,
    partial_path,
    shard_file_name,
    shard_layout,
)
from wsi_pipeline.store.shards import round_to_bits, write_shard_file
from wsi_pipeline.store.sums import without_sums, write_sums

if TYPE_CHECKING:
    from wsi_pipeline.config import StoreConfig
    from wsi_pipeline.store.identity import Recipe

logger = logging.getLogger(__name__)

JOURNAL = "shards.done"
"""File in an unfinished store with one line per shard that is safely on disk."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of patches that share a file.

    Attributes
    ----------
    index : int
        Which shard, from 0.
    start, stop : int
        Half-open range of patches.
    """

    index: int
    start: int
    stop: int


class StoreWriter:
    """Fills a store under a temporary name and gives it its final one when it is complete.

    Made by :meth:`create_or_resume`.

    Attributes
    ----------
    path : Path
        Final name of the store.
    shards : tuple of Shard
        All shards, in order; the last may be short. Empty for a slide without tiles.
    """

    def __init__(self, path: Path, header: StoreHeader, config: StoreConfig) -> None:
        self.path = path
        self.shards = _cut(len(header.grid), config.shard_patches)
        self._partial = partial_path(path)
        self._lock = threading.Lock()
        self._done = _read_journal(self._partial)
        group = zarr.open_group(self._partial, mode="r", zarr_format=3)
        names = ("he", "rgb") if config.keep_rgb else ("he",)
        self._layouts = {name: shard_layout(_patch_array(group, name)) for name in names}
        self._bits = {"he": config.he_bits}
        self._remove_leftovers()

    @classmethod
    def create_or_resume(
        cls, path: Path, header: StoreHeader, config: StoreConfig, *, overwrite: bool = False
    ) -> StoreWriter:
        """Begin a store, or go on with one that was left unfinished.

        Parameters
        ----------
        path : Path
            Final name, such as ``patches.zarr``. Until sealed the store is ``<name>.partial``.
        header : StoreHeader
            All that the store holds besides patches.
        config : StoreConfig
            How patches are stored.
        overwrite : bool
            Replace a finished store of that name when the new one is sealed.

        Returns
        -------
        StoreWriter
            An unfinished store is resumed only if all it says of slide, grid, stain and
            configuration is equal to ``header``; it is discarded otherwise.

        Raises
        ------
        StoreExistsError
            If a finished store has the name and ``overwrite`` is false.
        StoreError
            If the folder cannot be written.
        """
        if path.exists() and not overwrite:
            raise StoreExistsError(f"{path} exists; pass --overwrite to replace it")
        partial = partial_path(path)
        try:
            if partial.exists() and not _agrees(partial, header, config):
                logger.warning("%s is unfinished work of other settings: discarded", partial)
                shutil.rmtree(partial)
            if not partial.exists():
                partial.parent.mkdir(parents=True, exist_ok=True)
                create_group(partial, header, config)
                (partial / JOURNAL).touch()
            writer = cls(path, header, config)
        except OSError as error:
            raise StoreError(
                f"{partial} cannot be written: {error}; check the folder's rights and free space"
            ) from error
        if writer._done:
            logger.info("%s: going on after %d shards", path, len(writer._done))
        return writer

    def pending(self) -> tuple[int, ...]:
        """Return the indices of the shards that are not yet safely on disk, in order."""
        with self._lock:
            return tuple(shard.index for shard in self.shards if shard.index not in self._done)

    def write_shard(
        self,
        index: int,
        he: NDArray[np.uint8] | NDArray[np.float16],
        rgb: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write one shard; different shards may be written by different threads at once.

        The shard counts as done only once its bytes are on disk, so a crash at any moment
        leaves it either done or pending.

        Parameters
        ----------
        index : int
            Number of the shard; it must be pending.
        he : ndarray of shape (n, 2, P, P), uint8 or float16
            All H/E patches of the shard, in order.
        rgb : ndarray of shape (n, P, P, 3), uint8, or None
            All its RGB patches; given if and only if the store keeps them.

        Raises
        ------
        ValueError
            If shape or type do not fit, or the shard is done.
        StoreError
            If the disk refuses.
        """
        patches: dict[str, NDArray[Any]] = {"he": he} if rgb is None else {"he": he, "rgb": rgb}
        self._check(index, patches)
        self.write_encoded(index, {name: self.encode(name, patches[name]) for name in patches})

    def encode(self, name: str, patches: NDArray[Any]) -> list[bytes]:
        """Round and compress patches for :meth:`write_encoded`; touches no file, threads scale.

        Parameters
        ----------
        name : str
            Array that they belong to, ``he`` or ``rgb``.
        patches : ndarray of shape (n, ...)
            Patches of one shard that begin with a chunk; n is a multiple of ``chunk_patches``
            unless they are the last of the shard.

        Returns
        -------
        list of bytes
            Their chunks.
        """
        rounded = round_to_bits(patches, self._bits.get(name, 8))
        return self._layouts[name].encode(np.ascontiguousarray(rounded))

    def write_encoded(self, index: int, chunks: dict[str, list[bytes]]) -> None:
        """Write one shard from its compressed chunks.

        Parameters
        ----------
        index : int
            Number of the shard; it must be pending.
        chunks : dict of str to list of bytes
            All chunks of the shard, in order, of every array that holds patches.

        Raises
        ------
        ValueError
            If chunks are missing or the shard is done.
        StoreError
            If the disk refuses.
        """
        self._check_chunks(index, chunks)
        try:
            for name, encoded in chunks.items():
                path = self._partial / name / shard_file_name(index)
                write_shard_file(path, encoded, self._layouts[name].index(encoded))
            self._record(index)
        except OSError as error:
            raise StoreError(
                f"{self._partial}: shard {index} cannot be written: {error}; free some space and "
                f"run again, finished shards are kept"
            ) from error

    def seal(self) -> PatchStore:
        """Give the complete store its final name and open it.

        Raises
        ------
        StoreError
            If shards are pending, or one has vanished from disk.
        """
        pending = self.pending()
        if pending:
            raise StoreError(
                f"{self._partial} lacks {len(pending)} of {len(self.shards)} shards, the first is "
                f"{pending[0]}; run again to write them"
            )
        write_sums(self._partial)
        PatchStore.open(self._partial)
        (self._partial / JOURNAL).unlink()
        take_place(self._partial, self.path)
        return PatchStore.open(self.path)

    def _check(self, index: int, patches: dict[str, NDArray[Any]]) -> None:
        self._check_pending(index, set(patches))
        shard = self.shards[index]
        for name, values in patches.items():
            layout = self._layouts[name]
            shape = (shard.stop - shard.start, *layout.patch_shape)
            if values.shape != shape or values.dtype != layout.dtype:
                raise ValueError(
                    f"{name} of shard {index} must be {shape} {layout.dtype}, "
                    f"got {values.shape} {values.dtype}"
                )

    def _check_chunks(self, index: int, chunks: dict[str, list[bytes]]) -> None:
        self._check_pending(index, set(chunks))
        shard = self.shards[index]
        for name, encoded in chunks.items():
            count = -(-(shard.stop - shard.start) // self._layouts[name].chunk_patches)
            if len(encoded) != count:
                raise ValueError(
                    f"{name} of shard {index} takes {count} chunks, got {len(encoded)}"
                )

    def _check_pending(self, index: int, names: set[str]) -> None:
        if index not in self.pending():
            raise ValueError(f"shard {index} is not pending; there are {len(self.shards)} shards")
        if names != self._layouts.keys():
            raise ValueError(f"the store keeps {sorted(self._layouts)}, got {sorted(names)}")

    def _record(self, index: int) -> None:
        with self._lock:
            with (self._partial / JOURNAL).open("a", encoding="ascii") as journal:
                journal.write(f"{index}\n")
                journal.flush()
                os.fsync(journal.fileno())
            self._done.add(index)

    def _remove_leftovers(self) -> None:
        """Delete what a crash left of pending shards."""
        for name in self._layouts:
            kept = {"zarr.json", *(shard_file_name(index) for index in self._done)}
            for file in (self._partial / name).iterdir():
                if file.name not in kept:
                    file.unlink()


def has_store(path: Path, *, recipe: Recipe, fingerprint: str) -> bool:
    """Tell whether a finished store of the same slide and configuration is there.

    Parameters
    ----------
    path : Path
        Where the store would be.
    recipe : dict
        All that the store is asked for, as :attr:`StoreHeader.config` has it.
    fingerprint : str
        Fingerprint of the slide file.

    Returns
    -------
    bool
        True if it can be used as it is, False if there is nothing at ``path``.

    Raises
    ------
    StoreExistsError
        If something else has the name, saying in what it differs.
    """
    if not path.exists():
        return False
    try:
        store = PatchStore.open(path)
    except StoreError as error:
        raise StoreExistsError(
            f"{path} exists but cannot be used ({error}); pass --overwrite to replace it"
        ) from error
    found = list(differences(store.config, recipe))
    if store.fingerprint != fingerprint:
        found.append("made from another slide file, or from another state of this one")
    if found:
        raise StoreExistsError(
            f"{path} exists and differs: {'; '.join(found)}. Pass --overwrite to replace it or "
            f"choose another output folder"
        )
    return True


def _cut(n: int, shard_patches: int) -> tuple[Shard, ...]:
    return tuple(
        Shard(index, start, min(start + shard_patches, n))
        for index, start in enumerate(range(0, n, shard_patches))
    )


def _patch_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise TypeError(f"{name} is not an array")
    return array


def _read_journal(partial: Path) -> set[int]:
    """Return the shards on record; a line without its end was being written at a crash."""
    lines = (partial / JOURNAL).read_text(encoding="ascii").splitlines(keepends=True)
    return {int(line) for line in lines if line.endswith("\n")}


def _agrees(partial: Path, header: StoreHeader, config: StoreConfig) -> bool:
    """Whether an unfinished store is the beginning of the very store that ``header`` describes."""
    if not (partial / JOURNAL).exists():
        return False
    try:
        group = zarr.open_group(partial, mode="r", zarr_format=3)
        he = _patch_array(group, "he")
        layout = (he.shards, he.chunks, he.dtype.name, "rgb" in group)
        side = (2, header.grid.patch_px, header.grid.patch_px)
        wanted = (
            (config.shard_patches, *side),
            (config.chunk_patches, *side),
            config.he_values.value,
            config.keep_rgb,
        )
        return (
            _comparable(without_sums(dict(group.attrs))) == _comparable(header.attributes())
            and layout == wanted
            and all(
                name in group and np.array_equal(np.asarray(group[name]), values)
                for name, values in header.small_arrays().items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read: %s", partial, error)
        return False


def _comparable(attributes: dict[str, Any]) -> dict[str, Any]:
    return {**attributes, "config": decisive(attributes["config"]), "config_hash": None}
