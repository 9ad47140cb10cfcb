"""HDF5 files of other programs -> what they hold, read in a process that may die of them.

HDF5 checks nothing of its own structures: a few changed bytes end the process that reads them.
Files are read one after the other by one process, which ends with the one that asks. What it
answers is JSON and the bytes of arrays, in which no code can hide.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.store.feature_layouts import Vectors, read_vectors

START = "import wsi_pipeline.store.features_apart as apart; apart.main()"

WAIT_SECONDS = 30.0
"""How long a file may take, besides its bytes."""

BYTES_PER_SECOND = 2_000_000
"""What the slowest disk gives."""


class ReaderApart:
    """A process that reads; another takes its place when it dies."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    def read(self, path: Path, *, whole: bool) -> Vectors:
        """Read a file, as :func:`~wsi_pipeline.store.feature_layouts.read_vectors` does.

        Raises
        ------
        FeaturesError
            Also if the process died of it, or did not end.
        """
        limit = WAIT_SECONDS + path.stat().st_size / BYTES_PER_SECOND
        with self._lock:
            if self._process is None:
                self._start()
            try:
                self._connection.send_bytes(json.dumps([str(path.absolute()), whole]).encode())
                return self._answer(path, limit)
            except (EOFError, OSError) as error:
                self.close()
                raise FeaturesError(
                    f"{path} is damaged: the library that reads HDF5 died of it; copy it again, or "
                    f"compute the features again"
                ) from error

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                start_new_session=True,
            )

    def close(self) -> None:
        """End the process; the next file starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._connection.close()

    def _answer(self, path: Path, limit: float) -> Vectors:
        if not self._connection.poll(limit):
            self.close()
            raise FeaturesError(f"{path} is damaged: reading it did not end in {limit:.0f} s")
        about = json.loads(self._connection.recv_bytes())
        if "error" in about:
            raise FeaturesError(about["error"])
        values, places = (self._array(one) for one in about.pop("arrays"))
        return Vectors(tuple(about.pop("shape")), values, places, **about)

    def _array(self, about: list[Any] | None) -> NDArray[Any] | None:
        if about is None:
            return None
        kind, shape = about
        content = bytearray(self._connection.recv_bytes())
        return np.frombuffer(content, dtype=np.dtype(kind)).reshape(shape)


@cache
def reader_apart(pid: int) -> ReaderApart:
    """Return the reader of a process; one that was forked needs its own."""
    reader = ReaderApart()
    atexit.register(reader.close)
    return reader


def main() -> None:
    """Answer the parent at the other end of the connection whose number is the first argument."""
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, BrokenPipeError):
        while True:
            name, whole = json.loads(connection.recv_bytes())
            _reply(connection, Path(name), whole=whole)


def _reply(connection: Connection, path: Path, *, whole: bool) -> None:
    try:
        found = read_vectors(path, whole=whole)
    except (FeaturesError, MemoryError) as error:
        connection.send_bytes(json.dumps({"error": str(error) or "too large"}).encode())
        return
    arrays = [_plain_array(array) for array in (found.values, found.places)]
    about = {
        "shape": found.shape,
        "in_um": bool(found.in_um),
        "passport": found.passport,
        "tiles": found.tiles,
        "arrays": [None if a is None else [a.dtype.str, a.shape] for a in arrays],
    }
    connection.send_bytes(json.dumps(about, default=str).encode())
    for array in arrays:
        if array is not None:
            connection.send_bytes(array.tobytes())


def _plain_array(array: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return an array of numbers; places in another type are none."""
    if array is None or array.dtype == np.float32:
        return array
    return np.ascontiguousarray(array, dtype=np.float64 if array.dtype.kind == "f" else np.int64)
