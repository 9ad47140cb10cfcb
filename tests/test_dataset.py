"""Streaming batches of patches: order, sizes, memory, threads and errors."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.stores import make_header, make_patches, make_store
from wsi_pipeline.dataset import shard_batches


class Source:
    """Patches in memory that count how they are read."""

    def __init__(self, n: int, *, shard: int = 4, side: int = 6, dtype: str = "uint8") -> None:
        rng = np.random.default_rng(n)
        self.he = (rng.random((n, 2, side, side)) * 255).astype(dtype)
        self.patch_px = side
        self.shard_patches = shard
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.he)

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8]:
        self.reads.append((start, stop))
        patches = self.he[start:stop]
        patches.flags.writeable = False  # whoever reads must not rely on owning what it gets
        return patches


class FailingSource(Source):
    """Fails to read its third shard."""

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8]:
        if start == 2 * self.shard_patches:
            raise OSError("shard 2 is damaged")
        return super().read_he(start, stop)


def reader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("read-ahead")]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 40),
    batch=st.integers(1, 15),
    shard=st.integers(1, 15),
    readers=st.integers(1, 4),
)
def test_every_patch_comes_once_and_in_order(n: int, batch: int, shard: int, readers: int) -> None:
    source = Source(n, shard=shard)

    batches = list(shard_batches(source, batch, readers=readers))

    assert [len(b) for b in batches] == [batch] * (n // batch) + [n % batch] * (n % batch > 0)
    joined = torch.cat(batches) if batches else torch.empty((0, 2, 6, 6), dtype=torch.uint8)
    assert torch.equal(joined, torch.from_numpy(source.he.copy()))
    starts = range(0, n, shard)
    assert sorted(source.reads) == [(s, min(s + shard, n)) for s in starts]


def test_batches_are_memory_of_their_own() -> None:
    source = Source(8, shard=4)

    for batch in shard_batches(source, 2):
        batch.zero_()

    assert source.he.any()


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", torch.uint8), ("float16", torch.float16)]
)
def test_stored_type_is_kept(dtype: str, expected: torch.dtype) -> None:
    (batch,) = shard_batches(Source(3, dtype=dtype), 8)

    assert batch.dtype == expected


@pytest.mark.parametrize(("crop", "span"), [(6, slice(0, 6)), (4, slice(1, 5)), (3, slice(1, 4))])
def test_crop_is_the_centre(crop: int, span: slice) -> None:
    source = Source(5)

    joined = torch.cat(list(shard_batches(source, 2, crop_px=crop)))

    assert np.array_equal(joined.numpy(), source.he[:, :, span, span])


def test_crop_larger_than_the_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot crop 7 px from patches of 6 px"):
        next(shard_batches(Source(5), 2, crop_px=7))


@pytest.mark.parametrize("readers", [1, 3])
def test_reading_ahead_is_bounded(readers: int) -> None:
    source = Source(100, shard=2)
    batches = shard_batches(source, 2, readers=readers)

    for taken in range(1, 20):
        next(batches)
        # those taken, and as many ahead as there are readers
        assert len(source.reads) <= taken + readers
    batches.close()


def test_damaged_shard_raises_where_it_is_due() -> None:
    batches = shard_batches(FailingSource(20, shard=4), 4)

    assert len(next(batches)) == 4
    assert len(next(batches)) == 4
    with pytest.raises(OSError, match="shard 2 is damaged"):
        next(batches)
    assert reader_threads() == []


def test_finished_and_abandoned_streams_leave_no_threads() -> None:
    list(shard_batches(Source(20), 4))
    assert reader_threads() == []

    abandoned = shard_batches(Source(200), 4)
    next(abandoned)
    assert reader_threads() != []
    abandoned.close()
    assert reader_threads() == []


def test_empty_source_starts_no_thread() -> None:
    source = Source(0)

    assert list(shard_batches(source, 4)) == []
    assert source.reads == []


def test_patch_store_streams(tmp_path: Path) -> None:
    store = make_store(tmp_path / "patches.zarr", make_header(21))

    joined = torch.cat(list(shard_batches(store, 5)))

    assert np.array_equal(joined.numpy(), make_patches(21)["he"])
