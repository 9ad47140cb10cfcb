"""One changed input -> what reading it came to; run in a process that may die of it."""

from __future__ import annotations

import logging
import os
import shutil
import time
import traceback
import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from wsi_models.encoders.errors import EncoderError
from wsi_models.errors import TrainingError
from wsi_models.model_folder import BundleError

from tests.faults.mutate import mutate
from tests.faults.targets import TARGETS, Target
from wsi_pipeline.errors import WsiPipelineError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

EXPLAINED = (WsiPipelineError, TrainingError, BundleError, EncoderError)
"""What the command line turns into a message."""


class Verdict(StrEnum):
    """What reading a changed input came to."""

    READ = "read"
    REFUSED = "refused"
    SILENT = "silent"
    TRACEBACK = "traceback"
    CRASH = "crash"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Result:
    """What one changed input came to.

    Attributes
    ----------
    verdict : Verdict
        Good are the first two.
    said : str
        The message, or the end of the traceback.
    seconds : float
        Time to read it.
    mib : float
        Most memory that the process held meanwhile.
    """

    verdict: Verdict
    said: str
    seconds: float
    mib: float


def change(original: Path, target: Target, name: str, seed: int, folder: Path) -> Path:
    """Write the changed input of a seed, and return its path."""
    draws = np.random.default_rng([seed, crc32(name.encode())])
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    source = original
    if original.is_dir() or original.suffix == ".mrxs":
        if original.is_dir():
            shutil.copytree(original, path)
        else:
            shutil.copy(original, path)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            shutil.copytree(original.with_suffix(""), path.with_suffix(""))
        inside = path if original.is_dir() else path.with_suffix("")
        files = sorted(file for file in inside.rglob("*") if file.is_file())
        changed = files[int(draws.integers(len(files)))]
        source = changed
    else:
        changed = path
    changed.write_bytes(mutate(source.read_bytes(), target.mutators, draws))
    return path


def read(name: str, path: Path, truth: object) -> Result:
    """Read a changed input and judge what came of it."""
    target = TARGETS[name]
    _forget_peak()
    begin = time.perf_counter()
    verdict, said = Verdict.READ, ""
    try:
        found = target.read(path)
        if target.sealed and found != truth:
            verdict, said = Verdict.SILENT, f"{found}"[:300]
    except EXPLAINED as error:
        verdict, said = Verdict.REFUSED, str(error)[:300]
    except (Exception, RecursionError):  # noqa: BLE001 -- it is what is sought
        verdict, said = Verdict.TRACEBACK, traceback.format_exc()[-1500:]
    return Result(verdict, said, time.perf_counter() - begin, _peak_mib())


def serve(connection: Connection, folder: Path) -> None:
    """Make sound inputs, then read changed ones as they are asked for, until there are no more."""
    # the program shows no warning of libraries that read odd files; here none may be an error
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    scratch = folder / f"changed-{os.getpid()}"
    scratch.mkdir(parents=True)
    truths: dict[str, object] = {}
    while True:
        asked = connection.recv()
        if asked is None:
            return
        name, seed = asked
        original = folder / "sound" / name
        if name not in truths:
            if not original.exists():
                original.parent.mkdir(parents=True, exist_ok=True)
                TARGETS[name].make(original)
            truths[name] = TARGETS[name].read(original)
        path = change(original, TARGETS[name], name, seed, scratch)
        connection.send(str(path))
        connection.send(read(name, path, truths[name]))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
