"""Tissue that a person has drawn: outlines and pictures of any size, and there and back again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from tests.stores import SLIDE
from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import AnnotationError
from wsi_pipeline.preprocess.drawn_tissue import fill_shapes, read_drawn_tissue
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.results.views import write_exports
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.types import Area, TissueMask

if TYPE_CHECKING:
    from tests.known import KnownSlide
    from wsi_pipeline.store import PatchStore


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_pixels_are_filled_whose_middle_lies_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    circles = [shapely.Point(*rng.uniform(0, 60, 2)).buffer(rng.uniform(3, 25)) for _ in range(3)]
    shapes = [circles[0].difference(circles[1].buffer(-2)), circles[2]]
    filled = fill_shapes([s for s in shapes if not s.is_empty], (15, 20), (3.0, 4.0))
    y, x = np.mgrid[:15, :20] + 0.5
    region = shapely.union_all(shapes)
    assert_array_equal(filled, shapely.contains_xy(region, x * 3, y * 4))


def test_no_shapes_fill_nothing() -> None:
    assert not fill_shapes([], (4, 5), (1.0, 1.0)).any()


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    return load_config(overrides={"tile": {"mpp": 1.0, "patch_size": 128}})


@pytest.fixture(scope="module")
def store(
    known_slide: KnownSlide, config: PipelineConfig, tmp_path_factory: pytest.TempPathFactory
) -> PatchStore:
    job = SlideJob(path=known_slide.path, slide_id="known")
    path = tmp_path_factory.mktemp("drawn") / "known" / "patches.zarr"
    return preprocess_slide(job, path, config).store


@pytest.mark.parametrize("kind", ["tissue", "tissue-png"])
def test_tissue_goes_out_and_comes_back_as_it_was(
    kind: str, store: PatchStore, known_slide: KnownSlide, config: PipelineConfig, tmp_path: Path
) -> None:
    (file,) = write_exports(SlideResult(records=store), tmp_path, None, [kind]).values()
    job = SlideJob(path=known_slide.path, slide_id="known", tissue_mask=file)

    again = preprocess_slide(job, tmp_path / "again.zarr", config).store

    assert_array_equal(again.mask.tissue, store.mask.tissue)
    assert_array_equal(again.xy, store.xy)
    assert again.config_hash != store.config_hash, "another mask, another store"


def test_what_is_painted_away_is_no_tissue(
    store: PatchStore, known_slide: KnownSlide, config: PipelineConfig, tmp_path: Path
) -> None:
    tissue = cv2.resize(store.mask.tissue.astype(np.uint8), (777, 777))
    tissue[:, :400] = 0
    cv2.imwrite(str(tmp_path / "known.png"), tissue * 255)
    (job,) = find_slides([str(known_slide.path)], tissue_mask=tmp_path)
    assert job.tissue_mask == tmp_path / "known.png"

    half = preprocess_slide(job, tmp_path / "half.zarr", config).store

    assert 0 < len(half) < len(store)
    assert half.xy[:, 0].min() > 2048 * 400 / 777 - 256


def grey(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.full(shape, 200, dtype=np.uint8)


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
@pytest.mark.parametrize("shape", [(8, 12), (80, 120), (83, 123, 3), (2000, 3000)])
def test_pictures_of_any_size_are_taken(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    pixels = grey(shape)
    pixels[:, shape[1] // 2 :] = 0
    cv2.imwrite(str(tmp_path / name), pixels)
    areas = np.full((16, 24), Area.PEN, dtype=np.uint8)
    areas[:, 20:] = Area.TISSUE
    mask = TissueMask(areas=areas, downsample=(5.0, 5.0))

    replaced = read_drawn_tissue(tmp_path / name, SLIDE).replace_in(mask)

    assert (replaced.areas[:, :12] == Area.TISSUE).all()
    assert (replaced.areas[:, 13:20] == Area.PEN).all(), "what else was found stays known"
    assert (replaced.areas[:, 20:] == Area.GLASS).all()


def test_pictures_of_something_else_are_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), grey((80, 80)))
    with pytest.raises(AnnotationError, match=r"m\.png has 80 x 80 px, but the slide 120 x 80"):
        read_drawn_tissue(tmp_path / "m.png", SLIDE)
    (tmp_path / "n.png").write_text("no picture")
    with pytest.raises(AnnotationError, match=r"n\.png cannot be read as a picture"):
        read_drawn_tissue(tmp_path / "n.png", SLIDE)
