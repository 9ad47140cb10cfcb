"""A patch store on disk -> its patches, places and records, as arrays and central types.

Reads and verifies only: a store never changes once it has its name.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreError
from wsi_pipeline.store.records import StoreRecords
from wsi_pipeline.store.schema import (
    parse_he_values,
    parse_stains,
    shard_file_name,
    shard_layout,
)

if TYPE_CHECKING:
    from pathlib import Path

    import zarr

    from wsi_pipeline.config import HeValues
    from wsi_pipeline.types import StainEstimate


class PatchStore(StoreRecords):
    """The patches of one slide and all they rest on; see :mod:`wsi_pipeline.store`.

    Made by :meth:`open`. Cheap to open and to pickle: patches stay on disk until they are read,
    and reading from several threads is safe.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        super().__init__(path, group)
        self._count = int(self._array("he").shape[0])
        self._layouts = {name: shard_layout(self._array(name)) for name in self._patch_arrays()}

    def __repr__(self) -> str:
        return f"<PatchStore {self.path}: {len(self)} patches, {self.patch_px} px, {self.mpp} mpp>"

    @property
    def has_rgb(self) -> bool:
        """Whether RGB patches are stored."""
        return "rgb" in self._group

    @cached_property
    def patch_stains(self) -> tuple[StainEstimate, ...]:
        """Stain matrix of each patch; that of the slide unless several are stored."""
        if "stain_index" not in self._group:
            return (self.stain,) * len(self)
        stains = parse_stains(self.attributes)
        return tuple(stains[index] for index in self._small("stain_index"))

    @property
    def stain_convention(self) -> str:
        """How the patches were unmixed; models compare it with their own."""
        return str(self.attributes["stain"]["convention"])

    @property
    def he_values(self) -> HeValues:
        """How H/E values are stored."""
        return parse_he_values(self._layouts["he"].dtype)

    @property
    def shard_patches(self) -> int:
        """Patches in one shard: the unit to stream by."""
        return self._layouts["he"].shard_patches

    @property
    def chunk_patches(self) -> int:
        """Patches compressed together: the least that is decoded for one patch."""
        return self._layouts["he"].chunk_patches

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8] | NDArray[np.float16]:
        """Read the H/E patches ``start`` to ``stop``.

        Parameters
        ----------
        start, stop : int
            Half-open range within [0, N].

        Returns
        -------
        ndarray of shape (stop - start, 2, P, P), uint8 or float16
            Stored values; those in uint8 are 255 times the input of a network.

        Raises
        ------
        ValueError
            If the range does not lie in the store.
        StoreError
            If a shard is damaged.
        """
        return self._read("he", start, stop)

    def read_rgb(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the RGB patches ``start`` to ``stop``, shape (stop - start, P, P, 3).

        Raises
        ------
        StoreError
            If the store was made without them, or a shard is damaged.
        """
        if not self.has_rgb:
            raise StoreError(
                f"{self.path} holds no RGB patches; preprocess the slide with --keep-rgb"
            )
        return self._read("rgb", start, stop)

    def verify(self) -> None:
        """Read every byte of every array against its checksum.

        Raises
        ------
        StoreError
            Naming the first shard that is missing or damaged, or the array whose length is wrong.
        """
        self._require_shards()
        super().verify()
        for name in self._patch_arrays():
            for start in range(0, len(self), self.shard_patches):
                self._read(name, start, min(start + self.shard_patches, len(self)))

    def _read_headers(self) -> None:
        super()._read_headers()
        _ = self.he_values

    def _patch_arrays(self) -> tuple[str, ...]:
        return ("he", "rgb") if self.has_rgb else ("he",)

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"patches {start} to {stop} do not lie in [0, {len(self)}]")
        layout = self._layouts[name]
        patches = np.empty((stop - start, *layout.patch_shape), dtype=layout.dtype)
        begin = start
        while begin < stop:
            index, within = divmod(begin, layout.shard_patches)
            end = min(stop, begin - within + layout.shard_patches)
            file = self.path / name / shard_file_name(index)
            try:
                layout.read(file, within, patches[begin - start : end - start])
            except (ValueError, OSError) as error:
                raise self._damage(f"shard {index} of {name}", error) from error
            begin = end
        return patches

    def _require_shards(self) -> None:
        """Zarr reads a missing file as zeros, so files are counted before any is read."""
        expected = -(-len(self) // self.shard_patches)
        for name in self._patch_arrays():
            present = {file.name for file in (self.path / name).iterdir()}
            for index in range(expected):
                if shard_file_name(index) not in present:
                    raise StoreError(
                        f"{self.path}: shard {index} of {name} is missing; preprocess the slide "
                        f"again with --overwrite"
                    )
