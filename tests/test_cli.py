"""The command line, as a person uses it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from wsi_pipeline.cli import main
from wsi_pipeline.cli.options import is_flag
from wsi_pipeline.config import PipelineConfig

if TYPE_CHECKING:
    from tests.known import KnownSlide


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


COMMANDS = sorted(main.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_teaches(name: str) -> None:
    result = call(name, "--help")

    assert result.exit_code == 0
    command = main.commands[name]
    if not isinstance(command, click.Group):
        assert f"wsi-pipeline {name}" in result.output, "no example"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{parameter.name} has no help"


def test_every_option_of_the_configuration_has_its_flag() -> None:
    text = call("config", "show", "--help").output
    for field in PipelineConfig.model_fields.values():
        for key, option in field.annotation.model_fields.items():  # type: ignore[union-attr]
            if is_flag(option):
                assert f"--{key.replace('_', '-')}" in text


def test_config_show_resolves_flags_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[tile]\nmpp = 1.0\nstride = 100\n")

    shown = tomllib.loads(
        call("config", "show", "--config", file, "--mpp", "2", "--no-reject-pen").output
    )

    assert shown["tile"]["mpp"] == 2.0
    assert shown["tile"]["stride"] == 100
    assert shown["tissue"]["reject_pen"] is False


def test_info_says_size_mpp_and_source(known_slide: KnownSlide) -> None:
    text = call("info", known_slide.path).output

    assert "2048 x 2048 px" in text
    assert "0.5 um/px, from tiff" in text


def test_info_as_json_names_every_slide_and_fails_for_the_bad_one(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.svs"
    bad.write_bytes(b"nothing")

    result = call("info", known_slide.path, bad, "--json")

    good, broken = json.loads(result.output)
    assert result.exit_code == 1
    assert good["mpp"] == 0.5
    assert "bad.svs" in broken["error"]


def test_a_slide_without_mpp_is_told_what_to_do_and_does_it(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.full((300, 300, 3), 240, np.uint8))

    refused = call("info", path)
    accepted = call("info", path, "--slide-mpp", "0.25")

    assert refused.exit_code == 1
    assert "--slide-mpp" in refused.stderr
    assert "from flag" in accepted.output


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run",), 2, "Missing argument"),
        (("run", "nowhere.svs", "--out", "out"), 1, "names no slide"),
        (("run", "x.svs", "--out", "out", "--model", "none"), 1, "no model bundle 'none'"),
        (("preprocess", "x.svs", "--out", "out", "--mpp", "-1"), 2, "--mpp"),
        (("preprocess", "x.svs", "--out", "out", "--reader", "magic"), 1, "no such reader"),
        (("predict", "nowhere"), 2, "does not exist"),
        (("preprocess", "known.tif", "--out", "out", "--shard-index", "1"), 2, "--shard-count"),
        (("report", "nowhere"), 1, "no report of a run"),
    ],
)
def test_wrong_use_is_explained_without_a_traceback(
    arguments: tuple[str, ...],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    result = call(*arguments)

    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.output + result.stderr


def test_run_does_the_folder_and_reports_the_bad_slide(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "good.tif").symlink_to(known_slide.path)
    (slides / "bad.svs").write_bytes(b"nothing")
    out = tmp_path / "out"

    result = call("run", slides, "--out", out, "--json")

    record = json.loads(result.stdout)
    bad, good = record["outcomes"]
    assert result.exit_code == 1
    assert (bad["status"], good["status"]) == ("failed", "done")
    assert record == json.loads((out / "run.json").read_text())
    for name in ("patches.zarr", "qc.png", "demo/predictions.parquet", "demo/predictions.geojson"):
        assert (out / "good" / name).exists(), name


def test_parts_of_a_folder_and_their_report(known_slide: KnownSlide, tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    (slides / "a.tif").symlink_to(known_slide.path)
    (slides / "b.svs").write_bytes(b"nothing")
    out = tmp_path / "out"
    parts = ("--shard-count", "2", "--shard-index")

    first = call("preprocess", slides, "--out", out, *parts, "0")
    second = call("preprocess", slides, "--out", out, *parts, "1", "--quiet")
    whole = call("report", out)

    assert (first.exit_code, second.exit_code, whole.exit_code) == (0, 1, 1)
    assert "1 of 1 slide done" in first.stderr
    assert "b failed" in second.stdout
    assert "a " in whole.stdout
    assert "b failed" in whole.stdout
    assert " of the work: " in whole.stdout, "no verdict"


def test_preprocess_then_predict_then_heatmap(known_slide: KnownSlide, tmp_path: Path) -> None:
    out = tmp_path / "out"

    first = call("preprocess", known_slide.path, "--out", out, "--quiet")
    second = call("predict", out, "--quiet")
    drawn = tmp_path / "necrosis.png"
    third = call(
        "heatmap",
        out / "known/demo/predictions.parquet",
        "--class",
        "necrosis",
        "--out",
        drawn,
    )

    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 0, 0)
    assert f"{out}/index.html" in first.output
    assert "trained on: synthetic slides" in second.stderr
    assert str(out / "known/demo/heatmap.png") in second.output
    assert drawn.read_bytes().startswith(b"\x89PNG")

    # what an export that was killed leaves is gone with the next one, as after a run
    left = out / "known/demo/.0123456789abcdef.partial.csv"
    for again in (("export", out, "--to", "csv"), ("heatmap", out)):
        left.touch()
        assert call(*again).exit_code == 0
        assert not left.exists(), again


def test_the_demo_ends_with_its_accuracy(tmp_path: Path) -> None:
    result = call("demo", "--out", tmp_path / "demo", "--size", "3072", "--quiet")

    *_, last = result.output.splitlines()
    assert result.exit_code == 0
    assert last.startswith("label accuracy ")
    assert float(last.removeprefix("label accuracy ")) >= 0.9
