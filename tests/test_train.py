"""The loop: it learns, resumes bit for bit, chooses the best epoch and leaves its records."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wsi_models.errors import TrainingError
from wsi_models.methods.base import Batch, Losses
from wsi_models.sources import predict_logits
from wsi_models.splits import SplitConfig, split_by_group
from wsi_models.task import Progress, Task, TrainConfig
from wsi_models.train import train

from tests.training import Colours, MeanStains, cpu


def make_task(out: Path, *, method: MeanStains | None = None, **changes: Any) -> Task:
    source = Colours()
    split = split_by_group(
        source.label, source.group, SplitConfig(labels_per_class=10, seed=1), seed=0
    )
    torch.manual_seed(0)
    settings: dict[str, Any] = {"epochs": 3, "iterations": 10, "seed": 3, **changes}
    return Task(
        method=method or MeanStains(3),
        source=source,
        split=split,
        config=TrainConfig(**settings),
        out=out,
    )


def without_time(progress: Progress) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in progress.history]


def test_it_learns_and_says_how(tmp_path: Path) -> None:
    task = make_task(tmp_path, epochs=6)
    progress = train(task, cpu())
    rows = progress.history
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert progress.best_accuracy is not None
    assert progress.best_accuracy > 0.85
    # 31 patches an epoch: one epoch says little
    assert np.mean([row["pseudo_accuracy"] for row in rows[1:]]) > 0.7
    assert 1 / 3 < rows[0]["pseudo_confidence"] <= 1
    assert json.loads((tmp_path / "history.json").read_text()) == rows
    with (tmp_path / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in table] == [row["loss"] for row in rows]
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert {path.name for path in tmp_path.iterdir()} == {
        "history.json", "history.csv", "curves.png", "last.ckpt", "best.ckpt",
    }  # fmt: skip


def test_the_method_ends_with_the_weights_of_the_best_epoch(tmp_path: Path) -> None:
    task = make_task(tmp_path, epochs=6)
    progress = train(task, cpu())
    marks = [
        (row["validation_balanced_accuracy"], -row["validation_loss"]) for row in progress.history
    ]
    assert progress.best_epoch == marks.index(max(marks)) + 1  # the loss decides between equals
    assert [row["epoch"] for row in progress.history if row["best"]][-1] == progress.best_epoch
    label = task.source.label[task.split.validation]
    logits = predict_logits(cpu(), task.method, task.source, task.split.validation, 7)
    right = logits.argmax(dim=1).numpy() == label
    recall = np.mean([right[label == value].mean() for value in np.unique(label)])
    assert recall == pytest.approx(progress.best_accuracy)


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = make_task(tmp_path / "whole", epochs=4)
    expected = train(whole, cpu())
    train(make_task(tmp_path / "parts", epochs=2), cpu())
    torch.manual_seed(99)  # what happened in between must not matter
    resumed = make_task(tmp_path / "parts", epochs=4, method=MeanStains(3, lr=0.7))
    progress = train(resumed, cpu(), resume=True)
    assert without_time(progress) == without_time(expected)
    for name, value in whole.method.state_dict().items():
        assert torch.equal(value, resumed.method.state_dict()[name]), name
    assert int(resumed.method.get_buffer("steps")) == 10 * progress.best_epoch


def test_one_seed_gives_one_result_and_another_another(tmp_path: Path) -> None:
    first, again, other = (
        train(make_task(tmp_path / name, seed=seed), cpu())
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert without_time(first) == without_time(again)
    assert without_time(first) != without_time(other)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    before = train(make_task(tmp_path), cpu())
    after = train(make_task(tmp_path), cpu(), resume=True)
    assert after.history == before.history


def test_a_run_is_not_overwritten_and_not_resumed_with_other_settings(tmp_path: Path) -> None:
    train(make_task(tmp_path), cpu())
    with pytest.raises(TrainingError, match="holds a run"):
        train(make_task(tmp_path), cpu())
    with pytest.raises(TrainingError, match="other config"):
        train(make_task(tmp_path, seed=4), cpu(), resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    train(make_task(tmp_path), cpu())
    whole = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"last\.ckpt is not a checkpoint"):
        train(make_task(tmp_path), cpu(), resume=True)


def test_patience_stops_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    progress = train(make_task(tmp_path, epochs=30, patience=2), cpu())
    assert progress.epoch == progress.best_epoch + 2 < 30


def test_the_rate_follows_the_validation_loss(tmp_path: Path) -> None:
    rows = train(make_task(tmp_path, epochs=12), cpu()).history
    losses = [row["validation_loss"] for row in rows]
    rate, best = 0.1, float("inf")
    for row, loss in zip(rows, losses, strict=True):
        assert row["lr"] == rate
        if loss < best * (1 - 1e-4):
            best = loss
        else:
            rate *= 0.5
    assert rate < 0.1


def test_a_method_without_unlabelled_patches_gets_none(tmp_path: Path) -> None:
    rows = train(make_task(tmp_path, method=MeanStains(3, unlabelled=0)), cpu()).history
    assert "pseudo_accuracy" not in rows[0]


def test_divergence_is_an_error(tmp_path: Path) -> None:
    class Diverging(MeanStains):
        def training_step(
            self,
            labelled: Batch,
            unlabelled: Batch | None,
            clock: float,
            generator: torch.Generator,
        ) -> Losses:
            losses = super().training_step(labelled, unlabelled, clock, generator)
            return Losses(total=losses.total * float("nan"))

    with pytest.raises(TrainingError, match="diverged"):
        train(make_task(tmp_path, method=Diverging(3)), cpu())


def test_a_class_without_label_is_named(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    task.source.label[task.source.label == 1] = -1
    with pytest.raises(TrainingError, match="no training label for blue"):
        train(task, cpu())


@pytest.mark.slow
def test_two_processes_agree_and_learn(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from lightning_fabric import Fabric\n"
        "from tests.test_train import make_task\n"
        "from wsi_models.train import train\n"
        "fabric = Fabric(accelerator='cpu', devices=2, strategy='ddp')\n"
        "fabric.launch()\n"
        "out = Path(sys.argv[1])\n"
        "task = make_task(out, epochs=3)\n"
        "progress = train(task, fabric)\n"
        "result = [task.method.state_dict(), progress.history]\n"
        "torch.save(result, out / f'{fabric.global_rank}.pt')\n"
    )
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'models'}"}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         str(script), str(tmp_path)],
        check=True, env=environment, cwd=root, timeout=240, capture_output=True,
    )  # fmt: skip
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name
    for one, two in zip(first[1], second[1], strict=True):
        assert {k: v for k, v in one.items() if k != "seconds"} == {
            k: v for k, v in two.items() if k != "seconds"
        }
    assert first[1][-1]["validation_balanced_accuracy"] > 0.8


@pytest.mark.slow
def test_two_processes_agree_for_every_method(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'models'}"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         "-m", "tests.two_ranks", str(tmp_path)],
        env=environment, cwd=root, timeout=400, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len({name for name, _, _ in first}) == len(first) - 1  # CLASS is a CLASS-M
    for (name, state, history), (_, other, told) in zip(first, second, strict=True):
        for key, value in state.items():
            assert torch.equal(value, other[key]), (name, key)
        for row, twin in zip(history, told, strict=True):
            assert {k: v for k, v in row.items() if k != "seconds"} == {
                k: v for k, v in twin.items() if k != "seconds"
            }, name
