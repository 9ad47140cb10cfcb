"""The patch store: what is written is read, what exists is whole, and damage has a name."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from tests.stores import CONFIG, SLIDE, fill, make_header, make_patches, make_stain, make_store
from wsi_pipeline.config import HeValues, StoreConfig
from wsi_pipeline.errors import (
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
    StoreSchemaError,
)
from wsi_pipeline.stain import decode_he, encode_he, encode_he_float16, unmix
from wsi_pipeline.store import PatchStore, StoreWriter, has_store
from wsi_pipeline.store.writing import JOURNAL
from wsi_pipeline.types import STAIN_CONVENTION, StainMatrix, StainVerdict

if TYPE_CHECKING:
    from zarr.core.common import JSON

Patches = NDArray[Any]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 24, 80])
@pytest.mark.parametrize("keep_rgb", [False, True])
@pytest.mark.parametrize("he_values", list(HeValues))
def test_reads_what_was_written(
    tmp_path: Path, n: int, keep_rgb: bool, he_values: HeValues
) -> None:
    config = StoreConfig(chunk_patches=2, shard_patches=8, keep_rgb=keep_rgb, he_values=he_values)
    patches = make_patches(n, config)
    store = make_store(tmp_path / "a.zarr", make_header(n), config)
    store.verify()
    assert len(store) == n
    assert_array_equal(store.read_he(0, n), patches["he"])
    assert store.read_he(0, n).dtype == patches["he"].dtype
    assert store.he_values is he_values
    assert store.has_rgb is keep_rgb
    if keep_rgb:
        assert_array_equal(store.read_rgb(0, n), patches["rgb"])
    assert (store.chunk_patches, store.shard_patches) == (2, 8)


@settings(max_examples=60, deadline=None)
@given(a=st.integers(0, 21), b=st.integers(0, 21))
def test_any_range_is_a_slice(stored: PatchStore, a: int, b: int) -> None:
    start, stop = min(a, b), max(a, b)
    assert_array_equal(stored.read_he(start, stop), make_patches(21)["he"][start:stop])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return make_store(tmp_path_factory.mktemp("store") / "a.zarr", make_header(21))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 22)])
def test_ranges_outside_are_refused(stored: PatchStore, start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"do not lie in \[0, 21\]"):
        stored.read_he(start, stop)


def test_the_header_comes_back(stored: PatchStore) -> None:
    header = make_header(21)
    assert stored.slide == SLIDE
    assert_array_equal(stored.xy, header.grid.xy)
    assert_array_equal(stored.rc, header.grid.rc)
    assert_array_equal(stored.tissue_fraction, header.grid.tissue_fraction[tuple(stored.rc.T)])
    assert stored.xy.dtype == np.int64
    assert stored.rc.dtype == np.int32
    assert_array_equal(stored.reasons, header.grid.reasons)
    assert stored.grid_shape == (8, 10)
    assert stored.funnel() == header.grid.funnel()
    assert stored.funnel()["kept"] == 21
    assert (stored.extent, stored.pitch, stored.patch_px, stored.mpp) == (8, 8, 8, 0.5)
    assert_array_equal(stored.thumbnail, header.thumbnail)
    assert_array_equal(stored.areas, header.mask.areas)
    assert stored.mask.downsample == (5.0, 5.0)
    assert stored.config == header.config
    assert stored.config_hash == header.config_hash
    assert stored.fingerprint == "abc"
    assert stored.stain_convention == STAIN_CONVENTION
    assert stored.attributes["versions"]["zarr"] == zarr.__version__


def test_the_stain_comes_back_bit_by_bit(stored: PatchStore) -> None:
    wanted = make_stain()
    assert_array_equal(stored.stain.matrix.vectors, wanted.matrix.vectors)
    assert_array_equal(stored.stain.matrix.max_concentration, wanted.matrix.max_concentration)
    assert_array_equal(stored.stain.matrix.background, wanted.matrix.background)
    assert stored.stain.verdict is StainVerdict.OK
    assert (stored.stain.angle_deg, stored.stain.theta_deg) == (40.25, (10.5, 50.75))


def test_a_stain_that_was_not_estimated_stays_so(tmp_path: Path) -> None:
    nan = float("nan")
    stain = make_stain(
        verdict=StainVerdict.FALLBACK, reasons=("few pixels",), angle_deg=nan, theta_deg=(nan, nan)
    )
    path = tmp_path / "a.zarr"
    store = make_store(path, make_header(1, stain=stain))
    assert store.stain.verdict is StainVerdict.FALLBACK
    assert store.stain.reasons == ("few pixels",)
    assert np.isnan([store.stain.angle_deg, *store.stain.theta_deg]).all()
    strict = json.loads((path / "zarr.json").read_text(), parse_constant=pytest.fail)
    assert strict["attributes"]["stain"]["angle_deg"] is None


def test_labels_and_groups_come_back(tmp_path: Path) -> None:
    label = np.array([1, -1, 0, 1], dtype=np.int16)
    header = make_header(4, label=label, label_names=("a", "b"), group=("p2", "p1", "p2", "p3"))
    store = make_store(tmp_path / "a.zarr", header)
    assert store.has_labels
    assert store.has_groups
    assert_array_equal(store.label, label)
    assert store.label_names == ("a", "b")
    assert store.group == ("p2", "p1", "p2", "p3")


def test_without_labels_all_are_unknown(stored: PatchStore) -> None:
    assert not stored.has_labels
    assert_array_equal(stored.label, np.full(21, -1))
    assert set(stored.group) == {"slide-1"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.zeros(3, dtype=np.int16)}, "does not match 2 patches"),
        ({"label": np.array([0, 5], dtype=np.int16), "label_names": ("a",)}, "must lie in"),
        ({"group": ("a",)}, "1 groups"),
        ({"thumbnail": np.zeros((4, 4), dtype=np.uint8)}, "thumbnail"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_header(2, **changes)


def test_stores_travel_to_other_processes(stored: PatchStore) -> None:
    again = pickle.loads(pickle.dumps(stored))
    assert again.path == stored.path
    assert_array_equal(again.read_he(3, 5), stored.read_he(3, 5))


def test_a_slide_takes_few_files(tmp_path: Path) -> None:
    config = StoreConfig(chunk_patches=1, shard_patches=40)
    make_store(tmp_path / "a.zarr", make_header(80), config)
    files = [path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()]
    # a zarr.json for the group and each of 7 arrays, 6 small arrays, 2 shards for 80 patches
    assert len(files) == 8 + 6 + 2


# -- writing ------------------------------------------------------------------------------------


def test_nothing_has_the_final_name_before_it_is_sealed(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    writer = StoreWriter.create_or_resume(path, make_header(21), CONFIG)
    fill(writer, make_patches(21))
    assert not path.exists()
    with pytest.raises(StoreNotFoundError, match="run preprocess again to finish"):
        PatchStore.open(path)
    writer.seal()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr"]
    assert not (path / JOURNAL).exists()


def test_shards_cover_all_patches_once(tmp_path: Path) -> None:
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", make_header(21), CONFIG)
    assert [(s.index, s.start, s.stop) for s in writer.shards] == [
        (0, 0, 8),
        (1, 8, 16),
        (2, 16, 21),
    ]


def test_an_incomplete_store_is_not_sealed(tmp_path: Path) -> None:
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", make_header(21), CONFIG)
    writer.write_shard(0, make_patches(21)["he"][:8])
    assert writer.pending() == (1, 2)
    with pytest.raises(StoreError, match="lacks 2 of 3 shards, the first is 1"):
        writer.seal()
    assert not (tmp_path / "a.zarr").exists()


def test_shards_may_be_written_from_many_threads(tmp_path: Path) -> None:
    config = StoreConfig(chunk_patches=1, shard_patches=2, keep_rgb=True)
    patches = make_patches(80, config)
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", make_header(80), config)
    order = np.random.default_rng(0).permutation(40).tolist()
    with ThreadPoolExecutor(8) as pool:
        for written in [
            pool.submit(
                writer.write_shard, i, *(patches[k][2 * i : 2 * i + 2] for k in ("he", "rgb"))
            )
            for i in order
        ]:
            written.result()
    store = writer.seal()
    assert_array_equal(store.read_he(0, 80), patches["he"])
    assert_array_equal(store.read_rgb(0, 80), patches["rgb"])


@pytest.mark.parametrize(
    ("index", "he", "rgb", "message"),
    [
        (3, np.zeros((5, 2, 8, 8), np.uint8), None, "shard 3 is not pending"),
        (2, np.zeros((8, 2, 8, 8), np.uint8), None, r"he of shard 2 must be \(5, 2, 8, 8\) uint8"),
        (2, np.zeros((5, 2, 8, 8), np.float16), None, "got .* float16"),
        (2, np.zeros((5, 2, 8, 8), np.uint8), np.zeros((5, 8, 8, 3), np.uint8), "keeps"),
    ],
)
def test_patches_that_do_not_fit_are_refused(
    tmp_path: Path, index: int, he: Patches, rgb: Patches | None, message: str
) -> None:
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", make_header(21), CONFIG)
    with pytest.raises(ValueError, match=message):
        writer.write_shard(index, he, rgb)
    assert writer.pending() == (0, 1, 2)


def test_a_full_disk_leaves_the_shard_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", make_header(21), CONFIG)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    he = make_patches(21)["he"][:8]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        with pytest.raises(StoreError, match="No space left"):
            writer.write_shard(0, he)
    assert writer.pending() == (0, 1, 2)


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.stores import CONFIG, make_header, make_patches
from wsi_pipeline.store import StoreWriter
path = Path(sys.argv[1])
writer = StoreWriter.create_or_resume(path, make_header(40), CONFIG)
he = make_patches(40)["he"]
for shard in writer.shards[:3]:
    writer.write_shard(shard.index, he[shard.start : shard.stop])
# bytes of the next shard reach the disk, its record does not
writer._record = lambda index: os.kill(os.getpid(), signal.SIGKILL)
writer.write_shard(3, 255 - he[24:32])
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    root = Path(__file__).parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(path)], cwd=root, check=False, timeout=60
    )
    assert killed.returncode == -signal.SIGKILL
    done = tmp_path / "a.zarr.partial" / "he" / "c.0.0.0.0"
    untouched = done.stat().st_mtime_ns
    writer = StoreWriter.create_or_resume(path, make_header(40), CONFIG)
    assert writer.pending() == (3, 4)
    fill(writer, make_patches(40))
    assert done.stat().st_mtime_ns == untouched
    store = writer.seal()
    store.verify()
    assert_array_equal(store.read_he(0, 40), make_patches(40)["he"])


def test_torn_leftovers_of_a_crash_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    writer = StoreWriter.create_or_resume(path, make_header(21), CONFIG)
    writer.write_shard(0, make_patches(21)["he"][:8])
    partial = tmp_path / "a.zarr.partial"
    (partial / "he" / "c.1.0.0.0").write_bytes(b"half a shard")
    (partial / "he" / "c.2.0.0.1234.partial").write_bytes(b"not even renamed")
    with (partial / JOURNAL).open("a") as journal:
        journal.write("2")
    resumed = StoreWriter.create_or_resume(path, make_header(21), CONFIG)
    assert resumed.pending() == (1, 2)
    fill(resumed, make_patches(21))
    assert_array_equal(resumed.seal().read_he(0, 21), make_patches(21)["he"])
    assert {file.name for file in (path / "he").iterdir()} == {
        "zarr.json", "c.0.0.0.0", "c.1.0.0.0", "c.2.0.0.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "config"),
    [
        ({"fingerprint": "other"}, CONFIG),
        ({"config": {"tile": {"patch_size": 9}}}, CONFIG),
        ({"stain": make_stain(verdict=StainVerdict.FLAGGED)}, CONFIG),
        ({"grid": make_header(20).grid}, CONFIG),
        ({}, StoreConfig(chunk_patches=4, shard_patches=8)),
        ({}, StoreConfig(chunk_patches=2, shard_patches=4)),
        ({}, StoreConfig(chunk_patches=2, shard_patches=8, keep_rgb=True)),
        ({}, StoreConfig(chunk_patches=2, shard_patches=8, he_values=HeValues.FLOAT16)),
    ],
)
def test_unfinished_work_of_other_settings_is_discarded(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    config: StoreConfig,
) -> None:
    path = tmp_path / "a.zarr"
    first = StoreWriter.create_or_resume(path, make_header(21), CONFIG)
    first.write_shard(0, make_patches(21)["he"][:8])
    second = StoreWriter.create_or_resume(path, make_header(21, **changes), config)
    assert len(second.pending()) == len(second.shards)
    assert "discarded" in caplog.text


def test_a_finished_store_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, make_header(3))
    with pytest.raises(StoreExistsError, match="--overwrite"):
        StoreWriter.create_or_resume(path, make_header(5), CONFIG)
    writer = StoreWriter.create_or_resume(path, make_header(5), CONFIG, overwrite=True)
    assert len(PatchStore.open(path)) == 3, "the old store serves until the new one is complete"
    fill(writer, make_patches(5))
    assert len(writer.seal()) == 5
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr"]


def test_has_store_tells_same_other_and_none(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    header = make_header(3)
    same: dict[str, Any] = {"recipe": header.config, "fingerprint": header.fingerprint}
    assert not has_store(path, **same)
    make_store(path, header)
    assert has_store(path, **same)
    with pytest.raises(StoreExistsError, match=r"from another slide file.*overwrite"):
        has_store(path, **{**same, "fingerprint": "xyz"})
    with pytest.raises(StoreExistsError, match=r"min_tissue 0.5 there, 0.3 wanted.*overwrite"):
        has_store(path, **{**same, "recipe": {"tile": {"min_tissue": 0.3}}})
    (tmp_path / "notes.txt").write_text("not a store")
    with pytest.raises(StoreExistsError, match="cannot be used"):
        has_store(tmp_path / "notes.txt", **same)


# -- opening what is not whole ------------------------------------------------------------------


def test_a_missing_store_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="no finished patch store"):
        PatchStore.open(tmp_path / "none.zarr")
    with pytest.raises(FileNotFoundError):
        PatchStore.open(tmp_path / "none.zarr")


def test_other_folders_and_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreSchemaError, match="is not a patch store"):
        PatchStore.open(tmp_path)
    zarr.create_group(tmp_path / "other.zarr", zarr_format=3)
    with pytest.raises(StoreSchemaError, match="Zarr group but not a patch store"):
        PatchStore.open(tmp_path / "other.zarr")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", 2, "has schema 2, this version reads 1"),
        ("slide", {"slide_id": "x"}, "damaged"),
        ("stain", {}, "damaged"),
        ("mask_downsample", [1], "damaged"),
    ],
)
def test_attributes_that_cannot_be_read_are_a_schema_error(
    tmp_path: Path, key: str, value: JSON, message: str
) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, make_header(3))
    attributes = zarr.open_group(path, mode="r+").attrs
    attributes[key] = value
    with pytest.raises(StoreError, match=r"zarr\.json is damaged"):
        PatchStore.open(path)
    del attributes["checksums"]  # of another version
    with pytest.raises(StoreSchemaError, match=message):
        PatchStore.open(path)


def test_rgb_is_asked_for_in_words(stored: PatchStore) -> None:
    with pytest.raises(StoreError, match="--keep-rgb"):
        stored.read_rgb(0, 1)


@pytest.mark.parametrize("name", ["he", "rgb"])
@pytest.mark.parametrize("where", ["first byte", "middle", "index", "cut"])
def test_damage_is_found_and_named(tmp_path: Path, name: str, where: str) -> None:
    config = StoreConfig(chunk_patches=2, shard_patches=8, keep_rgb=True)
    store = make_store(tmp_path / "a.zarr", make_header(21), config)
    shard = store.path / name / "c.1.0.0.0"
    content = bytearray(shard.read_bytes())
    at = {"first byte": 0, "middle": len(content) // 2, "index": len(content) - 20, "cut": 0}[where]
    content[at] ^= 0x10
    shard.write_bytes(content[:-7] if where == "cut" else content)
    with pytest.raises(StoreError, match=f"shard 1 of {name} is damaged.*--overwrite"):
        PatchStore.open(store.path).verify()
    read = store.read_he if name == "he" else store.read_rgb
    with pytest.raises(StoreError, match=f"shard 1 of {name}"):
        read(0, 21)
    assert_array_equal(read(0, 8), make_patches(21, config)[name][:8])


def test_a_missing_shard_is_named_when_opening(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", make_header(21))
    (store.path / "he" / "c.2.0.0.0").unlink()
    with pytest.raises(StoreError, match="shard 2 of he is missing"):
        PatchStore.open(store.path)


def test_a_missing_small_array_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a.zarr", make_header(21))
    next((store.path / "thumbnail").glob("c*")).unlink()
    with pytest.raises(StoreError, match="values of thumbnail are missing"):
        PatchStore.open(store.path).verify()


def test_a_shortened_array_is_found(tmp_path: Path) -> None:
    header = make_header(21, label=np.zeros(21, dtype=np.int16), label_names=("a",))
    store = make_store(tmp_path / "a.zarr", header)
    array = zarr.open_group(store.path, mode="r+")["label"]
    assert isinstance(array, zarr.Array)
    array.resize((20,))
    with pytest.raises(StoreError, match=r"label/zarr\.json is damaged"):
        PatchStore.open(store.path)
    del zarr.open_group(store.path, mode="r+").attrs["checksums"]
    with pytest.raises(StoreError, match="label has 20 rows for 21 patches"):
        PatchStore.open(store.path).verify()


def test_patches_of_zeros_are_stored_like_any_other(tmp_path: Path) -> None:
    header = make_header(16)
    writer = StoreWriter.create_or_resume(tmp_path / "a.zarr", header, CONFIG)
    for shard in writer.shards:
        writer.write_shard(shard.index, np.zeros((8, 2, 8, 8), dtype=np.uint8))
    store = writer.seal()
    store.verify()
    assert not store.read_he(0, 16).any()


# -- quantisation -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_quantisation_costs_half_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(20, 256, (32, 32, 3), dtype=np.uint8)
    stains: StainMatrix = make_stain().matrix
    scale = 2 * stains.max_concentration[:, None, None]
    exact = np.clip(unmix(rgb, stains) / scale, 0, 1)
    # float32 arithmetic may tip an exact half either way
    assert np.abs(decode_he(encode_he(rgb, stains)) - exact).max() <= 0.5 / 255 + 1e-6
    assert np.abs(encode_he_float16(rgb, stains).astype(np.float32) - exact).max() <= 5e-4


def test_no_changed_byte_of_a_header_is_read(tmp_path: Path) -> None:
    """Whatever a byte is changed to, a store says so or says what it said before."""
    store = make_store(tmp_path / "a.zarr", make_header(5))
    attributes, xy = dict(store.attributes), store.xy.tolist()
    rng = np.random.default_rng(1)
    silent = 0
    for header in sorted(store.path.rglob("zarr.json")):
        content = bytearray(header.read_bytes())
        for place in rng.integers(0, len(content), 12).tolist():
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            header.write_bytes(changed)
            try:
                found = PatchStore.open(store.path)
            except StoreError:
                continue
            finally:
                header.write_bytes(content)
            kept = {key: value for key, value in attributes.items() if key != "checksums"}
            silent += found.xy.tolist() != xy or not kept.items() <= found.attributes.items()
    assert silent == 0
