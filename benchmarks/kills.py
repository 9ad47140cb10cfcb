"""Kill commands at random moments, run them again, and compare with what was not disturbed.

    python benchmarks/kills.py --trials 200 --seed 1

A trial takes a command, kills it with SIGKILL once or twice after a random part of the time it
takes (the parent alone, whose workers have to notice, or all its processes at once), and then lets
the same command end. It counts as resumed if that ends with 0, leaves byte for byte the files of an
undisturbed run (records, logs and views, which hold times, aside), nothing half written, and passes
``wsi-pipeline verify``.
"""

from __future__ import annotations

import argparse
import hashlib
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

from wsi_pipeline.synthetic import write_synthetic_slide

SIDE_PX = 1536
VIEWS = {"run.json", "index.html", "summary.csv", ".lock"}
WAIT_SECONDS = 300


@dataclass(frozen=True)
class Scenario:
    """A command, and the ones that make what it starts from."""

    name: str
    before: tuple[str, ...]
    command: str


SCENARIOS = (
    Scenario("preprocess", (), "preprocess slides --out out --quiet"),
    Scenario("run", (), "run slides --out out --quiet"),
    Scenario("run --no-store", (), "run slides --out out --no-store --quiet"),
    Scenario("predict", ("preprocess slides --out out --quiet",), "predict out --quiet"),
    Scenario(
        "features",
        ("preprocess slides --out out --quiet",),
        "features out --model demo --out out/features --quiet",
    ),
    Scenario("export", ("run slides --out out --quiet",), "export out --to regions --to areas"),
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
    (folder / "slides").mkdir()
    for name in ("a", "b"):
        path = folder / "slides" / f"{name}.tif"
        write_synthetic_slide(path, (SIDE_PX, SIDE_PX), mpp=0.5, seed=ord(name))
    whole = {scenario: undisturbed(folder, scenario) for scenario in scenarios}
    tally: dict[str, Counter[str]] = {scenario.name: Counter() for scenario in scenarios}
    for trial in range(trials):
        scenario = scenarios[trial % len(scenarios)]
        draw = random.Random(f"{seed}-{trial}")
        problem = one_trial(folder, scenario, whole[scenario], draw)
        tally[scenario.name]["resumed" if problem is None else problem] += 1
        print(f"{trial:4} {scenario.name}: {problem or 'resumed'}", flush=True)
    return tally


@dataclass(frozen=True)
class Whole:
    """What a command takes and leaves if nothing happens to it."""

    seconds: float
    files: dict[str, str]


def undisturbed(folder: Path, scenario: Scenario) -> Whole:
    """Run a scenario, keep what it starts from, and take down what it leaves."""
    work = folder / f"whole-{scenario.name.replace(' ', '')}"
    work.mkdir()
    (work / "slides").symlink_to(folder / "slides")
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
    for _ in range(draw.choice((1, 1, 2))):
        kill_after(work, scenario.command, draw.random() * whole.seconds, alone=draw.random() < 0.5)
    try:
        finish(work, scenario.command)
        finish(work, "verify out --quiet")
    except subprocess.SubprocessError as error:
        return f"ended badly: {error}"
    found = dict(digests(work / "out"))
    differing = [
        name
        for name in found.keys() | whole.files.keys()
        if found.get(name) != whole.files.get(name)
    ]
    return f"differs: {sorted(differing)[:3]}" if differing else None


def start(work: Path, command: str) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that all its processes can be killed."""
    return subprocess.Popen(
        [sys.executable, "-c", "from wsi_pipeline.cli import main; main()", *command.split()],
        cwd=work,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def finish(work: Path, command: str) -> None:
    """Run a command to its end, which must be good."""
    with start(work, command) as process:
        if process.wait(timeout=WAIT_SECONDS):
            raise subprocess.CalledProcessError(process.returncode, command)


def kill_after(work: Path, command: str, seconds: float, *, alone: bool) -> None:
    """Start a command and kill it, alone or with the processes it started."""
    with start(work, command) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            victims = [] if alone else children(process.pid)
            for victim in (process.pid, *victims):
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def children(pid: int) -> list[int]:
    """Find the processes that a process started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def digests(out: Path) -> Iterator[tuple[str, str]]:
    """Hash the files of results by name; records, logs and views hold times."""
    for file in sorted(out.rglob("*")):
        name = file.relative_to(out).as_posix()
        if file.is_file() and ".wsi-pipeline" not in file.parts and file.name not in VIEWS:
            yield name, hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
