"""One slide -> its patch store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import (
    MissingMppError,
    StainEstimationError,
    StoreExistsError,
    UnsupportedSlideError,
)
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.stain import encode_he, unmix
from wsi_pipeline.store import PatchStore, StoreWriter
from wsi_pipeline.types import StainVerdict

if TYPE_CHECKING:
    from tests.known import KnownSlide


def config(**tile: Any) -> PipelineConfig:
    small = {"chunk_patches": 2, "shard_patches": 8}
    return load_config(overrides={"tile": {"patch_size": 128, **tile}, "store": small})


def job(slide: KnownSlide) -> SlideJob:
    return SlideJob(path=slide.path, slide_id="known")


@pytest.fixture(scope="module")
def store(known_slide: KnownSlide, tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    path = tmp_path_factory.mktemp("store") / "patches.zarr"
    return preprocess_slide(job(known_slide), path, config(), workers=2).store


def test_patches_lie_on_tissue_and_tissue_is_covered(
    store: PatchStore, known_slide: KnownSlide
) -> None:
    truth = known_slide.truth
    covered = np.zeros_like(truth.mask)
    side = round(store.extent) // truth.downsample
    for x, y in store.xy // truth.downsample:
        covered[y : y + side, x : x + side] = True

    assert len(store) > 30
    assert truth.mask[covered].mean() > 0.85
    assert covered[truth.mask].mean() > 0.85


def test_a_patch_is_the_unmixed_tile(store: PatchStore, known_slide: KnownSlide) -> None:
    index = len(store) // 2
    x, y = (int(v) for v in store.xy[index])
    with open_slide(known_slide.path) as slide:
        rgb = slide.read_region((x, y), (128, 128), mpp=0.5)

    expected = unmix(rgb, store.stain.matrix)
    expected /= 2 * store.stain.matrix.max_concentration[:, None, None]
    stored = store.read_he(index, index + 1)[0] / 255

    assert np.abs(stored - expected.clip(0, 1)).max() < 1.01 / 255


def test_the_stain_matrix_is_recovered(store: PatchStore, known_slide: KnownSlide) -> None:
    cosines = (store.stain.matrix.vectors * known_slide.truth.stains.vectors).sum(axis=1)

    assert np.degrees(np.arccos(cosines)).max() < 3
    assert store.stain.verdict in (StainVerdict.OK, StainVerdict.FLAGGED)


def test_workers_and_shards_do_not_change_the_patches(
    store: PatchStore, known_slide: KnownSlide, tmp_path: Path
) -> None:
    other = config().model_copy(
        update={"store": config().store.model_copy(update={"shard_patches": 32})}
    )
    again = preprocess_slide(job(known_slide), tmp_path / "p.zarr", other, workers=1).store

    assert np.array_equal(again.read_he(0, len(again)), store.read_he(0, len(store)))
    assert np.array_equal(again.xy, store.xy)


def test_an_interrupted_run_goes_on_and_gives_the_same(
    store: PatchStore,
    known_slide: KnownSlide,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "p.zarr"
    written: list[int] = []
    write = StoreWriter.write_encoded

    def write_two_then_fail(writer: StoreWriter, index: int, *arrays: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(index)
        write(writer, index, *arrays)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_encoded", write_two_then_fail)
        with pytest.raises(KeyboardInterrupt):
            preprocess_slide(job(known_slide), path, config(), workers=1)
    assert not path.exists()

    resumed: list[int] = []

    def count(writer: StoreWriter, index: int, *arrays: Any) -> None:
        resumed.append(index)
        write(writer, index, *arrays)

    monkeypatch.setattr(StoreWriter, "write_encoded", count)
    again = preprocess_slide(job(known_slide), path, config(), workers=2).store

    assert set(written).isdisjoint(resumed)
    assert np.array_equal(again.read_he(0, len(again)), store.read_he(0, len(store)))


def test_the_same_recipe_is_reused_and_another_refused(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    path = tmp_path / "p.zarr"
    first = preprocess_slide(job(known_slide), path, config())
    kept = len(first.store)

    assert first.seconds
    assert not preprocess_slide(job(known_slide), path, config(), overwrite=True).seconds
    with pytest.raises(StoreExistsError, match="--overwrite"):
        preprocess_slide(job(known_slide), path, config(min_tissue=0.9))
    fewer = preprocess_slide(job(known_slide), path, config(min_tissue=0.9), overwrite=True)
    assert 0 < len(fewer.store) < kept


def test_rgb_and_half_precision_on_request(known_slide: KnownSlide, tmp_path: Path) -> None:
    kept = load_config(
        overrides={
            "tile": {"patch_size": 256},
            "store": {"keep_rgb": True, "he_values": "float16", "shard_patches": 16},
        }
    )
    store = preprocess_slide(job(known_slide), tmp_path / "p.zarr", kept).store

    rgb, he = store.read_rgb(0, 3), store.read_he(0, 3)

    assert he.dtype == np.float16
    for patch, planes in zip(rgb, he, strict=True):
        eight_bit = encode_he(patch, store.stain.matrix)
        assert np.abs(planes.astype(np.float32) - eight_bit / 255).max() < 0.6 / 255 + 5e-4


def test_polygons_bound_the_tiles(known_slide: KnownSlide, tmp_path: Path) -> None:
    ring = [[0, 0], [1024, 0], [1024, 2048], [0, 2048], [0, 0]]
    roi = tmp_path / "roi.geojson"
    roi.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    bounded = SlideJob(path=known_slide.path, slide_id="known", roi=roi)

    store = preprocess_slide(bounded, tmp_path / "p.zarr", config()).store

    assert len(store) > 0
    assert (store.xy[:, 0] + store.extent / 2 <= 1024).all()
    assert store.funnel()["outside_roi"] > 0


def test_unsharp_tiles_are_dropped_for_that_reason(known_slide: KnownSlide, tmp_path: Path) -> None:
    everything = preprocess_slide(
        job(known_slide), tmp_path / "all.zarr", config(min_sharpness=0.0)
    ).store
    nothing = preprocess_slide(
        job(known_slide), tmp_path / "none.zarr", config(min_sharpness=1e9)
    ).store

    assert len(nothing) == 0
    assert nothing.funnel()["blur"] == len(everything)


def test_a_slide_without_tissue_is_a_normal_result(tmp_path: Path) -> None:
    glass = np.full((700, 900, 3), 244, dtype=np.uint8)
    path = tmp_path / "glass.tif"
    tifffile.imwrite(path, glass, tile=(256, 256), resolution=(2e4, 2e4), resolutionunit=3)

    store = preprocess_slide(
        SlideJob(path=path, slide_id="glass"), tmp_path / "p.zarr", config()
    ).store

    assert len(store) == 0
    assert store.read_he(0, 0).shape == (0, 2, 128, 128)
    assert store.stain.verdict is StainVerdict.FALLBACK
    assert store.funnel() == {"kept": 0, "glass": 35}


def test_a_slide_smaller_than_a_tile_is_a_normal_result(tmp_path: Path) -> None:
    path = tmp_path / "tiny.tif"
    tifffile.imwrite(
        path, np.full((64, 64, 3), 200, np.uint8), resolution=(2e4, 2e4), resolutionunit=3
    )

    store = preprocess_slide(
        SlideJob(path=path, slide_id="tiny"), tmp_path / "p.zarr", config()
    ).store

    assert len(store) == 0


def test_fluorescence_and_missing_mpp_are_refused(tmp_path: Path) -> None:
    dark = np.random.default_rng(0).integers(0, 30, (600, 600, 3), dtype=np.uint8)
    path = tmp_path / "dark.tif"
    tifffile.imwrite(path, dark, tile=(256, 256), resolution=(2e4, 2e4), resolutionunit=3)
    with pytest.raises(UnsupportedSlideError, match="brightfield"):
        preprocess_slide(SlideJob(path=path, slide_id="dark"), tmp_path / "p.zarr", config())

    tifffile.imwrite(path, 255 - dark, tile=(256, 256))
    with pytest.raises(MissingMppError, match="--slide-mpp"):
        preprocess_slide(SlideJob(path=path, slide_id="dark"), tmp_path / "p.zarr", config())


def test_without_fallback_a_poor_slide_fails(known_slide: KnownSlide, tmp_path: Path) -> None:
    strict = load_config(overrides={"stain": {"allow_fallback": False, "min_pixels": 10_000_000}})
    with pytest.raises(StainEstimationError, match="fewer than 10000000"):
        preprocess_slide(job(known_slide), tmp_path / "p.zarr", strict)
