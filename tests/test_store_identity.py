"""Which options make two stores differ, and stores that were made before some options were."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import StoreExistsError
from wsi_pipeline.preprocess.given import recipe_of
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.store import PatchStore
from wsi_pipeline.store.identity import decisive, differences, recipe_hash

MADE_BEFORE = Path(__file__).parent / "fixtures" / "store_schema_1.zip"
"""A slide of 128 px and its store, made when the hash was of every option with its value."""

OPTIONS: dict[str, dict[str, Any]] = {
    "read": {"slide_mpp": 0.5},
    "tile": {"patch_size": 32},
    "tissue": {"min_tissue_um2": 100.0},
}


def recipe(**stages: dict[str, Any]) -> dict[str, Any]:
    return load_config(None, stages).preprocessing()


def test_defaults_and_layout_decide_nothing() -> None:
    assert decisive(PipelineConfig().preprocessing()) == {}
    assert decisive(recipe(store={"shard_patches": 64})) == {}
    assert recipe_hash({}) == recipe_hash(recipe(store={"shard_patches": 64}))


def test_the_order_of_options_decides_nothing() -> None:
    stages = recipe(tile={"mpp": 1.0}, stain={"seed": 3})

    assert recipe_hash(stages) == recipe_hash(dict(reversed(stages.items())))


def test_each_option_that_decides_gives_a_hash_of_its_own() -> None:
    recipes = [
        recipe(),
        recipe(tile={"mpp": 1.0}),
        recipe(tile={"mpp": 1.0, "stride": 128}),
        recipe(store={"keep_rgb": True}),
        recipe(label={"classes": {"tumor": ["Tumor"]}}),
        {**recipe(), "roi": "0123456789"},
    ]

    assert len({recipe_hash(one) for one in recipes}) == len(recipes)


def test_an_option_that_an_older_store_does_not_know_has_its_default() -> None:
    older = recipe()
    del older["tile"]["max_pen"]

    assert recipe_hash(older) == recipe_hash(recipe())
    assert differences(older, recipe(tile={"max_pen": 0.5})) == ("max_pen 0.02 there, 0.5 wanted",)


def test_differences_name_options_and_values() -> None:
    there = {**recipe(tile={"min_tissue": 0.3}), "roi": "0123456789abcdef", "group": "a"}
    wanted = {**recipe(store={"keep_rgb": True}), "roi": None, "group": "a"}

    assert differences(there, wanted) == (
        "roi a file of content 01234567 there, none wanted",
        "keep_rgb False there, True wanted",
        "min_tissue 0.3 there, 0.5 wanted",
    )
    assert differences(there, there) == ()


def test_a_store_made_before_is_the_one_asked_for(tmp_path: Path) -> None:
    with zipfile.ZipFile(MADE_BEFORE) as made:
        made.extractall(tmp_path)
    job = SlideJob(path=tmp_path / "slide.png", slide_id="slide")
    config = load_config(None, OPTIONS)

    reused = preprocess_slide(job, tmp_path / "patches.zarr", config)
    anew = preprocess_slide(job, tmp_path / "again.zarr", config).store

    assert reused.seconds == {}, "it was made again"
    assert reused.store.attributes["config_hash"] != reused.store.config_hash
    assert recipe_hash(recipe_of(job, config)) == reused.store.config_hash
    assert np.array_equal(reused.store.read_he(0, 16), anew.read_he(0, 16))


def test_a_store_made_before_with_other_options_is_refused_by_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(MADE_BEFORE) as made:
        made.extractall(tmp_path)
    job = SlideJob(path=tmp_path / "slide.png", slide_id="slide")
    path = tmp_path / "patches.zarr"

    with pytest.raises(StoreExistsError, match=r"patch_size 32 there, 64 wanted\. Pass --overwri"):
        preprocess_slide(job, path, load_config(None, {**OPTIONS, "tile": {"patch_size": 64}}))
    assert len(PatchStore.open(path)) == 16
