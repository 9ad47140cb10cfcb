"""Training without labels, from recipe to the map of clusters on a slide."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from wsi_models.bundle import load_bundle
from wsi_models.judging import class_logits, nearest_logits, thin_out
from wsi_models.methods import CluSiamConfig, build_method
from wsi_models.predictor import load_predictor
from wsi_models.publish import class_colors
from wsi_models.recipe import load_recipe
from wsi_models.splits import SplitConfig, load_split, split_by_group
from wsi_models.task import Task, TrainConfig
from wsi_models.train import train

from tests.labelled import write_images
from tests.training import cpu
from wsi_pipeline.cli import main
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.store import PatchStore
from wsi_pipeline.training_data import TrainingData

if TYPE_CHECKING:
    from tests.known import KnownSlide

RECIPE = """
name = "regions"
[split]
validation = 0.3
test = 0.3
[train]
epochs = 2
iterations = 3
evaluation_batch = 8
[method]
method = "clusiam"
unlabelled_per_step = 8
clusters = 20
projected = 16
predictor_hidden = 8
cluster_hidden = 8
[method.encoder]
name = "small"
[method.views]
patch_px = 32
blur_px = [0.1, 0.5]
[method.optimisation]
lr = 0.05
epochs = 2
"""


def call(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 40 tiles in 10 groups of 4, and a run of CluSiam on it."""
    folder = tmp_path_factory.mktemp("regions")
    write_images(folder / "tiles", per_group=20, px=48)
    table = folder / "tiles" / "labels.csv"
    header, *rows = table.read_text().splitlines()
    grouped = [f"{row}-{index % 20 // 4}" for index, row in enumerate(rows)]
    table.write_text("\n".join([header, *grouped]) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    call(
        "ingest", folder / "tiles", "--out", folder / "tiles.zarr", "--mpp", "0.5",
        "--group-column", "slide", "--quiet",
    )  # fmt: skip
    arguments = ("--data", folder / "tiles.zarr", "--out", folder / "run")
    assert "test part: accuracy" in call("train", folder / "recipe.toml", *arguments)
    return folder


def source_of(work: Path) -> TrainingData:
    return TrainingData([PatchStore.open(work / "tiles.zarr")])


def test_the_history_watches_for_collapse(work: Path) -> None:
    with (work / "run" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert 1 <= float(row["clusters"]) <= 16  # two views of eight patches
        assert 1 <= float(row["clusters_noisy"]) <= 16
        assert 0 < float(row["feature_spread"]) < 1
        losses = float(row["loss_invariance"]), float(row["loss_clustering"])
        assert float(row["loss"]) == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.05, 0.025])


def test_the_bundle_tells_clusters_apart_and_says_so(work: Path) -> None:
    bundle = load_bundle(work / "run" / "bundle")
    assert bundle.config.input == "rgb"
    assert bundle.config.class_names == tuple(f"cluster {k}" for k in range(1, 21))
    assert len(set(bundle.config.class_colors)) == 20
    patches = torch.rand((4, 3, 32, 32))
    assert bundle.classifier()(patches).shape == (4, 20)
    assert bundle.extractor()(patches).shape == (4, 64)  # what the encoder gives
    card = (work / "run" / "bundle" / "README.md").read_text()
    assert "Trained without labels. The outputs are 20 clusters" in card
    assert "nearest features, by cosine" in card.replace("\n", " ")
    evaluation = json.loads((work / "run" / "evaluation.json").read_text())
    assert evaluation["classes"] == ["gland", "stroma"]
    assert bundle.config.training.metrics["macro_f1"] == pytest.approx(evaluation["macro_f1"])


@pytest.fixture(scope="module")
def slide_store(known_slide: KnownSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of a slide that nobody has annotated."""
    out = tmp_path_factory.mktemp("bare")
    call(
        "preprocess", known_slide.path, "--out", out, "--keep-rgb", "--patch-size", "64",
        "--stride", "128", "--quiet",
    )  # fmt: skip
    return out


def test_a_slide_without_any_label_is_enough(slide_store: Path, work: Path) -> None:
    out = slide_store / "run"
    told = call("train", work / "recipe.toml", "--data", slide_store, "--out", out)
    assert "best epoch 2 of 2" in told  # the last
    assert "accuracy" not in told
    assert not (out / "evaluation.json").exists()
    assert (out / "curves.png").stat().st_size > 0
    card = (out / "bundle" / "README.md").read_text()
    assert "none with a label" in card
    assert "**Results.** None" in card
    assert "| epoch | learning rate | loss |\n" in card
    bundle = load_bundle(out / "bundle")
    assert bundle.config.training.metrics == {}
    assert bundle.extractor()(torch.rand((2, 3, 32, 32))).shape == (2, 64)


def test_resuming_without_labels_is_exact(slide_store: Path, work: Path) -> None:
    data = ("--data", slide_store)
    whole, parts = slide_store / "whole", slide_store / "parts"
    call("train", work / "recipe.toml", *data, "--out", whole)
    call("train", work / "recipe.toml", *data, "--out", parts, "--epochs", "1")
    call("train", work / "recipe.toml", *data, "--out", parts, "--resume")
    weights = [load_bundle(run / "bundle").network.state_dict() for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_methods_with_labels_say_that_there_are_none(slide_store: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "supervised.toml"
    recipe.write_text(
        'name = "s"\n[method]\nmethod = "supervised"\n[method.views]\npatch_px = 32\n'
    )
    message = call("train", recipe, "--data", slide_store, "--out", tmp_path / "run", code=1)
    assert "no store has a label, which supervised needs" in message


@pytest.mark.parametrize("model", ["run", "run/bundle"])
def test_judging_the_run_or_its_bundle_by_neighbours_repeats_the_result(
    work: Path, model: str
) -> None:
    out = work / f"again-{model.replace('/', '-')}"
    arguments = (work / model, "--data", work / "tiles.zarr", "--out", out)
    split = ("--split", work / "run" / "split.json")
    call("evaluate", *arguments, *split, "--neighbours")
    first = json.loads((work / "run" / "evaluation.json").read_text())
    again = json.loads((out / "evaluation.json").read_text())
    assert again["confusion"] == first["confusion"]
    assert again["auc"] == pytest.approx(first["auc"], abs=1e-6)
    assert "tells clusters apart, not classes" in call("evaluate", *arguments, code=1)
    assert "needs --split" in call("evaluate", *arguments, "--neighbours", code=2)


def test_a_part_without_patches_is_refused(work: Path) -> None:
    groups = source_of(work).group
    split = {"groups": {"train": [groups[0]], "validation": [], "test": []}}
    (work / "empty.json").write_text(json.dumps(split))
    message = call(
        "evaluate", work / "run", "--data", work / "tiles.zarr", "--out", work / "none",
        "--split", work / "empty.json", "--neighbours", code=1,
    )  # fmt: skip
    assert "4 labelled patches to compare with and 0 to judge" in message


def test_neighbours_are_those_of_the_features(work: Path) -> None:
    """The evaluation is that of a search by hand among the training patches."""
    source, model = source_of(work), load_predictor(work / "run")
    split = load_split(
        work / "run" / "split.json", source.label, source.group, SplitConfig(), seed=0
    )
    parts = (split.labelled, split.test)
    found = class_logits(cpu(), model, source, parts, 5)
    torch.testing.assert_close(found, nearest_logits(cpu(), model, source, parts, 16))
    network = load_bundle(work / "run" / "bundle").extractor()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    features = []
    for part in parts:
        rgb = source.fetch(part)[0][:, :, 8:-8, 8:-8] / 255
        with torch.no_grad():
            features.append(network((rgb - mean) / std).numpy())
    known, asked = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in features)
    nearest = (asked @ known.T).argmax(axis=1)
    assert found.argmax(dim=1).tolist() == source.label[split.labelled][nearest].tolist()


def test_labels_do_not_reach_the_training(work: Path, tmp_path: Path) -> None:
    """Whatever they are, every epoch has the same losses; only the choice of one may differ."""
    config = load_recipe(work / "recipe.toml").method
    assert isinstance(config, CluSiamConfig)
    source = source_of(work)
    split = split_by_group(source.label, source.group, SplitConfig(validation=0.3), seed=0)
    histories = []
    for name in ("true", "false"):
        torch.manual_seed(0)
        method = build_method(config, 2)
        settings = TrainConfig(epochs=2, iterations=2, evaluation_batch=8)
        task = Task(method=method, source=source, split=split, config=settings, out=tmp_path / name)
        histories.append(train(task, cpu()).history)
        source.label = 1 - source.label
    for first, second in zip(*histories, strict=True):
        for key in ("loss", "loss_invariance", "loss_clustering", "clusters", "feature_spread"):
            assert first[key] == second[key]


def test_training_draws_all_training_patches_whether_labelled_or_not(work: Path) -> None:
    source, drawn = source_of(work), []
    fetch = source.fetch

    def watched(indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        drawn.append(indices)
        return fetch(indices)

    source.fetch = watched  # type: ignore[method-assign]
    config = load_recipe(work / "recipe.toml").method
    split = split_by_group(
        source.label, source.group, SplitConfig(validation=0.3, labels_per_class=2), seed=0
    )
    settings = TrainConfig(epochs=1, iterations=3)
    task = Task(
        method=build_method(config, 2), source=source, split=split, config=settings,
        out=work / "drawn",
    )  # fmt: skip
    train(task, cpu())
    stepped = np.concatenate(drawn[:3])
    training = np.concatenate([split.labelled, split.unlabelled])
    assert len(training) <= 24 == len(stepped)
    assert set(stepped.tolist()) == set(training.tolist())


def test_references_are_thinned_out_evenly_by_chance() -> None:
    reference = np.arange(100, 200)
    assert thin_out(reference, 1000, 0).tolist() == reference.tolist()
    few = thin_out(reference, 30, 0)
    assert len(set(few.tolist())) == 30
    assert (np.diff(few) > 0).all()
    assert (
        few.tolist() == thin_out(reference, 30, 0).tolist() != thin_out(reference, 30, 1).tolist()
    )


def test_a_slide_gets_its_map_of_clusters_with_and_without_a_store(
    work: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    found = []
    for name, flags in (("stored", ()), ("direct", ("--no-store",))):
        out = tmp_path / name
        call(
            "run", known_slide.path, "--out", out, "--model", work / "run" / "bundle",
            "--quiet", *flags,
        )  # fmt: skip
        (folder,) = (path.parent for path in out.rglob("predictions.geojson"))
        assert (folder / "heatmap.png").stat().st_size > 10_000
        collection = json.loads((folder / "predictions.geojson").read_text())
        names = {item["properties"]["classification"]["name"] for item in collection["features"]}
        assert len(collection["features"]) > 100
        assert names <= {f"cluster {k}" for k in range(1, 21)}
        found.append(read_predictions(folder / "predictions.parquet"))
    stored, direct = found
    assert np.array_equal(stored.xy, direct.xy)
    assert np.allclose(stored.prob, direct.prob, atol=1e-5)


@pytest.mark.parametrize("count", [2, 12, 13, 100])
def test_colours_of_any_number_of_outputs_differ(count: int) -> None:
    colors = class_colors(count)
    assert len(set(colors)) == count
    rgb = np.array([list(bytes.fromhex(color[1:])) for color in colors[:12]], dtype=float)
    distance = np.linalg.norm(rgb[:, None] - rgb, axis=2) + 999 * np.eye(len(rgb))
    assert distance.min() > 30
