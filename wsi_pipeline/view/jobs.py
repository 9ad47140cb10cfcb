"""Labels -> a model trained on them, by the very commands that a person could type.

A job is a child process per command, so that the page stays quick and a job that dies is one job.
What came of each is in its folder, with the commands and all they said.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import tomli_w

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.learn.strokes import APART_TILES, label_by_strokes
from wsi_pipeline.view.folder import NotInResults

if TYPE_CHECKING:
    from io import BufferedWriter

    from wsi_pipeline.view.slides import Slides

JOBS_FOLDER = "jobs"
JOB_NAME = "job.json"
LOG_NAME = "log.txt"
RECIPE_NAME = "recipe.toml"
TRAINING_STORE = "training.zarr"
"""Not the name of a slide's store, so that no command takes it for one of the results."""

LOG_BYTES = 4000
"""End of the log that the page shows."""

SIDE_STEP = 32
"""Networks halve their input five times."""

MOST_EPOCHS = 1000

STOPPED_CODES = (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)
"""How a command ends that was told to: by the system, or by itself once it has tidied up."""

COMMAND = [sys.executable, "-c", "from wsi_pipeline.cli import main; main()"]

RECIPES: dict[str, dict[str, Any]] = {
    "class-m-small": {
        "title": "CLASS-M, small networks: minutes",
        "most_px": 96,
        "train": {"epochs": 10, "iterations": 25, "patience": 5},
        "method": {
            "method": "class-m",
            "ema_decay": 0.99,
            "encoder": {"name": "small"},
            "mixing": {"ramp_epochs": 4},
            "optimisation": {"lr": 1e-3, "schedule": "constant"},
        },
    },
    "class-m": {
        "title": "CLASS-M, EfficientNet-Lite0: an hour or more, or a GPU",
        "most_px": 224,
        "train": {"epochs": 60, "iterations": 100, "patience": 15},
        "method": {
            "method": "class-m",
            "ema_decay": 0.99,
            "encoder": {"name": "efficientnet_lite0"},
            "optimisation": {"lr": 1e-4},
        },
    },
    "supervised": {
        "title": "Supervised, EfficientNet-Lite0: colours, labels alone",
        "most_px": 224,
        "train": {"epochs": 30, "iterations": 50, "patience": 10},
        "method": {
            "method": "supervised",
            "encoder": {"name": "efficientnet_lite0"},
        },
    },
}
"""What the page offers; a recipe of one's own goes to ``wsi-pipeline train`` itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training that was asked for.

    Attributes
    ----------
    number : int
        Counts from 1 in each results folder.
    recipe : str
        One of :data:`RECIPES`.
    epochs : int
        Epochs at most.
    state : str
        ``running``, ``done``, ``failed`` or ``stopped``.
    commands : tuple of str
        What is run, as it could be typed.
    step : int
        Which of them is under way, or was the last.
    map : str
        Name of the map it makes.
    """

    number: int
    recipe: str
    epochs: int
    state: str = "running"
    commands: tuple[str, ...] = field(default_factory=tuple)
    step: int = 0
    map: str = ""


class Jobs:
    """The trainings of a results folder, one at a time.

    Parameters
    ----------
    slides : Slides
        The slides.
    """

    def __init__(self, slides: Slides) -> None:
        self._slides = slides
        self._folder = slides.folder.work / JOBS_FOLDER
        self._lock = Lock()
        self._running: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._told: int | None = None

    def start(self, recipe: str, epochs: int | None, slide_id: str) -> Job:
        """Start a training on all labels of the folder.

        Parameters
        ----------
        recipe : str
            One of :data:`RECIPES`.
        epochs : int or None
            Epochs at most; those of the recipe if None.
        slide_id : str
            A slide that is predicted afterwards, besides those with labels.

        Returns
        -------
        Job
            Under way.

        Raises
        ------
        ConfigError
            If another is under way, or there is no such recipe.
        """
        if recipe not in RECIPES:
            raise ConfigError(f"there is no recipe {recipe!r}; choose {', '.join(RECIPES)}")
        wanted = RECIPES[recipe]["train"]["epochs"] if epochs is None else epochs
        if not 1 <= wanted <= MOST_EPOCHS:
            raise ConfigError(f"epochs must be 1 to {MOST_EPOCHS}, got {wanted}")
        shown = self._slides.store(slide_id)
        labelled = [name for name in self._slides.slide_ids() if self._slides.has_labels(name)]
        names = {area.name for name in labelled for area in self._slides.areas(name)} - {""}
        if len(names) < 2:
            raise ConfigError(
                f"labels of {len(names)} classes are too few to train on; label tiles of two "
                "classes at least, each in two places"
            )
        self._require_places(labelled, sorted(names))
        with self._lock:
            if self._running is not None:
                raise ConfigError("a training is under way; wait for it, or stop it")
            number = 1 + max((job.number for job in self.all()), default=0)
            self._running = number
        folder = self._folder / str(number)
        name = f"{recipe}-{number}"
        _write_recipe(folder / RECIPE_NAME, name, recipe, shown.patch_px, wanted)
        commands = self._commands(folder, labelled, slide_id)
        job = Job(
            number=number,
            recipe=recipe,
            epochs=wanted,
            map=name,
            commands=tuple(shlex.join(["wsi-pipeline", *command]) for command in commands),
        )
        self._keep(job)
        Thread(target=self._run, args=(job, commands), name=f"job {number}", daemon=True).start()
        return job

    def _require_places(self, labelled: Sequence[str], classes: list[str]) -> None:
        """Refuse labels that no network can be chosen by, before any time is spent on them."""
        places: dict[int, set[tuple[str, int]]] = {}
        for name in labelled:
            store = self._slides.store(name)
            tiles = label_by_strokes(self._slides.areas(name), classes, store.xy, store.extent)
            for label, region in zip(tiles.label.tolist(), tiles.region.tolist(), strict=True):
                places.setdefault(label, set()).add((name, region))
        once = [classes[label] for label, found in sorted(places.items()) if len(found) < 2]
        if once:
            raise ConfigError(
                f"{', '.join(once)} is labelled in one place only; the best network is chosen by "
                f"labels it has not learnt from: label it once more, at least {APART_TILES:g} "
                "tiles away"
            )

    def stop(self, number: int) -> None:
        """Stop a training that is under way."""
        with self._lock:
            if self._running != number:
                return
            # kept as well, for the signal may come between two commands
            self._told = number
            if self._process is not None:
                self._process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Stop what is under way."""
        if self._running is not None:
            self.stop(self._running)

    def all(self) -> list[Job]:
        """Return the trainings of the folder, the newest first."""
        jobs = [_read(file) for file in self._folder.glob(f"*/{JOB_NAME}")]
        alive = [
            job if job.state != "running" or job.number == self._running else _stopped(job)
            for job in jobs
        ]
        return sorted(alive, key=lambda job: -job.number)

    def describe(self, job: Job) -> dict[str, Any]:
        """Return what the page shows of a training: how far it is, and the end of its log."""
        folder = self._folder / str(job.number)
        history = folder / "run" / "history.csv"
        rows = history.read_text(encoding="utf-8").splitlines() if history.exists() else []
        log = folder / LOG_NAME
        text = log.read_bytes()[-LOG_BYTES:].decode("utf-8", "replace") if log.exists() else ""
        return {
            **asdict(job),
            "title": RECIPES.get(job.recipe, {}).get("title", job.recipe),
            "epoch": max(0, len(rows) - 1),
            "log": text.rpartition("\r")[2] if job.state == "running" else text,
        }

    def _commands(self, folder: Path, labelled: Sequence[str], slide_id: str) -> list[list[str]]:
        tiles = folder / "tiles"
        out, labels = str(self._slides.folder.out), self._slides.folder.labels_option
        stores = [str(tiles / name / TRAINING_STORE) for name in labelled]
        predicted = dict.fromkeys([slide_id, *labelled])
        return [
            ["learn", out, *labels, "--training-stores", str(tiles), "--quiet"],
            [
                "train",
                str(folder / RECIPE_NAME),
                *(part for store in stores for part in ("--data", store)),
                "--out",
                str(folder / "run"),
            ],
            [
                "predict",
                *(str(self._slides.store(name).path) for name in predicted),
                "--model",
                str(folder / "run" / "bundle"),
                "--quiet",
            ],
        ]

    def _run(self, job: Job, commands: Sequence[Sequence[str]]) -> None:
        """Run the commands one after the other, until one fails."""
        folder = self._folder / str(job.number)
        try:
            with (folder / LOG_NAME).open("wb") as log:
                for step, command in enumerate(commands):
                    job = replace(job, step=step)
                    self._keep(job)
                    code = self._wait(command, log)
                    if code or self._is_told(job):
                        stopped = code in STOPPED_CODES or self._is_told(job)
                        job = replace(job, state="stopped" if stopped else "failed")
                        break
                else:
                    job = replace(job, state="done")
        except OSError as error:
            job = replace(job, state="failed")
            (folder / LOG_NAME).write_text(f"{error}\n", encoding="utf-8")
        self._keep(job)  # before it is no longer under way: nobody may find it running and dead
        with self._lock:
            self._running = self._process = None

    def _is_told(self, job: Job) -> bool:
        """Whether a training was told to stop."""
        with self._lock:
            return self._told == job.number

    def _wait(self, command: Sequence[str], log: BufferedWriter) -> int:
        log.write(f"$ {shlex.join(['wsi-pipeline', *command])}\n".encode())
        log.flush()
        with self._lock:
            if self._told is not None and self._told == self._running:
                return 128 + signal.SIGTERM
            process = subprocess.Popen(
                [*COMMAND, *command], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
            self._process = process
        return process.wait()

    def find(self, number: int) -> Job:
        """Find a training by its number.

        Raises
        ------
        NotInResults
            If there is none.
        """
        found = next((job for job in self.all() if job.number == number), None)
        if found is None:
            raise NotInResults(f"no training {number}")
        return found

    def _keep(self, job: Job) -> None:
        with replace_atomically(self._folder / str(job.number) / JOB_NAME) as partial:
            partial.write_text(json.dumps(asdict(job)), encoding="utf-8")


def _read(file: Path) -> Job:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Job(**{**values, "commands": tuple(values["commands"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{file} is damaged ({error}); remove its folder") from error


def _stopped(job: Job) -> Job:
    """Return a job whose server is gone, and the job with it."""
    return replace(job, state="stopped")


def _write_recipe(path: Path, name: str, kind: str, patch_px: int, epochs: int) -> None:
    """Write a recipe for tiles of a size; patches are turned by quarters, so none is cut."""
    wanted = RECIPES[kind]
    side = min(patch_px, wanted["most_px"]) // SIDE_STEP * SIDE_STEP
    if side < SIDE_STEP:
        raise ConfigError(
            f"tiles of {patch_px} px are too small to train on; preprocess with --patch-size "
            f"{SIDE_STEP} or more"
        )
    recipe = {
        "name": name,
        "split": {"validation": 0.3, "test": 0.0},
        "train": {**wanted["train"], "epochs": epochs},
        "method": {**wanted["method"], "views": {"patch_px": side, "rotation": "quarter"}},
    }
    with replace_atomically(path) as partial:
        partial.write_text(tomli_w.dumps(recipe), encoding="utf-8")
