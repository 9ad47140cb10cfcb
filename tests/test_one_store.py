"""Patch stores and a model -> predictions and what people look at."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from tests.runs import BadIsDeadlyPath, Bluer, bluer
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelMismatchError, StoreNotFoundError
from wsi_pipeline.predict.trained import TrainedEncoder
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.results.class_map import ClassRule
from wsi_pipeline.results.finished import Finished
from wsi_pipeline.results.views import draw_heatmap
from wsi_pipeline.run.features import run_features
from wsi_pipeline.run.folder import RunOptions
from wsi_pipeline.run.one_store import Predicted, predict_slide
from wsi_pipeline.run.outcome import Status
from wsi_pipeline.run.records import Records
from wsi_pipeline.run.stores import predict_stores
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.store.find import find_stores
from wsi_pipeline.types import EncoderSpec

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


@pytest.fixture
def two_stores(store: PatchStore, tmp_path: Path) -> list[Path]:
    """Copies of a store, of which the first ends the process that opens it."""
    copies = [BadIsDeadlyPath(tmp_path / "out" / name / "patches.zarr") for name in ("bad", "good")]
    for copy in copies:
        shutil.copytree(store.path, copy)
    return list(copies)


@pytest.mark.slow
def test_a_store_that_ends_its_process_costs_itself_also_when_tried_again(
    two_stores: list[Path],
) -> None:
    for reused in (False, True):
        (report,) = predict_stores(two_stores, RunOptions(out=Path()), model=bluer()).values()

        bad, good = report.outcomes
        assert (bad.status, good.status) == (Status.FAILED, Status.DONE)
        assert "SIGABRT" in (bad.error or "")
        assert good.reused is reused
    records = Records(two_stores[0].parents[1])
    assert [(o.slide_id, o.status) for o in records.shown()] == [
        ("bad", Status.FAILED),
        ("good", Status.DONE),
    ]


@pytest.mark.slow
def test_features_of_the_other_stores_are_made_when_one_ends_its_process(
    two_stores: list[Path], tmp_path: Path
) -> None:
    jobs = [SlideJob(path=path, slide_id=path.parent.name) for path in two_stores]
    options = RunOptions(out=tmp_path / "features", config=load_config())

    spec = EncoderSpec(
        name="means", mpp=0.5, patch_px=256, mean=(0.0, 0.0), std=(1.0, 1.0), input="he", features=2
    )
    encoder = TrainedEncoder(module=Bluer(), spec=spec, fingerprint="c" * 64, trained_on="nothing")
    bad, good = run_features(jobs, options, encoder).outcomes

    assert "SIGABRT" in (bad.error or "")
    assert (bad.status, good.error) == (Status.FAILED, None)
    assert (tmp_path / "features" / "good.h5").exists()
