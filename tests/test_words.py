"""What people type by mistake is answered with the command that does what they meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.results import make_result
from wsi_pipeline.cli import main
from wsi_pipeline.models import load_model


def said(*words: object) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 1, done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


def test_predict_of_slides_points_to_run(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.svs").touch()
    answer = said("predict", tmp_path)
    assert f"'wsi-pipeline run {tmp_path} --out results' makes stores and predicts" in answer


def test_a_folder_of_pictures_points_to_ingest_and_to_names(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "c.jpg"):
        (tmp_path / name).touch()
    answer = said("run", tmp_path, "--out", tmp_path / "out")
    assert (
        f"3 PNG or JPEG images: if these are slides, name them in quotes, '{tmp_path}/*.png'"
        in answer
    )
    assert f"'wsi-pipeline ingest {tmp_path}'" in answer


def test_run_of_results_points_to_predict(tmp_path: Path) -> None:
    make_result(tmp_path / "results")
    answer = said("run", tmp_path / "results", "--out", tmp_path / "out")
    assert f"'wsi-pipeline predict {tmp_path / 'results'}' sends" in answer


@pytest.mark.parametrize("command", ["heatmap", "export"])
def test_results_without_predictions_point_to_predict(tmp_path: Path, command: str) -> None:
    make_result(tmp_path / "results")
    extra = ["--to", "regions"] if command == "export" else []
    answer = said(command, tmp_path / "results", *extra)
    assert (
        f"have no predictions; make them with 'wsi-pipeline predict {tmp_path}/results'" in answer
    )
    assert "holds no results" in said(
        command, tmp_path / "results" / ".." / "results", "--of-model", "x", *extra
    )


def test_a_model_that_nobody_has_is_answered_with_those_there_are(tmp_path: Path) -> None:
    make_result(tmp_path / "results")
    assert "there is one called demo" in said("predict", tmp_path, "--model", "demoo")
    assert "'wsi-pipeline train' writes, or one of: demo" in said(
        "predict", tmp_path, "--model", "resnet"
    )
    (tmp_path / "first" / "bundle").mkdir(parents=True)
    answer = said("predict", tmp_path, "--model", tmp_path / "first")
    assert f"its model is {tmp_path / 'first' / 'bundle'}" in answer


def test_an_export_or_recipe_that_nobody_has_is_answered_with_those_there_are(
    tmp_path: Path,
) -> None:
    make_result(tmp_path / "results")
    assert "choose one of geojson, regions" in said("export", tmp_path, "--to", "tiff")
    answer = said("train", "class-m", "--data", tmp_path / "results", "--out", tmp_path / "o")
    assert "no recipe 'class-m'; give a TOML file or one of: barlow, class_m" in answer


def test_a_folder_called_demo_does_not_hide_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_model("demo").spec.name == "demo"
