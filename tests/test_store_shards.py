"""The bytes of a shard: Zarr reads what is written here, and what Zarr writes is read here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from tests.stores import make_header, make_patches, make_store
from wsi_pipeline.config import HeValues, StoreConfig
from wsi_pipeline.errors import StoreSchemaError
from wsi_pipeline.store import StoreWriter
from wsi_pipeline.store.schema import shard_layout
from wsi_pipeline.store.shards import ChunkDamageError, ShardLayout, round_to_bits, write_shard_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (2, 6, 5)


def make_array(path: Path, n: int, dtype: str, codec: Any) -> zarr.Array[Any]:
    return zarr.create_array(
        path,
        name="he",
        shape=(n, *SHAPE),
        dtype=dtype,
        shards=(8, *SHAPE),
        chunks=(2, *SHAPE),
        compressors=(codec, Crc32cCodec()),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )


def noise(n: int, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE)).astype(dtype)


@pytest.mark.parametrize("he_values", list(HeValues))
@pytest.mark.parametrize("n", [1, 7, 8, 21])
def test_zarr_reads_what_is_written(tmp_path: Path, n: int, he_values: HeValues) -> None:
    config = StoreConfig(chunk_patches=2, shard_patches=8, keep_rgb=True, he_values=he_values)
    patches = make_patches(n, config)
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", make_header(n), config)
    for shard in writer.shards:
        part = slice(shard.start, shard.stop)
        writer.write_encoded(
            shard.index,
            {name: writer.encode(name, values[part]) for name, values in patches.items()},
        )
    writer.seal()

    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    for name, values in patches.items():
        assert_array_equal(np.asarray(group[name]), values)


@pytest.mark.parametrize("bits", range(1, 9))
def test_values_are_rounded_to_the_nearest_that_fewer_bits_hold(bits: int) -> None:
    values = np.arange(256, dtype=np.uint8)
    rounded = round_to_bits(values, bits)
    held = np.arange(0, 256, 2 ** (8 - bits))
    distance = np.abs(values[:, None].astype(int) - held)
    assert set(rounded.tolist()) == set(held.tolist())
    assert_array_equal(np.abs(values.astype(int) - rounded), distance.min(axis=1))
    assert_array_equal(round_to_bits(rounded, bits), rounded)


def test_fewer_bits_round_he_alone_and_take_less_room(tmp_path: Path) -> None:
    sizes = []
    for bits in (8, 5):
        config = StoreConfig(chunk_patches=2, shard_patches=8, keep_rgb=True, he_bits=bits)
        patches = make_patches(8, config)
        store = make_store(tmp_path / f"{bits}.zarr", make_header(8), config)
        assert_array_equal(store.read_he(0, 8), round_to_bits(patches["he"], bits))
        assert_array_equal(store.read_rgb(0, 8), patches["rgb"])
        sizes.append(sum(file.stat().st_size for file in (store.path / "he").iterdir()))
    assert sizes[1] < sizes[0]  # tiny patches: index and metadata are much of either


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_what_zarr_writes_is_read(tmp_path: Path, dtype: str, codec: Any) -> None:
    shuffled = BloscCodec(cname=codec, clevel=5, shuffle="bitshuffle", typesize=1)
    array = make_array(tmp_path, 21, dtype, shuffled)
    array[...] = noise(21, dtype)
    layout = shard_layout(array)

    for index, count in enumerate((8, 8, 5)):
        patches = np.empty((count, *SHAPE), dtype=dtype)
        layout.read(tmp_path / "he" / f"c.{index}.0.0.0", 0, patches)
        assert_array_equal(patches, noise(21, dtype)[8 * index : 8 * index + count])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(start=st.integers(0, 8), stop=st.integers(0, 8), chunk=st.sampled_from([1, 2, 4, 8]))
def test_any_part_of_a_shard_is_read(tmp_path: Path, start: int, stop: int, chunk: int) -> None:
    layout = ShardLayout(SHAPE, np.dtype(np.uint8), chunk, 8)
    chunks = layout.encode(noise(8))
    write_shard_file(tmp_path / "shard", chunks, layout.index(chunks))

    patches = np.empty((max(0, stop - start), *SHAPE), dtype=np.uint8)
    if len(patches):
        layout.read(tmp_path / "shard", start, patches)

    assert_array_equal(patches, noise(8)[start:stop])


def test_chunks_that_were_never_written_are_no_zeros(tmp_path: Path) -> None:
    layout = ShardLayout(SHAPE, np.dtype(np.uint8), 2, 8)
    chunks = layout.encode(noise(4))
    write_shard_file(tmp_path / "shard", chunks, layout.index(chunks))

    with pytest.raises(ChunkDamageError, match="1 to 3 are not all there"):
        layout.read(tmp_path / "shard", 3, np.empty((4, *SHAPE), dtype=np.uint8))


@pytest.mark.parametrize("size", [0, 3, 40])
def test_a_file_shorter_than_its_index_is_damaged(tmp_path: Path, size: int) -> None:
    layout = ShardLayout(SHAPE, np.dtype(np.uint8), 2, 8)
    (tmp_path / "shard").write_bytes(bytes(size))

    with pytest.raises(ChunkDamageError, match=f"it has {size}"):
        layout.read(tmp_path / "shard", 0, np.empty((1, *SHAPE), dtype=np.uint8))


def test_other_codecs_are_refused_by_name(tmp_path: Path) -> None:
    array = make_array(tmp_path, 8, "uint8", ZstdCodec())

    with pytest.raises(StoreSchemaError, match="blosc"):
        shard_layout(array)


def test_incomplete_shards_are_refused(tmp_path: Path) -> None:
    config = StoreConfig(chunk_patches=2, shard_patches=8)
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", make_header(21), config)
    chunks = writer.encode("he", make_patches(21)["he"][:6])

    with pytest.raises(ValueError, match="he of shard 0 takes 4 chunks, got 3"):
        writer.write_encoded(0, {"he": chunks})
    assert writer.pending() == (0, 1, 2)


_SHORT_WRITE = """
import resource, signal, sys
import subprocess
import sys
from pathlib import Path
from wsi_pipeline.store.shards import write_shard_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_shard_file(Path(sys.argv[1]), [bytes(1500)], b"")
"""


def test_a_disk_that_takes_a_part_of_a_shard_is_an_error(tmp_path: Path) -> None:
    # the system writes up to the limit and says so by a count; only the next write fails
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_WRITE, tmp_path / "shard"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "OSError: [Errno 27] File too large" in done.stderr
