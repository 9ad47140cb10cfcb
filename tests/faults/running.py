"""Seeds -> results, each read in a process that is replaced when it dies or does not end."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.faults.trial import Result, Verdict, serve
from tests.timm_packages import path_without_timm

LIMIT_SECONDS = 30.0
START_SECONDS = 120.0
"""To load the libraries and make a sound input."""


class Reader:
    """A process that reads changed inputs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._folder), daemon=True)
        with path_without_timm():
            self._process.start()
        theirs.close()

    def read(self, name: str, seed: int) -> tuple[Result, Path | None]:
        """Read the changed input of a seed; return what came of it, and where it lies."""
        self._connection.send((name, seed))
        path = None
        try:
            if not self._connection.poll(START_SECONDS):
                return self._lost(Verdict.HANG, "no input was made"), None
            path = Path(self._connection.recv())
            if not self._connection.poll(LIMIT_SECONDS):
                return self._lost(Verdict.HANG, f"no end in {LIMIT_SECONDS:g} s"), path
            result: Result = self._connection.recv()
        except EOFError:
            self._process.join()
            return self._lost(Verdict.CRASH, f"exit code {self._process.exitcode}"), path
        return result, path

    def _lost(self, verdict: Verdict, said: str) -> Result:
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._start()
        return Result(verdict, said, LIMIT_SECONDS if verdict is Verdict.HANG else 0.0, 0.0)

    def close(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join(10)
        self._process.kill()


@contextmanager
def reader(folder: Path) -> Iterator[Reader]:
    """Lend a process that reads, and end it."""
    held = Reader(folder)
    try:
        yield held
    finally:
        held.close()


def run(
    names: Sequence[str], seeds: Sequence[int], folder: Path, kept: Path | None = None
) -> Iterator[tuple[str, int, Result]]:
    """Read a changed input of every seed for every target; bad ones are copied to ``kept``."""
    with reader(folder) as process:
        for name in names:
            for seed in seeds:
                result, path = process.read(name, seed)
                bad = result.verdict not in (Verdict.READ, Verdict.REFUSED)
                if bad and kept is not None and path is not None:
                    _keep(path, kept / f"{seed}-{name}", result)
                yield name, seed, result


def _keep(path: Path, place: Path, result: Result) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, place, dirs_exist_ok=True)
    elif path.exists():
        shutil.copy(path, place)
    place.with_name(place.name + ".txt").write_text(result.said)
