"""What is known of a slide and its tiles <-> a Zarr group on disk.

A patch store holds it beside its patches; where none were kept, it lies alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.errors import StoreError, StoreSchemaError
from wsi_pipeline.files import replace_folder
from wsi_pipeline.store.identity import recipe_hash
from wsi_pipeline.store.schema import (
    UNREADABLE,
    StoreHeader,
    create_records,
    open_group,
    parse_slide,
    parse_stain,
)
from wsi_pipeline.store.sums import write_sums
from wsi_pipeline.types import OnGrid, SlideInfo, StainEstimate, TileGrid, TissueMask


class StoreRecords(OnGrid):
    """What is known of one slide and its tiles; see :mod:`wsi_pipeline.store`.

    Made by :meth:`open`. Cheap to open and to pickle.

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
        self._count = int(self._array("xy").shape[0])

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a store.

        Parameters
        ----------
        path : Path
            Folder of the store.

        Returns
        -------
        StoreRecords or PatchStore
            The store. Of a :class:`~wsi_pipeline.store.PatchStore` the shards are counted, not
            read.

        Raises
        ------
        StoreNotFoundError
            If there is nothing at ``path``.
        StoreSchemaError
            If it is no such store, or of a schema that this version does not read.
        StoreError
            If a shard is missing.
        """
        path = Path(path)
        group = open_group(path)
        try:
            store = cls(path, group)
            store._read_headers()
        except StoreError:
            raise
        except UNREADABLE as error:
            raise StoreSchemaError(
                f"{path} is damaged: {error!r} in its headers; preprocess the slide again with "
                f"--overwrite"
            ) from error
        store._require_shards()
        return store

    def __reduce__(self) -> tuple[Callable[[Path], Self], tuple[Path]]:
        return type(self).open, (self.path,)

    def __len__(self) -> int:
        return self._count

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
    def reasons(self) -> NDArray[np.uint8]:
        """:class:`~wsi_pipeline.types.TileReason` of each candidate, shape (rows, cols)."""
        return self.grid.reasons

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

    def verify(self) -> None:
        """Read every byte of what is not patches against its checksum.

        Raises
        ------
        StoreError
            Naming the array that is damaged, or whose length is wrong.
        """
        for name, array in self._group.arrays():
            per_patch = name not in ("reasons", "corners", "tissue_mask", "thumbnail")
            if per_patch and array.shape[0] != len(self):
                raise StoreError(
                    f"{self.path}: {name} has {array.shape[0]} rows for {len(self)} patches; "
                    f"preprocess the slide again with --overwrite"
                )
            if name not in ("he", "rgb"):
                self._small(name)

    def _read_headers(self) -> None:
        """Parse what every use needs, so that damage is told when the store is opened."""
        _ = self.slide, self.grid, self.stain, self.mask

    def _require_shards(self) -> None:
        """Refuse a store that lacks a file of patches; here there are none."""

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

    def _damage(self, where: str, error: Exception) -> StoreError:
        return StoreError(
            f"{self.path}: {where} is damaged ({error}); preprocess the slide again with "
            f"--overwrite"
        )


def write_records(path: Path, header: StoreHeader) -> None:
    """Write what is known of a slide and its tiles, without patches; an older one is replaced.

    Parameters
    ----------
    path : Path
        Folder to write, such as ``slide.zarr``; :meth:`StoreRecords.open` reads it.
    header : StoreHeader
        What is known.
    """
    with replace_folder(path) as partial:
        create_records(partial, header)
        write_sums(partial)
