"""From recipe and store to bundle and evaluation, by command and by function."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from wsi_models.bundle import load_bundle
from wsi_models.checkpoint import load_checkpoint
from wsi_models.errors import TrainingError
from wsi_models.predictor import load_predictor
from wsi_models.recipe import load_recipe
from wsi_models.recipes import find_recipe

from tests.labelled import write_images
from wsi_pipeline.cli import main
from wsi_pipeline.cli.epochs import epoch_lines
from wsi_pipeline.cli.training import writing_run
from wsi_pipeline.errors import OutputError

RECIPE = """
name = "test-model"
[classes]
names = ["gland", "stroma"]
[split]
labels_per_class = 2
validation = 0.3
test = 0.3
[train]
epochs = 2
iterations = 2
evaluation_batch = 8
[method]
method = "class-m"
labelled_per_step = 4
unlabelled_per_step = 3
[method.encoder]
name = "small"
[method.views]
patch_px = 32
[method.optimisation]
lr = 1e-3
"""

SUPERVISED = RECIPE.replace('"class-m"', '"supervised"').replace("unlabelled_per_step = 3\n", "")


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def fail(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 40 tiles in 10 groups of 4, a recipe and the run of it."""
    folder = tmp_path_factory.mktemp("work")
    write_images(folder / "tiles", per_group=20, px=48)
    table = folder / "tiles" / "labels.csv"
    header, *rows = table.read_text().splitlines()
    # groups of four tiles, two of each class
    grouped = [f"{row}-{index % 20 // 4}" for index, row in enumerate(rows)]
    table.write_text("\n".join([header, *grouped]) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    output = invoke(
        "ingest", folder / "tiles", "--out", folder / "tiles.zarr", "--mpp", "0.5",
        "--group-column", "slide", "--quiet", "--json",
    )  # fmt: skip
    summary = json.loads(output)
    assert summary["classes"] == {"gland": 20, "stroma": 20}
    assert summary["groups"] == 10
    data = ("--data", folder / "tiles.zarr")
    printed = invoke("train", folder / "recipe.toml", *data, "--out", folder / "run")
    assert "test part: accuracy" in printed
    return folder


def test_a_run_leaves_all_its_records(work: Path) -> None:
    assert {path.name for path in (work / "run").iterdir()} == {
        "recipe.json", "split.json", "last.ckpt", "best.ckpt", "history.json", "history.csv",
        "curves.png", "evaluation.json", "evaluation.md", "evaluation.png", "bundle",
    }  # fmt: skip
    split = json.loads((work / "run" / "split.json").read_text())
    parts = [set(groups) for groups in split["groups"].values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 10
    assert len(split["labelled"]) == 4


def test_the_bundle_says_how_it_came_to_be(work: Path) -> None:
    bundle = load_bundle(work / "run" / "bundle")
    assert bundle.config.class_names == ("gland", "stroma")
    assert bundle.config.mpp == 0.5
    assert bundle.config.patch_px == 32
    evaluation = json.loads((work / "run" / "evaluation.json").read_text())
    metrics = bundle.config.training.metrics
    assert metrics["balanced_accuracy"] == pytest.approx(evaluation["balanced_accuracy"])
    card = (work / "run" / "bundle" / "README.md").read_text()
    rows = json.loads((work / "run" / "history.json").read_text())
    for row in rows:
        assert f"| {row['epoch']} | 0.001 | {row['loss']:.4f} |" in card


@pytest.mark.parametrize("model", ["run", "run/bundle"])
def test_evaluating_the_run_or_its_bundle_repeats_the_result(work: Path, model: str) -> None:
    out = work / f"again-{model.replace('/', '-')}"
    invoke(
        "evaluate", work / model, "--data", work / "tiles.zarr", "--out", out,
        "--split", work / "run" / "split.json",
    )  # fmt: skip
    first = json.loads((work / "run" / "evaluation.json").read_text())
    again = json.loads((out / "evaluation.json").read_text())
    assert again["confusion"] == first["confusion"]
    assert again["auc"] == pytest.approx(first["auc"], abs=1e-6)


def test_evaluation_takes_all_labels_and_a_map(work: Path) -> None:
    printed = invoke(
        "evaluate", work / "run", "--data", work / "tiles.zarr", "--out", work / "all",
        "--map", "stroma=gland", "--json",
    )  # fmt: skip
    values = json.loads(printed)
    assert values["count"] == 40
    assert values["absent"] == ["stroma"]
    assert values["recall"][1] is None


def test_class_m_resumes_bit_for_bit(work: Path) -> None:
    shutil.copytree(work / "run", work / "longer")
    arguments = ("train", work / "recipe.toml", "--data", work / "tiles.zarr", "--out")
    printed = json.loads(invoke(*arguments, work / "longer", "--resume", "--epochs", 3, "--json"))
    assert printed["epochs"] == 3
    invoke(*arguments, work / "straight", "--epochs", 3)
    resumed, straight = (
        load_checkpoint(work / name / "last.ckpt") for name in ("longer", "straight")
    )
    assert resumed["method"].keys() == straight["method"].keys()
    for name, value in straight["method"].items():
        assert torch.equal(value, resumed["method"][name]), name
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in state["history"]]
        for state in (resumed, straight)
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 3


def test_a_run_is_not_overwritten(work: Path) -> None:
    data = ("--data", work / "tiles.zarr")
    assert "holds a run" in fail("train", work / "recipe.toml", *data, "--out", work / "run")


@pytest.mark.parametrize("method", ["supervised", "s5cl", "tear"])
def test_methods_on_colours_train_evaluate_and_leave_a_bundle(work: Path, method: str) -> None:
    text = SUPERVISED if method == "supervised" else RECIPE.replace('"class-m"', f'"{method}"')
    (work / f"{method}.toml").write_text(text)
    arguments = ("--data", work / "tiles.zarr", "--out")
    invoke("train", work / f"{method}.toml", *arguments, work / method, "--epochs", 1)
    bundle = load_bundle(work / method / "bundle")
    assert bundle.config.input == "rgb"
    assert bundle.config.mean == (0.485, 0.456, 0.406)
    model = load_predictor(work / method)
    assert model.class_names == ("gland", "stroma")
    figures = []
    for name in (method, f"{method}/bundle"):
        invoke("evaluate", work / name, *arguments, work / f"{name}-all")
        figures.append(json.loads((work / f"{name}-all" / "evaluation.json").read_text()))
    assert figures[0]["confusion"] == figures[1]["confusion"]
    assert figures[0]["auc"] == pytest.approx(figures[1]["auc"], abs=1e-6)


def test_an_ablation_that_no_store_serves_has_no_bundle(work: Path) -> None:
    text = RECIPE.replace("[method.views]", '[method.views]\nchannels = "red_blue"')
    (work / "red_blue.toml").write_text(text)
    arguments = ("--data", work / "tiles.zarr", "--out", work / "red-blue")
    invoke("train", work / "red_blue.toml", *arguments, "--epochs", 1, "--iterations", 1)
    assert not (work / "red-blue" / "bundle").exists()
    assert load_predictor(work / "red-blue").class_names == ("gland", "stroma")


def test_a_given_split_is_used(work: Path) -> None:
    groups = [f"slide-{letter}-{index}" for letter in "ab" for index in range(5)]
    parts = {"train": groups[:6], "validation": groups[6:8], "test": groups[8:]}
    (work / "mine.json").write_text(json.dumps({"groups": parts}))
    invoke(
        "train", work / "recipe.toml", "--data", work / "tiles.zarr", "--out", work / "mine",
        "--split", work / "mine.json", "--epochs", 1, "--iterations", 1, "--labels-per-class", 3,
    )  # fmt: skip
    used = json.loads((work / "mine" / "split.json").read_text())
    assert used["groups"] == {part: sorted(names) for part, names in parts.items()}
    assert len(used["labelled"]) == 6


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("epochs = 2", "epochs = 0", "train.epochs = 0"),
        ("[train]", "[trains]", "trains"),
        ('"class-m"', '"class-x"', "method: Input tag 'class-x'"),
        ("[split]", "[split", "cannot be read as TOML"),
        ("patch_px = 32", "patch_px = 40", "at most 33 px"),
        ("labelled_per_step = 4", "labelled_per_step = 5", "no multiple of 2"),
        ('"stroma"]', '"bone"]', "no training label for bone"),
    ],
)
def test_a_bad_recipe_is_explained(work: Path, old: str, new: str, match: str) -> None:
    assert old in RECIPE
    (work / "bad.toml").write_text(RECIPE.replace(old, new))
    message = fail("train", work / "bad.toml", "--data", work / "tiles.zarr", "--out", work / "bad")
    assert match in message
    assert not (work / "bad").exists()


def test_evaluation_refuses_what_is_no_model(work: Path) -> None:
    arguments = ("--data", work / "tiles.zarr", "--out", work / "none")
    assert "neither a bundle nor a run" in fail("evaluate", work / "tiles", *arguments)


@pytest.mark.parametrize("name", ["class_m", "supervised", "fixmatch", "mixmatch", "vit"])
def test_the_example_recipes_are_valid(name: str) -> None:
    path = find_recipe(name)
    recipe = load_recipe(path)
    assert recipe.train.epochs * recipe.train.iterations == 500_000
    assert np.isclose(recipe.split.validation + recipe.split.test, 0.4)


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")


def test_another_recipe_does_not_go_on_with_a_run(work: Path) -> None:
    shutil.copytree(work / "run", work / "other")
    recipe = (work / "recipe.toml").read_text()
    (work / "other.toml").write_text(recipe.replace("lr = 1e-3", "lr = 2e-3"))
    before = (work / "other" / "recipe.json").read_bytes()
    data = ("--data", work / "tiles.zarr", "--out", work / "other", "--resume")
    message = fail("train", work / "other.toml", *data, "--epochs", 3)
    assert "method.optimisation.lr (0.001 there, 0.002 here)" in message
    assert "epochs (" not in message
    assert (work / "other" / "recipe.json").read_bytes() == before


def test_a_schedule_that_follows_the_epochs_is_not_stretched_half_way(work: Path) -> None:
    recipe = (work / "recipe.toml").read_text()
    (work / "cosine.toml").write_text(recipe + 'schedule = "cosine"\n')
    data = ("--data", work / "tiles.zarr", "--out", work / "cosine")
    invoke("train", work / "cosine.toml", *data, "--epochs", 1)
    saved = json.loads((work / "cosine" / "recipe.json").read_text())
    assert saved["method"]["optimisation"]["cosine_epochs"] == 1
    message = fail("train", work / "cosine.toml", *data, "--resume", "--epochs", 2)
    assert "cosine_epochs (1 there, 2 here)" in message


def test_training_says_how_it_goes_line_by_line(work: Path) -> None:
    arguments = ["train", work / "recipe.toml", "--data", work / "tiles.zarr", "--epochs", 3]
    told = CliRunner().invoke(main, [*map(str, arguments), "--out", str(work / "told")])
    assert told.exit_code == 0, told.output
    lines = [line for line in told.stderr.splitlines() if line.startswith("epoch ")]
    rows = json.loads((work / "told" / "history.json").read_text())
    assert len(lines) == len(rows) == 3
    for number, (line, row) in enumerate(zip(lines, rows, strict=True), start=1):
        assert line.startswith(f"epoch {number} of 3, loss {row['loss']:.4f}, validation ")
        assert f"{row['validation_balanced_accuracy']:.4f}" in line
    assert lines[0].endswith(" left")
    assert not lines[2].endswith(" left")
    quiet = [*map(str, arguments), "--out", str(work / "untold"), "--quiet"]
    assert "epoch 1 of" not in CliRunner().invoke(main, quiet).stderr


def test_a_folder_that_is_trained_in_is_kept_from_others(tmp_path: Path) -> None:
    (tmp_path / "folds" / ".0123.partial").mkdir(parents=True)
    (tmp_path / ".4567.partial.json").touch()
    with writing_run(tmp_path):
        assert not list(tmp_path.rglob("*.partial*")), "left by a training that was killed"
        with pytest.raises(OutputError, match="another process"), writing_run(tmp_path):
            pytest.fail("two trainings in one folder")


def test_the_bar_of_a_training_moves_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = bytearray()
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with epoch_lines(quiet=False) as listener:
            listener.begin(epochs=2, done=0, iterations=2)
            for epoch, losses in enumerate(((4.0, 3.0), (2.0, 1.0)), start=1):
                for loss in losses:
                    listener.step(loss)
                    time.sleep(0.11)  # the bar is drawn ten times a second
                listener.epoch({"epoch": epoch, "loss": losses[-1], "best": True})
    with suppress(OSError):  # of a terminal that nobody holds any more
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    text = shown.decode()
    assert "epoch 1 of 2" in text
    assert text.count("\r") > 4, "the line should be drawn over itself"
    assert "loss 4.0000" in text, "while the first epoch goes on"
    assert "epoch 2 of 2, loss 1.0000" in text
    assert capfd.readouterr() == ("", "")
