"""Runs over slides: results on disk, survival of bad slides, and the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import torch
from torch import nn

from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelMismatchError, StoreNotFoundError
from wsi_pipeline.inputs import SlideJob
from wsi_pipeline.outcome import RunReport, Status
from wsi_pipeline.pipeline import (
    RunOptions,
    TrainedModel,
    find_stores,
    predict_slide,
    redraw_heatmap,
    run_slides,
)
from wsi_pipeline.types import ModelSpec

if TYPE_CHECKING:
    from tests.known import KnownSlide


class Bluer(nn.Module):
    """Two classes by which stain is stronger: every probability can be computed by hand."""

    def forward(self, he: torch.Tensor) -> torch.Tensor:
        return 10 * he.mean(dim=(2, 3))


def model(mpp: float = 0.5) -> TrainedModel:
    spec = ModelSpec(
        name="bluer",
        class_names=("blue", "pink"),
        class_colors=("#0000ff", "#ff00aa"),
        mpp=mpp,
        patch_px=256,
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
    )
    return TrainedModel(module=Bluer(), spec=spec, fingerprint="none", trained_on="nothing")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(out: Path, known_slide: KnownSlide) -> RunReport:
    broken = out / "broken.svs"
    broken.write_bytes(b"II*\x00 not a slide")
    jobs = [
        SlideJob(path=broken, slide_id="broken"),
        SlideJob(path=out / "missing.svs", slide_id="missing"),
        SlideJob(path=known_slide.path, slide_id="known"),
    ]
    return run_slides(jobs, RunOptions(out=out, config=load_config()), model=model())


def test_bad_slides_are_recorded_and_the_rest_is_done(report: RunReport) -> None:
    broken, missing, known = report.outcomes

    assert (broken.status, missing.status, known.status) == (
        Status.FAILED,
        Status.FAILED,
        Status.DONE,
    )
    assert "broken.svs" in (broken.error or "")
    assert "missing.svs" in (missing.error or "")


def test_the_record_holds_what_is_needed_to_repeat(report: RunReport, out: Path) -> None:
    record = json.loads((out / "run.json").read_text())
    known = record["outcomes"][2]

    assert record["model"]["class_names"] == ["blue", "pink"]
    assert record["config"]["tile"]["mpp"] == 0.5
    assert known["slide"]["mpp_source"] == "tiff"
    assert known["stain"]["matrix"]["vectors"][0][0] > known["stain"]["matrix"]["vectors"][1][0]
    assert sum(known["class_shares"].values()) == pytest.approx(1)
    assert sum(known["funnel"].values()) == 64
    assert all((out / path).exists() for path in known["files"].values())


def test_predictions_follow_from_the_patches(report: RunReport, out: Path) -> None:
    (store,) = find_stores([out])
    table = pq.read_table(out / "known/bluer/predictions.parquet").to_pydict()
    he = store.read_he(0, len(store)).astype(np.float64).mean(axis=(2, 3)) / 255 * 10
    expected = np.exp(he) / np.exp(he).sum(axis=1, keepdims=True)

    assert np.allclose(table["prob_blue"], expected[:, 0], atol=1e-5)
    assert np.allclose(table["prob_pink"], expected[:, 1], atol=1e-5)
    assert table["label"] == [("blue", "pink")[k] for k in expected.argmax(axis=1)]
    assert np.array_equal(np.stack([table["x"], table["y"]], axis=1), store.xy)


def test_tiles_in_geojson_lie_where_the_patches_are(report: RunReport, out: Path) -> None:
    (store,) = find_stores([out])
    features = json.loads((out / "known/bluer/predictions.geojson").read_text())["features"]
    boxes = {tuple(int(v) for v in shapely.geometry.shape(f["geometry"]).bounds) for f in features}

    assert {(x, y, x + 256, y + 256) for x, y in store.xy.tolist()} <= boxes


def test_a_second_run_reuses_the_patches(
    report: RunReport, out: Path, known_slide: KnownSlide
) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")

    again = run_slides([job], RunOptions(out=out), model=model())

    assert "patches" not in again.outcomes[0].seconds
    assert again.outcomes[0].class_shares == report.outcomes[2].class_shares


def test_a_model_of_another_resolution_is_refused(report: RunReport, out: Path) -> None:
    (store,) = find_stores([out])
    with pytest.raises(ModelMismatchError, match="mpp"):
        predict_slide(store, model(mpp=1.0), load_config().predict)


def test_one_class_can_be_drawn_and_an_unknown_one_is_named(report: RunReport, out: Path) -> None:
    predictions = out / "known/bluer/predictions.parquet"
    drawn = redraw_heatmap(
        predictions, out / "known/patches.zarr", out / "pink.png", class_name="pink"
    )

    assert drawn.stat().st_size > 10_000
    with pytest.raises(ConfigError, match=r"'green'.*blue, pink"):
        redraw_heatmap(predictions, out / "known/patches.zarr", drawn, class_name="green")


def test_a_folder_without_stores_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="wsi-pipeline preprocess"):
        find_stores([tmp_path])


def test_results_that_cannot_be_written_are_an_error_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        run_slides([], RunOptions(out=file / "below"))


def test_a_run_of_no_slides_leaves_a_report(tmp_path: Path) -> None:
    assert run_slides([], RunOptions(out=tmp_path)).outcomes == ()
    assert (tmp_path / "index.html").exists()
