"""Blocks of patches read ahead: order, sizes, memory, threads and errors."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.inference.read_ahead import SPARE_BLOCKS, read_ahead


class Source:
    """Patches in memory that count how they are read."""

    def __init__(self, n: int, *, side: int = 6, dtype: str = "uint8") -> None:
        rng = np.random.default_rng(n)
        self.he = (rng.random((n, 2, side, side)) * 255).astype(dtype)
        self.reads: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        self.reads.append((start, stop))
        patches = self.he[start:stop]
        patches.flags.writeable = False  # whoever reads must not rely on owning what it gets
        return patches

    def read_third_block_badly(self, start: int, stop: int) -> NDArray[np.uint8]:
        if start == 8:
            raise OSError("block 2 is damaged")
        return self.read(start, stop)


def reader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("read-ahead")]


@settings(deadline=None, max_examples=60)
@given(n=st.integers(0, 40), block=st.integers(1, 15), readers=st.integers(1, 4))
def test_every_patch_comes_once_and_in_order(n: int, block: int, readers: int) -> None:
    source = Source(n)

    blocks = list(read_ahead(source.read, n, block, readers=readers))

    assert [start for start, _ in blocks] == list(range(0, n, block))
    assert [len(b) for _, b in blocks] == [block] * (n // block) + [n % block] * (n % block > 0)
    for start, patches in blocks:
        assert np.array_equal(patches.numpy(), source.he[start : start + block])
    assert sorted(source.reads) == [(s, min(s + block, n)) for s in range(0, n, block)]


def test_blocks_of_read_only_patches_are_memory_of_their_own() -> None:
    source = Source(8)

    for _, patches in read_ahead(source.read, 8, 2):
        patches.zero_()

    assert source.he.any()


def test_patches_that_may_be_written_are_not_copied() -> None:
    he = np.zeros((4, 2, 6, 6), dtype=np.uint8)

    ((_, patches),) = read_ahead(lambda start, stop: he[start:stop], 4, 4)

    assert patches.data_ptr() == he.ctypes.data


@pytest.mark.parametrize(
    ("dtype", "expected"), [("uint8", torch.uint8), ("float16", torch.float16)]
)
def test_stored_type_is_kept(dtype: str, expected: torch.dtype) -> None:
    ((_, patches),) = read_ahead(Source(3, dtype=dtype).read, 3, 8)

    assert patches.dtype == expected


@pytest.mark.parametrize(("crop", "span"), [(6, slice(0, 6)), (4, slice(1, 5)), (3, slice(1, 4))])
def test_crop_is_the_centre(crop: int, span: slice) -> None:
    source = Source(5)

    blocks = [patches for _, patches in read_ahead(source.read, 5, 2, crop_px=crop)]

    assert np.array_equal(torch.cat(blocks).numpy(), source.he[:, :, span, span])


@pytest.mark.parametrize("writeable", [True, False])
def test_colours_stay_last_in_memory(writeable: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    rgb.flags.writeable = writeable

    def read(start: int, stop: int) -> NDArray[np.uint8]:
        return rgb[start:stop].transpose(0, 3, 1, 2)

    ((_, patches),) = read_ahead(read, 3, 3)

    assert patches.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(patches.permute(0, 2, 3, 1).numpy(), rgb)


def test_crop_larger_than_the_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot crop 7 px from patches of 6 px"):
        next(read_ahead(Source(5).read, 5, 2, crop_px=7))


@pytest.mark.parametrize("readers", [1, 3])
def test_reading_ahead_is_bounded(readers: int) -> None:
    source = Source(100)
    blocks = read_ahead(source.read, 100, 2, readers=readers)

    for taken in range(1, 20):
        next(blocks)
        assert len(source.reads) <= taken + readers + SPARE_BLOCKS
    blocks.close()


def test_damaged_block_raises_where_it_is_due() -> None:
    blocks = read_ahead(Source(20).read_third_block_badly, 20, 4)

    assert [next(blocks)[0], next(blocks)[0]] == [0, 4]
    with pytest.raises(OSError, match="block 2 is damaged"):
        next(blocks)
    assert reader_threads() == []


def test_finished_and_abandoned_streams_leave_no_threads() -> None:
    list(read_ahead(Source(20).read, 20, 4))
    assert reader_threads() == []

    abandoned = read_ahead(Source(200).read, 200, 4)
    next(abandoned)
    assert reader_threads() != []
    abandoned.close()
    assert reader_threads() == []


def test_empty_source_is_not_read() -> None:
    source = Source(0)

    assert list(read_ahead(source.read, 0, 4)) == []
    assert source.reads == []
