"""``wsi-pipeline features`` and ``mil``, as a person uses them: from stores to attention."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.mil import make_bags
from tests.passports import some_passport
from tests.stores import PATCH_PX, SLIDE, make_header, make_store
from wsi_pipeline.cli import main
from wsi_pipeline.results.export.features import Layout, write_features
from wsi_pipeline.store.features import SlideFeatures


def features_of(name: str, features: Any, places: Any) -> SlideFeatures:
    return SlideFeatures(
        slide_id=name, features=features, xy=places, passport=some_passport(features=6)
    )


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with features of slides, their labels, and a model in ``run``."""
    folder = tmp_path_factory.mktemp("mil")
    bags, _ = make_bags(24, 12)
    for name in bags.slide_ids:
        features = bags.load(name)
        places = np.arange(2 * len(features)).reshape(-1, 2)
        write_features(folder / "features", features_of(name, features, places))
    with (folder / "slides.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["slide_id", "label", "patient"])
        for name, label, patient in zip(bags.slide_ids, bags.label, bags.patient, strict=True):
            table.writerow([name, bags.classes[label], patient])
    result = call(
        "mil", "train", folder / "features", "--labels", folder / "slides.csv", "--model", "max",
        "--folds", "3", "--epochs", "4", "--out", folder / "run", "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["accuracy"]["folds"] == 3
    assert Path(summary["files"]["md"]).exists()
    return folder


def test_other_slides_are_judged_by_the_model(trained: Path, tmp_path: Path) -> None:
    result = call(
        "mil", "evaluate", trained / "run" / "model", trained / "features", "--labels",
        trained / "slides.csv", "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "balanced accuracy" in result.output
    assert (tmp_path / "out" / "evaluation.png").exists()


def test_attention_is_drawn_on_the_slides_that_have_stores(trained: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / "results" / "slide-1" / "patches.zarr", make_header(9))
    features = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    write_features(tmp_path / "features", features_of(SLIDE.slide_id, features, store.xy))
    write_features(tmp_path / "features", features_of("slide-2", features, store.xy), Layout.ZARR)
    result = call(
        "mil", "predict", trained / "run" / "model", tmp_path / "features", "--stores",
        tmp_path / "results", "--out", tmp_path / "out", "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert [row["slide_id"] for row in json.loads(result.stdout)] == ["slide-1", "slide-2"]
    drawn = sorted(file.name for file in (tmp_path / "out" / "slide-1").iterdir())
    assert drawn == ["attention.geojson", "attention.parquet", "attention.png"]
    assert not (tmp_path / "out" / "slide-2").exists()
    assert (tmp_path / "out" / "predictions.csv").read_text().count("\n") == 3


def test_wrong_use_is_explained(trained: Path, tmp_path: Path) -> None:
    again = call(
        "mil", "train", trained / "features", "--labels", trained / "slides.csv", "--out",
        trained / "run", "--device", "cpu", "--quiet",
    )  # fmt: skip
    assert again.exit_code == 1
    assert "holds a run" in again.output
    bad = tmp_path / "slides.csv"
    bad.write_text("slide,label\n")
    named = call("mil", "train", trained / "features", "--labels", bad, "--out", tmp_path / "r")
    assert named.exit_code == 1
    assert "patient" in named.output
    small = make_store(tmp_path / "patches.zarr", make_header(4))
    assert small.patch_px == PATCH_PX
    refused = call("features", tmp_path / "patches.zarr", "--out", tmp_path / "f")
    assert refused.exit_code == 1
    assert "--patch-size" in refused.output
