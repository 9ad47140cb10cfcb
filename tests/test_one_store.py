"""Patch stores and a model -> predictions and what people look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from tests.runs import bluer
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelMismatchError, StoreNotFoundError
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.results.class_map import ClassRule
from wsi_pipeline.results.finished import Finished
from wsi_pipeline.results.views import draw_heatmap
from wsi_pipeline.run.one_store import Predicted, predict_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.store.find import find_stores

if TYPE_CHECKING:
    from tests.known import KnownSlide
    from wsi_pipeline.store import PatchStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, known_slide: KnownSlide) -> PatchStore:
    path = tmp_path_factory.mktemp("pipeline") / "known" / "patches.zarr"
    job = SlideJob(path=known_slide.path, slide_id="known")
    return preprocess_slide(job, path, load_config()).store


@pytest.fixture(scope="module")
def predicted(store: PatchStore) -> Predicted:
    return predict_slide(store, bluer(), load_config().predict)


def test_predictions_follow_from_the_patches(store: PatchStore, predicted: Predicted) -> None:
    table = pq.read_table(predicted.files["predictions"]).to_pydict()
    he = store.read_he(0, len(store)).astype(np.float64).mean(axis=(2, 3)) / 255 * 10
    expected = np.exp(he) / np.exp(he).sum(axis=1, keepdims=True)

    assert np.allclose(table["prob_blue"], expected[:, 0], atol=1e-5)
    assert np.allclose(table["prob_pink"], expected[:, 1], atol=1e-5)
    assert table["label"] == [("blue", "pink")[k] for k in expected.argmax(axis=1)]
    assert np.array_equal(np.stack([table["x"], table["y"]], axis=1), store.xy)


def test_tiles_in_geojson_lie_where_the_patches_are(
    store: PatchStore, predicted: Predicted
) -> None:
    features = json.loads(predicted.files["geojson"].read_text())["features"]
    boxes = {tuple(int(v) for v in shapely.geometry.shape(f["geometry"]).bounds) for f in features}

    assert {(x, y, x + 256, y + 256) for x, y in store.xy.tolist()} <= boxes


def test_a_model_of_another_resolution_is_refused(store: PatchStore) -> None:
    with pytest.raises(ModelMismatchError, match="mpp"):
        predict_slide(store, bluer(mpp=1.0), load_config().predict)


def test_one_class_can_be_drawn_and_an_unknown_one_is_named(
    store: PatchStore, predicted: Predicted, tmp_path: Path
) -> None:
    table = predicted.files["predictions"]
    result = Finished(folder=store.path.parent, predictions=table).open(ClassRule())
    drawn = tmp_path / "pink.png"
    draw_heatmap(result, drawn, class_name="pink")

    assert drawn.stat().st_size > 10_000
    with pytest.raises(ConfigError, match=r"'green'.*blue, pink"):
        draw_heatmap(result, drawn, class_name="green")


def test_stores_are_found_by_their_folder(store: PatchStore, tmp_path: Path) -> None:
    assert [found.path for found in find_stores([store.path.parents[1]])] == [store.path]
    with pytest.raises(StoreNotFoundError, match="wsi-pipeline preprocess"):
        find_stores([tmp_path])
