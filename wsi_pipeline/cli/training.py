"""What ``train`` and ``evaluate`` share: their data and their errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import LOCK_NAME, locked, remove_leftovers

if TYPE_CHECKING:
    from wsi_pipeline.training_data import TrainingData

Command = TypeVar("Command", bound=Callable[..., Any])


def data_options(*, required: bool = True) -> Callable[[Command], Command]:
    """Give a command its patch stores, which may be left out if not required, and its device."""

    def add(command: Command) -> Command:
        for decorate in reversed(_data_options(required=required)):
            command = decorate(command)
        return command

    return add


def _data_options(*, required: bool) -> list[Callable[[Command], Command]]:
    return [
        click.option(
            "--data",
            required=required,
            multiple=True,
            type=click.Path(exists=True, path_type=Path),
            help="Patch store, or a folder of results: then every store in it. Repeatable.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, cuda or cuda:1; auto takes a GPU where there is one.",
        ),
        click.option(
            "--memory-gib",
            type=click.FloatRange(min=0, min_open=True),
            default=4.0,
            show_default=True,
            help="Patches are held in memory if they fit in this, else read as they are needed.",
        ),
    ]


@contextmanager
def training_errors() -> Iterator[None]:
    """Turn what the training package says of its input into an error of the pipeline."""
    from wsi_models.bundle import BundleError
    from wsi_models.errors import TrainingError

    try:
        yield
    except (TrainingError, BundleError) as error:
        raise ConfigError(str(error)) from error


@contextmanager
def writing_run(out: Path) -> Iterator[None]:
    """Keep other trainings out of the folder of a run, and clear up after one that was killed."""
    if int(os.environ.get("RANK", "0")):  # of the processes of one training the first keeps it
        yield
        return
    with locked(out):
        for folder in (out, *out.glob("*/")):
            remove_leftovers(folder)
        try:
            yield
        finally:
            (out / LOCK_NAME).unlink(missing_ok=True)
            with suppress(OSError):  # a training that could not begin leaves no folder
                out.rmdir()


def load_data(
    paths: Sequence[Path], classes: tuple[str, ...], labels: Mapping[str, str], memory_gib: float
) -> TrainingData:
    """Open the stores as one set of patches."""
    from wsi_pipeline.store.find import find_stores
    from wsi_pipeline.training_data import LabelMap, TrainingData

    return TrainingData(
        find_stores(paths),
        LabelMap(classes=classes, names=labels),
        memory_bytes=round(memory_gib * 1024**3),
    )
