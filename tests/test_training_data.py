"""Patch stores as training data: the same patches in memory and from disk, labels mapped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.stores import SLIDE, make_grid, make_header, make_stain, make_store
from wsi_pipeline.config import StoreConfig
from wsi_pipeline.errors import ModelMismatchError, StoreError
from wsi_pipeline.stain import input_rows
from wsi_pipeline.training_data import LabelMap, TrainingData

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

CONFIG = StoreConfig(chunk_patches=4, shard_patches=8, keep_rgb=True)
NAMES = ("fat", "tumour", "ink")


def make_labelled(path: Path, n: int, slide_id: str = "slide-1") -> PatchStore:
    """Make a store with labels 0, 1, 2, -1 in turn and two stain matrices."""
    other = make_stain().matrix
    other = replace(other, max_concentration=other.max_concentration * 2)
    header = make_header(
        n,
        slide=replace(SLIDE, slide_id=slide_id),
        label=(np.arange(n) % 4 - (np.arange(n) % 4 == 3) * 4).astype(np.int16),
        label_names=NAMES,
        stains=(make_stain(), make_stain(matrix=other)),
        stain_index=(np.arange(n) % 2).astype(np.int32),
    )
    return make_store(path, header, CONFIG)


@pytest.fixture
def stores(tmp_path: Path) -> list[PatchStore]:
    return [
        make_labelled(tmp_path / "a.zarr", 30),
        make_labelled(tmp_path / "b.zarr", 11, "slide-2"),
    ]


def test_patches_of_several_stores_are_those_of_the_stores(stores: list[PatchStore]) -> None:
    data = TrainingData(stores)
    assert len(data) == 41
    assert data.block is None
    assert data.group == ("slide-1",) * 30 + ("slide-2",) * 11
    indices = np.array([40, 0, 29, 30, 0])
    rgb, unmix, label = data.fetch(indices)
    whole = np.concatenate([store.read_rgb(0, len(store)) for store in stores])
    assert np.array_equal(rgb.permute(0, 2, 3, 1).numpy(), whole[indices])
    stains = [stain for store in stores for stain in store.patch_stains]
    expected = np.stack([input_rows(stains[i].matrix) for i in indices])
    assert np.allclose(unmix.numpy(), expected, rtol=1e-6)
    assert label.tolist() == data.label[indices].tolist()


def test_reading_from_disk_gives_the_same(stores: list[PatchStore]) -> None:
    memory = TrainingData(stores)
    disk = TrainingData(stores, memory_bytes=6 * 3 * 8 * 8)
    assert disk.block is not None
    rng = np.random.default_rng(0)
    for _ in range(5):
        indices = rng.integers(0, 41, 13)
        for one, other in zip(memory.fetch(indices), disk.fetch(indices), strict=True):
            assert (one == other).all()
    assert disk.held_bytes <= 6 * 3 * 8 * 8


def test_blocks_are_the_chunks_of_each_store(stores: list[PatchStore]) -> None:
    block = TrainingData(stores, memory_bytes=1).block
    assert block is not None
    assert np.bincount(block).tolist() == [4] * 7 + [2] + [4, 4, 3]


def test_labels_are_classes_unless_mapped(stores: list[PatchStore]) -> None:
    plain = TrainingData(stores)
    assert plain.classes == ("fat", "tumour", "ink"), "the order of the label map"
    assert plain.label[:4].tolist() == [0, 1, 2, -1]
    mapped = TrainingData(
        stores, LabelMap(classes=("cancer", "normal"), names={"tumour": "cancer", "fat": "normal"})
    )
    assert mapped.classes == ("cancer", "normal")
    assert mapped.label[:4].tolist() == [1, 0, -1, -1]  # ink is no class: unknown
    absent = TrainingData(stores, LabelMap(classes=("fat", "bone")))
    assert absent.label[:4].tolist() == [0, -1, -1, -1]


def test_a_map_without_any_class_is_refused(stores: list[PatchStore]) -> None:
    with pytest.raises(StoreError, match="label for any of the classes bone; the stored labels"):
        TrainingData(stores, LabelMap(classes=("bone",)))


def test_stores_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    first = make_labelled(tmp_path / "a.zarr", 5)
    with pytest.raises(StoreError, match="no RGB patches"):
        TrainingData([first, make_store(tmp_path / "he.zarr", make_header(5))])
    grid = replace(make_grid(5), mpp=0.6)
    coarse = make_store(tmp_path / "coarse.zarr", make_header(5, grid=grid), CONFIG)
    with pytest.raises(ModelMismatchError, match=r"coarse\.zarr has patches of 8 px at 0\.6"):
        TrainingData([first, coarse])
    dim = make_stain(matrix=replace(make_stain().matrix, background=np.full(3, 240.0)))
    with pytest.raises(ModelMismatchError, match="background"):
        TrainingData([first, make_store(tmp_path / "dim.zarr", make_header(5, stain=dim), CONFIG)])
    empty = make_store(tmp_path / "empty.zarr", make_header(0), CONFIG)
    with pytest.raises(StoreError, match="no patches to train on"):
        TrainingData([empty])
    assert len(TrainingData([first, empty])) == 5
