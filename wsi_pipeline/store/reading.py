"""A patch store on disk -> its patches, places and records, as arrays and central types.

Reads and verifies only: a store never changes once it has its name.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.errors import (
    StoreError,
    StoreSchemaError,
)
from wsi_pipeline.store.identity import recipe_hash
from wsi_pipeline.store.schema import (
    UNREADABLE,
    open_group,
    parse_he_values,
    parse_slide,
    parse_stain,
    parse_stains,
    shard_file_name,
    shard_layout,
)
from wsi_pipeline.types import SlideInfo, StainEstimate, TileGrid, TissueMask

if TYPE_CHECKING:
    from wsi_pipeline.config import HeValues


class PatchStore:
    """The patches of one slide and all they rest on; see :mod:`wsi_pipeline.store`.

    Made by :meth:`open`. Cheap to open and to pickle: patches stay on disk until they are read,
    and reading from several threads is safe.

    Attributes
    ----------
    path : Path
        Folder of the store.
    attributes : dict
        Attributes of the Zarr group, as the schema lists them.
    """

    def __init__(self, path: Path, group: zarr.Group) -> None:
        self.path = path
        self.attributes: dict[str, Any] = dict(group.attrs)
        self._group = group
        self._count = int(self._array("he").shape[0])
        self._layouts = {name: shard_layout(self._array(name)) for name in self._patch_arrays()}

    @classmethod
    def open(cls, path: Path) -> PatchStore:
        """Open a store.

        Parameters
        ----------
        path : Path
            Folder of the store.

        Returns
        -------
        PatchStore
            The store. Its shards are counted, not read; :meth:`verify` reads them.

        Raises
        ------
        StoreNotFoundError
            If there is nothing at ``path``.
        StoreSchemaError
            If it is not a patch store, or of a schema that this version does not read.
        StoreError
            If a shard is missing.
        """
        path = Path(path)
        group = open_group(path)
        try:
            store = cls(path, group)
            _ = store.slide, store.grid, store.stain, store.mask, store.he_values
        except StoreError:
            raise
        except UNREADABLE as error:
            raise StoreSchemaError(
                f"{path} is damaged: {error!r} in its headers; preprocess the slide again with "
                f"--overwrite"
            ) from error
        store._require_shards()
        return store

    def __reduce__(self) -> tuple[Callable[[Path], PatchStore], tuple[Path]]:
        return PatchStore.open, (self.path,)

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<PatchStore {self.path}: {len(self)} patches, {self.patch_px} px, {self.mpp} mpp>"

    @cached_property
    def slide(self) -> SlideInfo:
        """The slide."""
        return parse_slide(self.attributes)

    @cached_property
    def stain(self) -> StainEstimate:
        """The stain matrix of the patches and the evidence for it."""
        return parse_stain(self.attributes)

    @cached_property
    def grid(self) -> TileGrid:
        """The lattice of candidate tiles; the tissue fraction of dropped ones is NaN."""
        values = self.attributes["grid"]
        reasons = self._small("reasons").astype(np.uint8)
        fraction = np.full(reasons.shape, np.nan, dtype=np.float32)
        fraction[tuple(self.rc.T)] = self.tissue_fraction
        return TileGrid(
            **{key: values[key] for key in ("level", "read_px", "step_px", "patch_px")},
            downsample=values["downsample"],
            mpp=values["mpp"],
            reasons=reasons,
            tissue_fraction=fraction,
            corners=self._small("corners").astype(np.int64) if "corners" in self._group else None,
            limit_wh=tuple(values["limit_wh"]) if "limit_wh" in values else None,
            remainder=values.get("remainder", 0),
        )

    @cached_property
    def mask(self) -> TissueMask:
        """Tissue and artefacts of the slide."""
        x, y = self.attributes["mask_downsample"]
        return TissueMask(areas=self.areas, downsample=(x, y))

    @property
    def patch_px(self) -> int:
        """Side of a patch, px."""
        return self.grid.patch_px

    @property
    def mpp(self) -> float:
        """Resolution the patches really have, um/px."""
        return self.grid.mpp

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""
        return self.grid.extent

    @property
    def pitch(self) -> float:
        """Distance between neighbouring tiles, level-0 px."""
        return self.grid.pitch

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""
        return self.grid.shape

    @property
    def reasons(self) -> NDArray[np.uint8]:
        """:class:`~wsi_pipeline.types.TileReason` of each candidate, shape (rows, cols)."""
        return self.grid.reasons

    def funnel(self) -> dict[str, int]:
        """Count the candidate tiles by reason, ``kept`` first."""
        return self.grid.funnel()

    @cached_property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners, level-0 px, shape (N, 2)."""
        return self._small("xy").astype(np.int64)

    @cached_property
    def rc(self) -> NDArray[np.int32]:
        """Lattice indices, shape (N, 2)."""
        return self._small("rc").astype(np.int32)

    @cached_property
    def tissue_fraction(self) -> NDArray[np.float32]:
        """Share of each tile that is tissue, shape (N,)."""
        return self._small("tissue_fraction").astype(np.float32)

    @cached_property
    def areas(self) -> NDArray[np.uint8]:
        """:class:`~wsi_pipeline.types.Area` of each mask pixel, shape (h, w)."""
        return self._small("tissue_mask").astype(np.uint8)

    @cached_property
    def thumbnail(self) -> NDArray[np.uint8]:
        """The whole slide, RGB, shape (h, w, 3)."""
        return self._small("thumbnail").astype(np.uint8)

    @property
    def has_labels(self) -> bool:
        """Whether classes are stored."""
        return "label" in self._group

    @property
    def has_groups(self) -> bool:
        """Whether patients or prototypes are stored."""
        return "group" in self._group

    @property
    def has_rgb(self) -> bool:
        """Whether RGB patches are stored."""
        return "rgb" in self._group

    @cached_property
    def label(self) -> NDArray[np.int16]:
        """Index into :attr:`label_names`, shape (N,); -1 is unknown, also where none is stored."""
        if not self.has_labels:
            return np.full(len(self), -1, dtype=np.int16)
        return self._small("label").astype(np.int16)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Classes; empty without labels."""
        return tuple(self.attributes["label_names"])

    @cached_property
    def group(self) -> tuple[str, ...]:
        """Patient or prototype of each patch; the slide itself where none is stored."""
        if not self.has_groups:
            return (self.slide.slide_id,) * len(self)
        names = self.attributes["group_names"]
        return tuple(names[code] for code in self._small("group"))

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
    def config(self) -> dict[str, Any]:
        """Configuration of every preprocessing stage."""
        return dict(self.attributes["config"])

    @property
    def config_hash(self) -> str:
        """Hash of what in :attr:`config` decides the patches."""
        return recipe_hash(self.config)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the slide file."""
        return str(self.attributes["fingerprint"])

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
        for name, array in self._group.arrays():
            per_patch = name not in ("reasons", "corners", "tissue_mask", "thumbnail")
            if per_patch and array.shape[0] != len(self):
                raise StoreError(
                    f"{self.path}: {name} has {array.shape[0]} rows for {len(self)} patches; "
                    f"preprocess the slide again with --overwrite"
                )
            if name not in ("he", "rgb"):
                self._small(name)
        for name in self._patch_arrays():
            for start in range(0, len(self), self.shard_patches):
                self._read(name, start, min(start + self.shard_patches, len(self)))

    def _patch_arrays(self) -> tuple[str, ...]:
        return ("he", "rgb") if self.has_rgb else ("he",)

    def _array(self, name: str) -> zarr.Array[Any]:
        array = self._group.get(name)
        if not isinstance(array, zarr.Array):
            raise StoreSchemaError(
                f"{self.path} has no array {name!r}; preprocess the slide again with --overwrite"
            )
        return array

    def _small(self, name: str) -> NDArray[Any]:
        """Read a whole array that is not cut into shards."""
        array = self._array(name)
        if array.size and not any((self.path / name).glob("c*")):
            raise StoreError(
                f"{self.path}: the values of {name} are missing; preprocess the slide again with "
                f"--overwrite"
            )
        try:
            return np.asarray(array[...])
        except (ValueError, RuntimeError, OSError) as error:
            raise self._damage(name, error) from error

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

    def _damage(self, where: str, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path}: {where} is damaged ({error}); preprocess the slide again with "
            f"--overwrite"
        )

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
