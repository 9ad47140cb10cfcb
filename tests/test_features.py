"""Features of patches: what an encoder says, read back as CLAM and TRIDENT read it."""

from __future__ import annotations

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.passports import some_passport
from tests.stores import CONFIG, PATCH_PX, make_header, make_store
from wsi_pipeline.config import PipelineConfig, Precision, PredictConfig
from wsi_pipeline.errors import FeaturesError, ModelMismatchError, ModelOutputError
from wsi_pipeline.predict.encode import encode_store
from wsi_pipeline.predict.features import EncodeOptions
from wsi_pipeline.predict.trained import TrainedEncoder
from wsi_pipeline.results.attention import paint_attention, write_attention
from wsi_pipeline.results.export.attention import TileAttention, read_attention_table
from wsi_pipeline.results.export.features import Layout, feature_file, write_features
from wsi_pipeline.run.one_features import FeatureOptions, write_store_features
from wsi_pipeline.store.features import (
    SlideFeatures,
    describe_features,
    find_features,
    read_features,
)
from wsi_pipeline.store.features_apart import ReaderApart
from wsi_pipeline.store.passport import Passport
from wsi_pipeline.types import EncoderSpec, TileReason

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

MEAN, STD = (0.25, 0.5), (0.5, 2.0)
CPU = PredictConfig(device="cpu", batch_size=3)


class Moments(nn.Module):
    """Means and maxima of each channel: four features that numpy can compute as well."""

    def forward(self, patches: Tensor) -> Tensor:
        flat = patches.flatten(2)
        return torch.cat([flat.mean(dim=2), flat.amax(dim=2)], dim=1)


def make_encoder(module: nn.Module | None = None, **changes: Any) -> TrainedEncoder:
    spec = EncoderSpec(
        name="moments", mpp=0.5, patch_px=PATCH_PX, mean=MEAN, std=STD, features=4
    )  # fmt: skip
    return TrainedEncoder(
        module=Moments() if module is None else module,
        spec=replace(spec, **changes),
        fingerprint="f" * 64,
        trained_on="nothing",
        origin={"weights_digest": "d" * 64},
    )


def options_for(out: Path, encoder: TrainedEncoder | None = None, **changes: Any) -> FeatureOptions:
    encode = EncodeOptions(encoder=encoder or make_encoder())
    config = PipelineConfig(predict=CPU)
    return replace(FeatureOptions(out=out, encode=encode, config=config), **changes)


def expected_features(store: PatchStore) -> NDArray[np.float64]:
    he = store.read_he(0, len(store)) / 255
    values = (he - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    flat = values.reshape(len(store), 2, -1)
    return np.concatenate([flat.mean(axis=2), flat.max(axis=2)], axis=1)


def some_features(n: int = 5, slide_id: str = "slide-1") -> SlideFeatures:
    rng = np.random.default_rng(n)
    return SlideFeatures(
        slide_id=slide_id,
        features=rng.normal(size=(n, 7)).astype(np.float32),
        xy=rng.integers(0, 1000, (n, 2)),
        passport=some_passport(slide={"id": slide_id, "mpp": 0.25, "fingerprint": "abc"}),
        tiles={"patch_size": 256, "patch_size_level0": 512, "level_dim": [10, 20]},
    )


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    return make_store(tmp_path / "slide-1" / "patches.zarr", make_header(20))


@pytest.mark.parametrize("layout", Layout)
def test_features_are_those_of_the_encoder_in_the_order_of_the_store(
    store: PatchStore, tmp_path: Path, layout: Layout
) -> None:
    path = write_store_features(store, options_for(tmp_path, layout=layout))
    found = read_features(path)
    np.testing.assert_allclose(found.features, expected_features(store), atol=1e-5)
    np.testing.assert_array_equal(found.xy, store.xy)
    assert found.passport is not None
    assert found.encoder == found.passport.identity == "f" * 64
    assert found.passport.options == store.config_hash
    assert found.passport.slide["fingerprint"] == store.fingerprint
    assert (found.passport.mpp, found.passport.mpp_read) == (0.5, store.mpp)
    assert find_features([tmp_path]) == {"slide-1": path}


def test_clam_and_trident_find_what_they_read(store: PatchStore, tmp_path: Path) -> None:
    path = write_store_features(store, options_for(tmp_path))
    with h5py.File(path, "r") as file:
        features, coords = file["features"][:], file["coords"][:]
        attributes = dict(file["coords"].attrs)
        assert file["features"].attrs["name"] == "slide-1"
    assert features.dtype == np.float32
    assert features.shape == (20, 4)
    assert coords.dtype == np.int64
    # the size that TRIDENT gives encoders of slides, and the magnifications it insists on
    assert attributes["patch_size_level0"] == round(store.extent) == 8
    assert (attributes["level0_magnification"], attributes["target_magnification"]) == (20, 20)
    assert (attributes["patch_size"], attributes["overlap"]) == (PATCH_PX, 0)
    assert (attributes["level0_width"], attributes["level0_height"]) == store.slide.size_wh
    assert attributes["name"] == "slide-1"
    # what CLAM keeps beside its places
    assert attributes["patch_level"] == 0
    assert attributes["downsample"] == 1.0


def test_features_are_kept_unless_patches_or_encoder_changed(
    store: PatchStore, tmp_path: Path
) -> None:
    path = write_store_features(store, options_for(tmp_path))
    first = path.stat().st_mtime_ns
    write_store_features(store, options_for(tmp_path))
    assert path.stat().st_mtime_ns == first
    other = replace(make_encoder(), fingerprint="0" * 64)
    write_store_features(store, options_for(tmp_path, other))
    assert path.stat().st_mtime_ns != first
    assert describe_features(path).encoder == "0" * 64
    second = path.stat().st_mtime_ns
    half = PipelineConfig(predict=CPU.model_copy(update={"precision": Precision.FLOAT16}))
    write_store_features(store, options_for(tmp_path, other, config=half))
    assert path.stat().st_mtime_ns != second
    path.write_bytes(path.read_bytes()[:100])
    write_store_features(store, options_for(tmp_path))
    assert read_features(path).encoder == "f" * 64


def test_a_store_without_patches_gives_no_features(tmp_path: Path) -> None:
    empty = make_store(tmp_path / "patches.zarr", make_header(0))
    path = write_store_features(empty, options_for(tmp_path))
    assert read_features(path).features.shape == (0, 4)


def test_an_encoder_of_other_patches_or_without_numbers_is_refused(store: PatchStore) -> None:
    class Broken(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            return patches.flatten(1)[:, :3] * float("nan")

    with pytest.raises(ModelMismatchError, match="--mpp 1"):
        encode_store(store, make_encoder(mpp=1.0), CPU)
    colours: dict[str, Any] = {"input": "rgb", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    with pytest.raises(ModelMismatchError, match="--keep-rgb"):
        encode_store(store, make_encoder(**colours), CPU)
    with pytest.raises(ModelOutputError, match="no numbers for 20 of 20"):
        encode_store(store, make_encoder(Broken(), features=3), CPU)
    with pytest.raises(ModelMismatchError, match="and 9 features"):
        encode_store(store, make_encoder(features=9), CPU)
    stains = store.stain.matrix
    with pytest.raises(ModelMismatchError, match="leave --normalise out"):
        encode_store(store, make_encoder(), CPU, restaining=(stains, stains))


def test_rgb_encoders_see_colours(tmp_path: Path) -> None:
    colours = make_store(
        tmp_path / "patches.zarr", make_header(6), CONFIG.model_copy(update={"keep_rgb": True})
    )
    encoder = make_encoder(input="rgb", mean=(0.0,) * 3, std=(1.0,) * 3, features=6)
    found = encode_store(colours, encoder, CPU)
    rgb = colours.read_rgb(0, 6).astype(np.float64) / 255
    np.testing.assert_allclose(found[:, :3], rgb.mean(axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("n", [0, 5])
def test_what_is_written_is_read_back(tmp_path: Path, layout: Layout, n: int) -> None:
    written = some_features(n)
    write_features(tmp_path, some_features(3), layout)
    path = write_features(tmp_path, written, layout)
    found = read_features(path)
    assert path == feature_file(tmp_path, "slide-1", layout)
    np.testing.assert_array_equal(found.features, written.features)
    np.testing.assert_array_equal(found.xy, written.xy)
    assert found.passport == written.passport
    assert describe_features(path) == (n, 7, written.passport)
    if layout in (Layout.H5, Layout.CLAM, Layout.ZARR):
        assert found.tiles == {**written.tiles, "savetodir": str(path.parent)}
    left = {item.name for item in path.parent.iterdir()}
    assert left == {path.name}


def test_clam_finds_its_two_folders(tmp_path: Path) -> None:
    """The rules are those of CLAM's ``Generic_MIL_Dataset``, with and without ``use_h5``."""
    write_features(tmp_path, some_features(), Layout.CLAM)
    tensor = torch.load(tmp_path / "pt_files" / "slide-1.pt", weights_only=True)
    with h5py.File(tmp_path / "h5_files" / "slide-1.h5", "r") as file:
        features, coords = file["features"][:], file["coords"][:]
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), features)
    np.testing.assert_array_equal(coords, some_features().xy)


def test_stamp_finds_what_it_reads(tmp_path: Path) -> None:
    """The rules are those of STAMP's ``BagDataset`` and ``get_coords``."""
    path = write_features(tmp_path, some_features(), Layout.STAMP)
    with h5py.File(path, "r") as file:
        feats, coords, about = file["feats"][:], file["coords"][:], dict(file.attrs)
    np.testing.assert_array_equal(feats, some_features().features)
    assert (about["unit"], about["feat_type"]) == ("um", "tile")
    assert about["tile_size_um"] == pytest.approx(256 * 0.5)
    assert int(about["tile_size_px"]) == 256
    assert tuple(map(int, about["stamp_version"].split("."))) <= (2, 1, 0)
    xy = some_features().xy
    assert xy is not None
    np.testing.assert_allclose(coords, xy * 0.25)


def test_anndata_reads_the_file(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    written = some_features()
    path = write_features(tmp_path, written, Layout.ANNDATA)
    found = anndata.read_h5ad(path)
    np.testing.assert_array_equal(found.X, written.features)
    assert written.xy is not None
    np.testing.assert_array_equal(found.obs[["x", "y"]].to_numpy(), written.xy)
    np.testing.assert_allclose(found.obsm["spatial"], written.xy + 256)
    np.testing.assert_allclose(found.obsm["spatial_um"], (written.xy + 256) * 0.25)
    assert list(found.var_names[:2]) == ["feature_0", "feature_1"]
    assert found.obs_names.is_unique
    assert Passport.from_json(found.uns["wsi_pipeline_passport"]) == written.passport


def test_features_without_places_or_passport_are_not_written(tmp_path: Path) -> None:
    for lacking in (replace(some_features(), xy=None), replace(some_features(), passport=None)):
        with pytest.raises(ValueError, match="with their places and their passport"):
            write_features(tmp_path, lacking)


def test_other_programs_files_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values, coords = rng.normal(size=(4, 3)), rng.integers(0, 99, (4, 2)).astype(np.int32)
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file.create_dataset("features", data=values.astype(np.float32), chunks=(1, 3))
        file.create_dataset("coords", data=coords)
    with h5py.File(tmp_path / "trident.h5", "w") as file:
        file.create_dataset("features", data=values[None].astype(np.float16))
        file.create_dataset("coords", data=coords[None])
    with h5py.File(tmp_path / "stamp.h5", "w") as file:
        file.create_dataset("feats", data=values)
    for name, tolerance in (("clam", 1e-6), ("trident", 1e-2), ("stamp", 1e-6)):
        found = read_features(tmp_path / f"{name}.h5")
        assert found.features.dtype == np.float32
        np.testing.assert_allclose(found.features, values, atol=tolerance)
        assert describe_features(tmp_path / f"{name}.h5")[:2] == (4, 3)
        if name != "stamp":
            np.testing.assert_array_equal(found.xy, coords)
        else:
            assert found.xy is None


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "patches", "placed"), [("3X-AAVA", 180, False), ("AD-6964", 777, True)]
)
def test_features_of_tcga_slides_are_read(
    data_dir: Path, name: str, patches: int, placed: bool
) -> None:
    slide_id = f"mopadi_TCGA-{name}-01Z-00-DX1_features"
    path = data_dir / "mil" / f"{slide_id}.h5"
    found = read_features(path)
    assert found.slide_id == slide_id
    assert found.features.shape == (patches, 512)
    assert (found.xy is not None) == placed
    assert find_features([path]) == {slide_id: path}


def test_what_is_no_file_of_features_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("nothing")
    with pytest.raises(FeaturesError, match="cannot be read as features"):
        read_features(tmp_path / "text.h5")
    with pytest.raises(FeaturesError, match="give an existing"):
        read_features(tmp_path / "weights.pt")
    with h5py.File(tmp_path / "coords.h5", "w") as file:
        file.create_dataset("coords", data=np.zeros((2, 2)))
    with pytest.raises(FeaturesError, match="only coords"):
        describe_features(tmp_path / "coords.h5")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file.create_dataset("features", data=np.zeros(3))
    with pytest.raises(FeaturesError, match=r"must be \(N, F\)"):
        read_features(tmp_path / "flat.h5")
    wrong = np.full((2, 1), np.nan, dtype=np.float32)
    write_features(tmp_path, replace(some_features(2, "nan"), features=wrong))
    with pytest.raises(FeaturesError, match="no numbers for 2 of 2"):
        read_features(tmp_path / "nan.h5")
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file.create_dataset("features", data=np.zeros((3, 2)))
        file.create_dataset("coords", data=np.zeros((2, 2)))
    with pytest.raises(FeaturesError, match="2 places for 3 patches"):
        read_features(tmp_path / "short.h5")


def test_folders_are_searched_as_clam_fills_them(tmp_path: Path) -> None:
    write_features(tmp_path, some_features(slide_id="b"))
    write_features(tmp_path, some_features(slide_id="a"), Layout.CLAM)
    write_features(tmp_path, some_features(slide_id="c"), Layout.ZARR)
    write_features(tmp_path, some_features(slide_id="d"), Layout.ANNDATA)
    assert list(find_features([tmp_path])) == ["a", "b", "c", "d"]
    write_features(tmp_path, some_features(slide_id="b"), Layout.ZARR)
    with pytest.raises(FeaturesError, match="both of slide b"):
        find_features([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeaturesError, match="wsi-pipeline features"):
        find_features([tmp_path / "empty"])


def attended(n: int, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).random((n, 1))
    return np.asarray(values / values.sum(), dtype=np.float32)


def test_attention_lands_on_its_tiles(store: PatchStore, tmp_path: Path) -> None:
    path = write_store_features(store, options_for(tmp_path))
    values = attended(20)
    files = write_attention(store, read_features(path), values, ["attention"], tmp_path / "out")
    table = pq.read_table(files["table"])
    np.testing.assert_array_equal(table["attention"].to_numpy(), values[:, 0])
    assert table["attention"].to_numpy().sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(table["x"].to_numpy(), store.xy[:, 0])
    tiles = json.loads(files["geojson"].read_text())["features"]
    most = int(values.argmax())
    corner = tiles[most]["geometry"]["coordinates"][0][0]
    assert corner == store.xy[most].tolist()
    assert tiles[most]["properties"]["measurements"] == {
        "attention": pytest.approx(float(values[most, 0]), abs=1e-8),
        "attention percentile": pytest.approx(19.5 / 20),
    }
    assert files["attention"].stat().st_size > 1000


def test_attention_off_the_lattice_lands_on_its_tiles(tmp_path: Path) -> None:
    header = make_header(3)
    corners = np.array([[[10, 20], [13, 23], [90, 7]]])  # the first two overlap
    grid = replace(
        header.grid,
        reasons=np.full((1, 3), TileReason.KEPT, dtype=np.uint8),
        tissue_fraction=np.ones((1, 3), dtype=np.float32),
        corners=corners,
    )
    store = make_store(tmp_path / "p.zarr", replace(header, grid=grid))
    values = np.array([[0.2], [0.3], [0.5]], dtype=np.float32)
    of_tiles = replace(some_features(3), xy=store.xy)

    files = write_attention(store, of_tiles, values, ["attention"], tmp_path / "out")

    read = read_attention_table(files["table"])
    assert not read.lattice
    tiles = json.loads(files["geojson"].read_text())["features"]
    assert [t["geometry"]["coordinates"][0][0] for t in tiles] == store.xy.tolist()
    raster, cell_px = paint_attention(read)
    for row, col in np.ndindex(raster.shape[:2]):
        x, y = (col + 0.5) * cell_px, (row + 0.5) * cell_px
        inside = ((store.xy <= (x, y)) & ((x, y) < store.xy + store.extent)).all(axis=1)
        expected = read.percentile[inside].mean() if inside.any() else np.nan
        np.testing.assert_allclose(raster[row, col, 0], expected)


def test_attention_of_other_patches_is_refused(store: PatchStore, tmp_path: Path) -> None:
    other = replace(some_features(20), xy=store.xy + 1)
    with pytest.raises(FeaturesError, match="are not those of the 20 patches"):
        write_attention(store, other, attended(20), ["attention"], tmp_path)


def test_percentiles_count_equal_tiles_half() -> None:
    values = np.array([[0.1], [0.4], [0.1], [0.4]], dtype=np.float32)
    tiles = TileAttention(
        values=values, names=("attention",), xy=np.zeros((4, 2), dtype=np.int64),
        rc=np.zeros((4, 2), dtype=np.int32), shape=(1, 1), extent=1.0, pitch=1.0,
    )  # fmt: skip
    assert tiles.percentile[:, 0].tolist() == [0.25, 0.75, 0.25, 0.75]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Zarr, at names that it does not know
@pytest.mark.parametrize("layout", [Layout.H5, Layout.STAMP, Layout.ZARR])
def test_no_changed_bit_is_read(tmp_path: Path, layout: Layout) -> None:
    written = some_features(5)
    path = write_features(tmp_path, written, layout)
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    draws = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        file = files[int(draws.integers(len(files)))]
        whole = file.read_bytes()
        changed = bytearray(whole)
        changed[int(draws.integers(len(changed)))] ^= 1 << int(draws.integers(8))
        file.write_bytes(changed)
        try:
            found = read_features(path)
        except FeaturesError:
            refused += 1
        else:
            np.testing.assert_array_equal(found.features, written.features)
            assert found.xy is not None
            np.testing.assert_array_equal(found.xy, written.xy)
        file.write_bytes(whole)
    assert refused > 20


def test_a_library_that_dies_of_a_file_costs_that_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.arange(12, dtype=np.float16).reshape(1, 4, 3)
        file["coords"] = np.arange(8).reshape(4, 2)
    reader = ReaderApart()

    values = reader.read(path, whole=True).values
    assert reader.pid is not None
    os.kill(reader.pid, signal.SIGSEGV)
    with pytest.raises(FeaturesError, match=r"other\.h5 is damaged: the library"):
        reader.read(path, whole=True)

    np.testing.assert_array_equal(values, np.arange(12).reshape(4, 3))
    assert reader.read(path, whole=False).shape == (4, 3)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(FeaturesError, match="cannot be read as features"):
        reader.read(path, whole=True)
    reader.close()


def test_a_full_disk_is_said_in_words_and_leaves_no_file(tmp_path: Path) -> None:
    slide = SlideFeatures(
        slide_id="s",
        features=np.zeros((500, 64), dtype=np.float32),
        xy=np.zeros((500, 2), dtype=np.int64),
        passport=some_passport(features=64),
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises((FeaturesError, OSError), match="too large"):
            write_features(tmp_path, slide, Layout.H5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
