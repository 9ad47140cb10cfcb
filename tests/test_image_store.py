"""Labelled images become a patch store: pixels, labels, groups, stains of each slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.labelled import STAINS, paint, write_image, write_images
from wsi_pipeline.config import HeValues, PipelineConfig, StainConfig, StoreConfig
from wsi_pipeline.errors import IngestError, StoreExistsError
from wsi_pipeline.preprocess.group_stains import StainScope
from wsi_pipeline.preprocess.image_store import Fit, IngestOptions, ingest_images
from wsi_pipeline.preprocess.labelled_images import TableColumns, decode_image, find_images
from wsi_pipeline.stain import encode_he
from wsi_pipeline.store import PatchStore
from wsi_pipeline.types import StainVerdict

CONFIG = PipelineConfig(
    stain=StainConfig(min_pixels=500), store=StoreConfig(chunk_patches=4, shard_patches=8)
)


def ingest(folder: Path, out: Path, **changes: Any) -> PatchStore:
    config = changes.pop("config", CONFIG)
    overwrite = changes.pop("overwrite", False)
    options = IngestOptions(**{"mpp": 2.0, **changes})
    images = find_images(folder, TableColumns(group="slide"))
    return ingest_images(images, out, options, config, overwrite=overwrite)


def angle_deg(one: Any, other: Any) -> float:
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    return float(np.degrees(np.arccos(np.clip(one @ other, -1, 1))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "tiles")
    return tmp_path / "tiles"


def test_pixels_labels_and_groups_are_those_of_the_images(folder: Path, tmp_path: Path) -> None:
    store = ingest(folder, tmp_path / "tiles.zarr")
    store.verify()
    images = find_images(folder, TableColumns(group="slide"))
    rgb, he = store.read_rgb(0, 20), store.read_he(0, 20)
    for index, image in enumerate(images):
        pixels = decode_image(image, image.file.read_bytes())
        assert np.array_equal(rgb[index], pixels)
        assert np.array_equal(he[index], encode_he(pixels, store.patch_stains[index].matrix))
    assert store.label_names == ("gland", "stroma")
    assert [store.label_names[code] for code in store.label] == [i.label for i in images]
    assert store.group == tuple(image.group for image in images)
    assert (store.mpp, store.patch_px) == (2.0, 64)


def test_each_slide_has_its_own_stains(folder: Path, tmp_path: Path) -> None:
    store = ingest(folder, tmp_path / "tiles.zarr")
    for slide, truth in STAINS.items():
        matrices = {
            id(stain): stain.matrix
            for stain, group in zip(store.patch_stains, store.group, strict=True)
            if group == slide
        }
        (matrix,) = matrices.values()
        for row in range(2):
            assert angle_deg(matrix.vectors[row], truth[row]) < 5
    again = PatchStore.open(store.path)
    assert again.patch_stains[0].matrix.to_dict() == store.patch_stains[0].matrix.to_dict()


def test_small_groups_share_the_pooled_matrix(folder: Path, tmp_path: Path) -> None:
    small = ingest(folder, tmp_path / "small.zarr", min_group_images=11)
    pooled = ingest(folder, tmp_path / "pooled.zarr", stain=StainScope.POOLED)
    for store in (small, pooled):
        assert set(map(id, store.patch_stains)) == {id(store.stain)}
    assert small.stain.matrix.to_dict() == pooled.stain.matrix.to_dict()


def test_a_white_frame_does_not_touch_the_stains(folder: Path, tmp_path: Path) -> None:
    plain = ingest(folder, tmp_path / "plain.zarr")
    for path in folder.rglob("*.png"):
        slide, number = path.stem.split("_")
        code = list(STAINS).index(slide)
        richness = 0.65 if path.parent.name == "gland" else 0.4
        framed = np.full((128, 128, 3), 255, dtype=np.uint8)
        framed[32:96, 32:96] = paint(STAINS[slide], richness, 100 * code + int(number), 64)
        write_image(path, framed)
    framed_store = ingest(folder, tmp_path / "framed.zarr")
    for index in (0, 19):
        one, other = (s.patch_stains[index].matrix for s in (plain, framed_store))
        assert np.allclose(one.vectors, other.vectors, atol=0.01)
        assert np.allclose(one.max_concentration, other.max_concentration, rtol=0.03)
    assert plain.tissue_fraction.mean() > 3.5 * framed_store.tissue_fraction.mean()


def test_patches_are_laid_out_as_a_contact_sheet(folder: Path, tmp_path: Path) -> None:
    store = ingest(folder, tmp_path / "tiles.zarr")
    assert store.grid_shape == (4, 5)
    assert store.rc.tolist() == [list(divmod(index, 5)) for index in range(20)]
    assert store.slide.size_wh == (5 * 64, 4 * 64)
    height, width, _ = store.thumbnail.shape
    cell = width // 5
    row, col = store.rc[7]
    shown = store.thumbnail[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell]
    assert np.abs(shown.mean((0, 1)) - store.read_rgb(7, 8)[0].mean((0, 1))).max() < 2
    assert height == 4 * cell


@pytest.mark.parametrize(("fit", "patch_px", "mpp"), [(Fit.CROP, 48, 2.0), (Fit.RESIZE, 32, 4.0)])
def test_other_sizes(folder: Path, tmp_path: Path, fit: Fit, patch_px: int, mpp: float) -> None:
    store = ingest(folder, tmp_path / "tiles.zarr", fit=fit, patch_px=patch_px)
    assert store.patch_px == patch_px
    assert store.mpp == mpp
    whole = ingest(folder, tmp_path / "whole.zarr").read_rgb(3, 4)[0].astype(float)
    if fit is Fit.CROP:
        assert np.array_equal(store.read_rgb(3, 4)[0], whole[8:56, 8:56])
    else:
        halved = whole.reshape(32, 2, 32, 2, 3).mean((1, 3))
        assert np.abs(store.read_rgb(3, 4)[0] - halved).max() <= 1


def test_sizes_that_do_not_fit_are_named(folder: Path, tmp_path: Path) -> None:
    write_image(folder / "gland" / "slide-b_0.png", np.full((50, 70, 3), 200, dtype=np.uint8))
    for fit, match in (
        (Fit.EXACT, "slide-b_0.png has 70 x 50 px, the patches have 64 x 64"),
        (Fit.CROP, "no patch of 64 px fits"),
        (Fit.RESIZE, "would differ in resolution"),
    ):
        with pytest.raises(IngestError, match=match):
            ingest(folder, tmp_path / "tiles.zarr", fit=fit)


def test_the_same_store_is_not_made_twice_and_another_not_replaced(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiles.zarr"
    ingest(folder, path)
    written = (path / "zarr.json").stat().st_mtime_ns
    ingest(folder, path)
    assert (path / "zarr.json").stat().st_mtime_ns == written
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("9.png,stroma", "9.png,gland"))
    with pytest.raises(StoreExistsError):
        ingest(folder, path)
    assert ingest(folder, path, overwrite=True).label.sum() == 8


def test_half_precision_and_the_fixed_matrix(folder: Path, tmp_path: Path) -> None:
    config = PipelineConfig(
        stain=StainConfig(adaptive=False),
        store=StoreConfig(he_values=HeValues.FLOAT16),
    )
    store = ingest(folder, tmp_path / "tiles.zarr", config=config)
    assert store.read_he(0, 1).dtype == np.float16
    assert store.stain.verdict is StainVerdict.FALLBACK
    assert set(map(id, store.patch_stains)) == {id(store.stain)}


@pytest.mark.data
def test_prostate_tiles_have_the_stains_of_their_slides(data_dir: Path, tmp_path: Path) -> None:
    images = find_images(
        data_dir / "patches" / "tcga_prostate_benign_cancer_256.zip", TableColumns(group="slide")
    )
    store = ingest_images(
        images, tmp_path / "prostate.zarr", IngestOptions(mpp=1.0), PipelineConfig()
    )
    assert len(store) == 200
    assert len(set(store.group)) == 8
    assert len(set(map(id, store.patch_stains))) == 8  # one slide has but 4 tiles: pooled
    assert store.stain.verdict is StainVerdict.OK
