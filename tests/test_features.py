"""Features of patches: what an encoder says, read back as CLAM and TRIDENT read it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.stores import CONFIG, PATCH_PX, make_header, make_store
from wsi_pipeline.config import PredictConfig
from wsi_pipeline.errors import FeaturesError, ModelMismatchError, ModelOutputError
from wsi_pipeline.predict.features import extract_slide_features
from wsi_pipeline.predict.patches import extract_features
from wsi_pipeline.predict.trained import TrainedModel
from wsi_pipeline.results.attention import write_attention
from wsi_pipeline.results.export.attention import TileAttention
from wsi_pipeline.store.features import (
    SlideFeatures,
    describe_features,
    find_features,
    read_features,
    write_features,
)
from wsi_pipeline.types import ModelSpec

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

MEAN, STD = (0.25, 0.5), (0.5, 2.0)
CPU = PredictConfig(device="cpu", batch_size=3)


class Moments(nn.Module):
    """Means and maxima of each channel: four features that numpy can compute as well."""

    def forward(self, patches: Tensor) -> Tensor:
        flat = patches.flatten(2)
        return torch.cat([flat.mean(dim=2), flat.amax(dim=2)], dim=1)


def make_encoder(module: nn.Module | None = None) -> TrainedModel:
    spec = ModelSpec(
        name="moments", class_names=("a", "b"), class_colors=("#000000", "#ffffff"), mpp=0.5,
        patch_px=PATCH_PX, mean=MEAN, std=STD,
    )  # fmt: skip
    module = Moments() if module is None else module
    return TrainedModel(module=module, spec=spec, fingerprint="f" * 64, trained_on="nothing")


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
        about={"encoder": "abc", "name": slide_id},
        tiles={"patch_size": 256, "level_dim": [10, 20]},
    )


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    return make_store(tmp_path / "slide-1" / "patches.zarr", make_header(20))


@pytest.mark.parametrize("ending", ["h5", "zarr"])
def test_features_are_those_of_the_encoder_in_the_order_of_the_store(
    store: PatchStore, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"slide-1.{ending}"
    extract_slide_features(store, make_encoder(), CPU, path)
    found = read_features(path)
    np.testing.assert_allclose(found.features, expected_features(store), atol=1e-5)
    np.testing.assert_array_equal(found.xy, store.xy)
    assert found.about["encoder"] == "f" * 64
    assert found.about["config_hash"] == store.config_hash


def test_clam_and_trident_find_what_they_read(store: PatchStore, tmp_path: Path) -> None:
    path = extract_slide_features(store, make_encoder(), CPU, tmp_path / "slide-1.h5")
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
    path = extract_slide_features(store, make_encoder(), CPU, tmp_path / "slide-1.h5")
    first = path.stat().st_mtime_ns
    extract_slide_features(store, make_encoder(), CPU, path)
    assert path.stat().st_mtime_ns == first
    extract_slide_features(store, replace(make_encoder(), fingerprint="0" * 64), CPU, path)
    assert path.stat().st_mtime_ns != first
    assert describe_features(path).about["encoder"] == "0" * 64


def test_a_store_without_patches_gives_no_features(tmp_path: Path) -> None:
    empty = make_store(tmp_path / "patches.zarr", make_header(0))
    path = extract_slide_features(empty, make_encoder(), CPU, tmp_path / "slide-1.h5")
    assert read_features(path).features.shape == (0, 4)


def test_an_encoder_of_other_patches_or_without_numbers_is_refused(store: PatchStore) -> None:
    class Broken(nn.Module):
        def forward(self, patches: Tensor) -> Tensor:
            return patches.flatten(1)[:, :3] * float("nan")

    spec = make_encoder().spec
    with pytest.raises(ModelMismatchError, match="--mpp 1"):
        extract_features(store, Moments(), replace(spec, mpp=1.0), CPU)
    rgb = replace(spec, input="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(ModelMismatchError, match="--keep-rgb"):
        extract_features(store, Moments(), rgb, CPU)
    with pytest.raises(ModelOutputError, match="no numbers for 20 of 20"):
        extract_features(store, Broken(), spec, CPU)


def test_rgb_encoders_see_colours(tmp_path: Path) -> None:
    colours = make_store(
        tmp_path / "patches.zarr", make_header(6), CONFIG.model_copy(update={"keep_rgb": True})
    )
    spec = replace(make_encoder().spec, input="rgb", mean=(0.0,) * 3, std=(1.0,) * 3)
    found = extract_features(colours, Moments(), spec, CPU)
    rgb = colours.read_rgb(0, 6).astype(np.float64) / 255
    np.testing.assert_allclose(found[:, :3], rgb.mean(axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize("ending", ["h5", "zarr"])
@pytest.mark.parametrize("n", [0, 5])
def test_what_is_written_is_read_back(tmp_path: Path, ending: str, n: int) -> None:
    written = some_features(n)
    path = tmp_path / f"slide-1.{ending}"
    write_features(path, some_features(3))
    write_features(path, written)
    found = read_features(path)
    np.testing.assert_array_equal(found.features, written.features)
    np.testing.assert_array_equal(found.xy, written.xy)
    assert (found.about, found.tiles) == (written.about, written.tiles)
    assert describe_features(path) == (n, 7, written.about)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


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
    write_features(
        tmp_path / "nan.h5",
        replace(some_features(2), features=np.full((2, 1), np.nan, dtype=np.float32)),
    )
    with pytest.raises(FeaturesError, match="no numbers for 2 of 2"):
        read_features(tmp_path / "nan.h5")
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file.create_dataset("features", data=np.zeros((3, 2)))
        file.create_dataset("coords", data=np.zeros((2, 2)))
    with pytest.raises(FeaturesError, match="2 places for 3 patches"):
        read_features(tmp_path / "short.h5")


def test_folders_are_searched_as_clam_fills_them(tmp_path: Path) -> None:
    write_features(tmp_path / "b.h5", some_features())
    write_features(tmp_path / "h5_files" / "a.h5", some_features())
    write_features(tmp_path / "c.zarr", some_features())
    assert list(find_features([tmp_path])) == ["a", "b", "c"]
    write_features(tmp_path / "b.zarr", some_features())
    with pytest.raises(FeaturesError, match="both of slide b"):
        find_features([tmp_path])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeaturesError, match="wsi-pipeline features"):
        find_features([tmp_path / "empty"])


def attended(n: int, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).random((n, 1))
    return np.asarray(values / values.sum(), dtype=np.float32)


def test_attention_lands_on_its_tiles(store: PatchStore, tmp_path: Path) -> None:
    path = extract_slide_features(store, make_encoder(), CPU, tmp_path / "slide-1.h5")
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
