"""Kill commands at random moments, run them again, and compare with what was not disturbed.

    python benchmarks/kills.py --trials 200 --seed 1

A trial takes a command, kills it with SIGKILL once or twice after a random part of the time it
takes (the parent alone, whose workers have to notice, or all its processes at once), and then lets
the same command end. It counts as resumed if that ends with 0, leaves byte for byte the files of an
undisturbed run (records, logs and views, which hold times, aside), nothing half written, and passes
``wsi-pipeline verify``. Commands are forked from a process that has loaded the libraries, so that
kills fall on the work.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.cli import main as wsi_pipeline
from wsi_pipeline.results.export.features import write_features
from wsi_pipeline.store.features import SlideFeatures
from wsi_pipeline.store.passport import Passport
from wsi_pipeline.synthetic import write_synthetic_slide

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

SIDE_PX = 1024
VIEWS = {"run.json", "index.html", "summary.csv", ".lock", "history.csv", "history.json"}
TIMED = {"last.ckpt"}
"""Files that hold times besides what is compared elsewhere."""

WAIT_SECONDS = 300

PRELOADED = [
    "wsi_pipeline.cli", "wsi_pipeline.demo", "wsi_pipeline.run.slides", "wsi_pipeline.run.features",
    "wsi_pipeline.run.stores", "wsi_pipeline.run.verify", "wsi_pipeline.models",
    "wsi_pipeline.training_data", "wsi_models.experiment", "wsi_models.mil.survival.run",
    "wsi_models.mil.bundle", "wsi_pipeline.results.export.registry",
]  # fmt: skip

TRAIN_RECIPE = """
name = "killed"
[classes]
names = ["gland", "stroma"]
[split]
labels_per_class = 4
validation = 0.3
test = 0.3
[train]
epochs = 4
iterations = 4
evaluation_batch = 8
[method]
method = "class-m"
labelled_per_step = 4
unlabelled_per_step = 3
[method.encoder]
name = "small"
[method.views]
patch_px = 32
"""

MIL_RECIPE = """
[model]
model = "abmil"
embedding = [32]
attention = 16
[train]
folds = 3
epochs = 15
"""


@dataclass(frozen=True)
class Scenario:
    """A command, the ones that make what it starts from, and the folders that are verified."""

    name: str
    before: tuple[str, ...]
    command: str
    verified: str = "out"


PREPROCESS = "preprocess slides --out out --quiet"

SCENARIOS = (
    Scenario("preprocess", (), PREPROCESS),
    Scenario("run", (), "run slides --out out --quiet"),
    Scenario("run --no-store", (), "run slides --out out --no-store --quiet"),
    Scenario("predict", (PREPROCESS,), "predict out --quiet"),
    Scenario("features", (PREPROCESS,), "features out --model demo --out out/features --quiet"),
    Scenario("export", ("run slides --out out --quiet",), "export out --to regions --to areas"),
    Scenario(
        "train",
        ("ingest tiles --out tiles.zarr --mpp 0.5 --group-column group --quiet",),
        "train train.toml --data tiles.zarr --out out --resume --quiet --device cpu",
        "out/bundle",
    ),
    Scenario(
        "mil",
        (),
        "mil train bags --labels slides.csv --recipe mil.toml --out out --quiet --device cpu",
        "out/model",
    ),
    Scenario(
        "mil survival",
        (),
        "mil train bags --labels slides.csv --recipe mil.toml --out out --quiet --device cpu "
        "--target survival",
        "out/model",
    ),
)


def main() -> None:
    """Run the trials and print what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one scenario")
    arguments = parser.parse_args()
    chosen = [s for s in SCENARIOS if arguments.only in (None, s.name)]
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        tally = run_trials(Path(folder), chosen, arguments.trials, arguments.seed)
    for name, counts in tally.items():
        print(f"{name:16} {counts['resumed']} of {sum(counts.values())} resumed")


def run_trials(
    folder: Path, scenarios: list[Scenario], trials: int, seed: int
) -> dict[str, Counter[str]]:
    """Run trials on the scenarios in turn; returns how many resumed, by scenario."""
    write_inputs(folder / "inputs")
    whole = {scenario: undisturbed(folder, scenario) for scenario in scenarios}
    tally: dict[str, Counter[str]] = {scenario.name: Counter() for scenario in scenarios}
    for trial in range(trials):
        scenario = scenarios[trial % len(scenarios)]
        draw = random.Random(f"{seed}-{trial}")
        problem = one_trial(folder, scenario, whole[scenario], draw)
        tally[scenario.name]["resumed" if problem is None else problem] += 1
        print(f"{trial:4} {scenario.name}: {problem or 'resumed'}", flush=True)
    return tally


def write_inputs(folder: Path) -> None:
    """Write slides, labelled tiles, features, tables and recipes."""
    folder.mkdir()
    (folder / "train.toml").write_text(TRAIN_RECIPE)
    (folder / "mil.toml").write_text(MIL_RECIPE)
    (folder / "slides").mkdir()
    for name in ("a", "b"):
        path = folder / "slides" / f"{name}.tif"
        write_synthetic_slide(path, (SIDE_PX, SIDE_PX), mpp=0.5, seed=ord(name))
    write_tiles(folder / "tiles")
    draws = np.random.default_rng(0)
    lines = ["slide_id,patient,label,time,event"]
    for number in range(18):
        write_bag(folder / "bags", f"s{number}", draws.normal(number % 2, 1, (30, 16)))
        fate = f"{20 - number % 7},{int(number % 3 != 0)}"
        lines.append(f"s{number},p{number},{'ab'[number % 2]},{fate}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")


def write_tiles(folder: Path) -> None:
    """Write tiles of two colours, four in each of ten groups."""
    draws, lines = np.random.default_rng(0), ["path,label,group"]
    for number in range(40):
        label = ("gland", "stroma")[number % 2]
        rgb = draws.normal((150, 90, 160) if number % 2 else (200, 120, 150), 30, (48, 48, 3))
        (folder / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(folder / label / f"{number}.png"), rgb[..., ::-1].clip(0, 255).astype(np.uint8)
        )
        lines.append(f"{label}/{number}.png,{label},g{number // 4}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def write_bag(folder: Path, name: str, vectors: np.ndarray) -> None:
    """Write a file of features."""
    passport = Passport(
        encoder="none",
        identity="none",
        weights={"digest": "none"},
        transform={"tile_px": 256, "input_px": 256},
        pooling="mean",
        features=vectors.shape[1],
        precision="float32",
        mpp=0.5,
        mpp_read=0.5,
        stain={"normalise": "none"},
        slide={"id": name, "fingerprint": name, "mpp": 0.5},
        options="none",
    )
    place = np.arange(2 * len(vectors)).reshape(-1, 2) * 256
    features = SlideFeatures(
        slide_id=name,
        features=vectors.astype(np.float32),
        xy=place,
        passport=passport,
        tiles={"patch_size": 256, "patch_size_level0": 256, "overlap": 0},
    )
    write_features(folder, features)


@dataclass(frozen=True)
class Whole:
    """What a command takes and leaves if nothing happens to it."""

    seconds: float
    files: dict[str, str]


def undisturbed(folder: Path, scenario: Scenario) -> Whole:
    """Run a scenario, keep what it starts from, and take down what it leaves."""
    work = folder / f"whole-{scenario.name.replace(' ', '')}"
    work.mkdir()
    for given in (folder / "inputs").iterdir():
        (work / given.name).symlink_to(given)
    for command in scenario.before:
        finish(work, command)
    shutil.copytree(work, start_of(folder, scenario), symlinks=True)
    began = time.monotonic()
    finish(work, scenario.command)
    return Whole(time.monotonic() - began, dict(digests(work / "out")))


def start_of(folder: Path, scenario: Scenario) -> Path:
    """Name the folder that a scenario starts from."""
    return folder / f"start-{scenario.name.replace(' ', '')}"


def one_trial(folder: Path, scenario: Scenario, whole: Whole, draw: random.Random) -> str | None:
    """Kill, resume and compare; returns what went wrong."""
    work = folder / "trial"
    shutil.rmtree(work, ignore_errors=True)
    # with times of change, by which finished work is recognised
    subprocess.run(["cp", "-a", start_of(folder, scenario), work], check=True)
    ended = False
    for _ in range(draw.choice((1, 1, 2))):
        if not ended:
            seconds, alone = draw.random() * whole.seconds, draw.random() < 0.5
            ended = kill_after(work, scenario.command, seconds, alone=alone)
    try:
        if not ended:
            finish(work, scenario.command)
        finish(work, f"verify {scenario.verified} --quiet")
    except subprocess.SubprocessError as error:
        return f"ended badly: {error}"
    found = dict(digests(work / "out"))
    differing = [
        name
        for name in found.keys() | whole.files.keys()
        if found.get(name) != whole.files.get(name)
    ]
    return f"differs: {sorted(differing)[:3]}" if differing else None


def start(work: Path, command: str) -> ForkServerProcess:
    """Start a command in a session of its own, so that all its processes can be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=run_command, args=(work, command.split()))
    process.start()
    return process


def run_command(work: Path, words: list[str]) -> None:
    """Be a command; the process is its own."""
    os.setsid()
    os.chdir(work)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.argv = ["wsi-pipeline", *words]
    wsi_pipeline()


def finish(work: Path, command: str) -> None:
    """Run a command to its end, which must be good."""
    process = start(work, command)
    process.join(WAIT_SECONDS)
    if process.exitcode is None:
        process.kill()
        raise subprocess.TimeoutExpired(command, WAIT_SECONDS)
    if process.exitcode:
        raise subprocess.CalledProcessError(process.exitcode, command)


def kill_after(work: Path, command: str, seconds: float, *, alone: bool) -> bool:
    """Start a command and kill it, alone or with the processes it started.

    Returns
    -------
    bool
        Whether it had ended well before.
    """
    process = start(work, command)
    process.join(seconds)
    if process.exitcode is None and process.pid is not None:
        victims = [] if alone else children(process.pid)
        for victim in (process.pid, *victims):
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.join()
    return process.exitcode == 0


def children(pid: int) -> list[int]:
    """Find the processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def digests(out: Path) -> Iterator[tuple[str, str]]:
    """Hash the files of results by name; records, logs and views hold times."""
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out).as_posix()
        if file.is_file() and ".wsi-pipeline" not in file.parts and file.name not in VIEWS | TIMED:
            yield name, hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
