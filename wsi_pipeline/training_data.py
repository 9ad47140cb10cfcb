"""Patch stores -> RGB patches, unmixing rows and labels by index, for training.

In memory where they fit a stated budget, else read block by block with recent blocks kept; the
order of reading is the sampler's business, and nothing is augmented here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_pipeline.errors import ModelMismatchError, StoreError
from wsi_pipeline.stain import input_rows

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

UNKNOWN = -1
BACKGROUND = 255.0
MEMORY_BYTES = 4 * 1024**3
"""Pixels kept in memory unless another budget is given: about 20,000 patches of 256 px."""

MPP_TOLERANCE = 0.02
"""Relative difference in resolution between stores that are trained on together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMap:
    """Which class each stored label stands for.

    Attributes
    ----------
    classes : tuple of str
        Classes in the order of the model's outputs; if empty, the labels of all stores, in the
        order of their label map where all have one order, else sorted.
    names : mapping of str to str
        Class of each stored label; a label that is not in it stands for the class of that name.
        Labels whose class is not among ``classes`` are unknown: such patches train as unlabelled.
    """

    classes: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, stores: Sequence[PatchStore]) -> tuple[str, ...]:
        """Return the classes, found in the stores where none are given; none if there are none."""
        orders = {
            tuple(dict.fromkeys(self.names.get(name, name) for name in store.label_names)): None
            for store in stores
            if store.label_names
        }
        found = {name for order in orders for name in order}
        classes = self.classes or (next(iter(orders)) if len(orders) == 1 else tuple(sorted(found)))
        if classes and not found & set(classes):
            raise StoreError(
                f"no store has a label for any of the classes {', '.join(classes)}; "
                f"the stored labels stand for {', '.join(sorted(found)) or 'nothing'}: correct "
                "the label map"
            )
        return classes

    def encode(self, store: PatchStore, classes: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the class of each patch of a store, shape (N,); -1 where unknown."""
        codes = {name: code for code, name in enumerate(classes)}
        table = [codes.get(self.names.get(name, name), UNKNOWN) for name in store.label_names]
        # the last entry is what an unknown label, -1, picks
        return np.array([*table, UNKNOWN], dtype=np.int64)[store.label]


class TrainingData:
    """The patches of several stores under one index.

    Parameters
    ----------
    stores : sequence of PatchStore
        Stores with RGB patches of one size and resolution.
    labels : LabelMap or None
        Classes of the stored labels; each label is its own class if None.
    memory_bytes : int
        Bytes of pixels that may be held: all patches if they fit, else the blocks read last.

    Attributes
    ----------
    classes : tuple of str
        Classes, in the order of their codes; empty where no store has labels.
    label : ndarray of shape (N,), int64
        Class of each patch; -1 where unknown.
    group : tuple of N str
        Patient, slide or prototype of each patch.
    block : ndarray of shape (N,), int64, or None
        Which patches are decoded together, for samplers; None where all are in memory.
    patch_px : int
        Side of the patches, px.
    mpp : float
        Their resolution, um/px.
    stain_convention : str
        Which stains they have, and how they are unmixed.

    Raises
    ------
    StoreError
        If there are no patches, a store lacks RGB, or no class that is asked for has a label.
    ModelMismatchError
        If the stores differ in patch size, resolution or stain convention.
    """

    def __init__(
        self,
        stores: Sequence[PatchStore],
        labels: LabelMap | None = None,
        *,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        _require_same(stores)
        labels = labels or LabelMap()
        self._stores = tuple(stores)
        self.patch_px, self.mpp = stores[0].patch_px, stores[0].mpp
        self.stain_convention = stores[0].stain_convention
        self.classes = labels.resolve(stores)
        self.label = np.concatenate([labels.encode(store, self.classes) for store in stores])
        self.group = tuple(name for store in stores for name in store.group)
        self._unmix = torch.from_numpy(np.concatenate([_unmix_rows(store) for store in stores]))
        self._offsets = np.cumsum([0, *(len(store) for store in stores)])
        self._blocks = _lay_blocks(stores)
        self._memory_bytes = memory_bytes
        self._recent: OrderedDict[int, Tensor] = OrderedDict()
        self._rgb = self._load() if self.pixel_bytes <= memory_bytes else None

    def __len__(self) -> int:
        return len(self.label)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels together."""
        return len(self) * 3 * self.patch_px**2

    @property
    def held_bytes(self) -> int:
        """Bytes of pixels held in memory now."""
        if self._rgb is not None:
            return self.pixel_bytes
        return sum(len(rgb) for rgb in self._recent.values()) * 3 * self.patch_px**2

    @property
    def block(self) -> NDArray[np.int64] | None:
        """Which patches are decoded together; None where all are in memory."""
        return None if self._rgb is not None else self._blocks.of_patch

    def fetch(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Get patches.

        Parameters
        ----------
        indices : ndarray of shape (n,), int64
            Any patches, in any order, also repeated.

        Returns
        -------
        rgb : Tensor of shape (n, 3, P, P), uint8
            Pixels.
        unmix : Tensor of shape (n, 2, 3), float32
            Rows that turn log10 optical density into network input before clipping, of the slide
            or group of each patch.
        label : Tensor of shape (n,), int64
            Class; -1 where unknown.
        """
        where = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        label = torch.from_numpy(self.label[indices])
        if self._rgb is not None:
            return self._rgb[where], self._unmix[where], label
        rgb = torch.empty((len(where), 3, self.patch_px, self.patch_px), dtype=torch.uint8)
        wanted = self._blocks.of_patch[indices]
        for block in np.unique(wanted).tolist():
            rows = np.flatnonzero(wanted == block)
            inside = indices[rows] - self._blocks.start[block]
            rgb[torch.from_numpy(rows)] = self._block(block)[torch.from_numpy(inside)]
        return rgb, self._unmix[where], label

    def _load(self) -> Tensor:
        rgb = torch.empty((len(self), 3, self.patch_px, self.patch_px), dtype=torch.uint8)
        for store, offset in zip(self._stores, self._offsets[:-1].tolist(), strict=True):
            for start in range(0, len(store), store.shard_patches):
                stop = min(start + store.shard_patches, len(store))
                rgb[offset + start : offset + stop] = _read(store, start, stop)
        return rgb

    def _block(self, block: int) -> Tensor:
        """Return the pixels of a block, from disk unless it was read lately."""
        if block in self._recent:
            self._recent.move_to_end(block)
            return self._recent[block]
        start, stop = int(self._blocks.start[block]), int(self._blocks.stop[block])
        index = int(np.searchsorted(self._offsets, start, side="right")) - 1
        offset = int(self._offsets[index])
        rgb = _read(self._stores[index], start - offset, stop - offset)
        self._recent[block] = rgb
        while self.held_bytes > self._memory_bytes and len(self._recent) > 1:
            self._recent.popitem(last=False)
        return rgb


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Runs of patches that are compressed together; ``of_patch`` (N,) names each patch's."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    of_patch: NDArray[np.int64]


def _lay_blocks(stores: Sequence[PatchStore]) -> _Blocks:
    starts: list[int] = []
    stops: list[int] = []
    offset = 0
    for store in stores:
        edges = [*range(0, len(store), store.chunk_patches), len(store)]
        starts += [offset + edge for edge in edges[:-1]]
        stops += [offset + edge for edge in edges[1:]]
        offset += len(store)
    start, stop = np.array(starts, dtype=np.int64), np.array(stops, dtype=np.int64)
    return _Blocks(start, stop, np.repeat(np.arange(len(start)), stop - start))


def _read(store: PatchStore, start: int, stop: int) -> Tensor:
    return torch.from_numpy(store.read_rgb(start, stop)).permute(0, 3, 1, 2)


def _unmix_rows(store: PatchStore) -> NDArray[np.float32]:
    """Unmixing rows of every patch, shape (N, 2, 3)."""
    by_stain: dict[int, NDArray[np.float64]] = {}
    for stain in store.patch_stains:
        if id(stain) not in by_stain:
            if not (stain.matrix.background == BACKGROUND).all():
                raise ModelMismatchError(
                    f"{store.path} was unmixed with background {stain.matrix.background}; training "
                    f"knows {BACKGROUND:g} only: preprocess the slide again"
                )
            by_stain[id(stain)] = input_rows(stain.matrix)
    rows = [by_stain[id(stain)] for stain in store.patch_stains]
    return np.array(rows, dtype=np.float32).reshape(-1, 2, 3)


def _require_same(stores: Sequence[PatchStore]) -> None:
    """Refuse stores that cannot be trained on together."""
    if not any(len(store) for store in stores):
        raise StoreError("there are no patches to train on; give at least one store with patches")
    first = stores[0]
    for store in stores:
        if not store.has_rgb:
            raise StoreError(
                f"{store.path} holds no RGB patches, which training augments; preprocess with "
                "--keep-rgb"
            )
        same_mpp = abs(store.mpp / first.mpp - 1) <= MPP_TOLERANCE
        same_stains = store.stain_convention == first.stain_convention
        if store.patch_px != first.patch_px or not same_mpp or not same_stains:
            raise ModelMismatchError(
                f"{store.path} has patches of {store.patch_px} px at {store.mpp:.4g} um/px "
                f"({store.stain_convention}), {first.path} of {first.patch_px} px at "
                f"{first.mpp:.4g} um/px ({first.stain_convention}); train on stores made with the "
                "same options"
            )
