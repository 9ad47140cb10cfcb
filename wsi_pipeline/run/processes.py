"""Pieces of work -> futures, on processes of this machine, each of which may die alone.

A native library that aborts, or a kill for memory, ends one process and costs one piece of work.
No port is opened: parent and worker share a pair of connected sockets without a name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from threading import Event, Lock, local
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle

from wsi_pipeline.errors import WorkerLostError
from wsi_pipeline.run.worker import GRACE_SECONDS

if TYPE_CHECKING:
    from wsi_pipeline.run.lanes import Tell, Tools

Result = TypeVar("Result")

START_OF_WORKER = "import wsi_pipeline.run.worker as worker; worker.main()"


class ProcessLane:
    """Does work on a fixed number of processes, which are started when they are first needed.

    Parameters
    ----------
    name : str
        Name of the lane's threads.
    width : int
        Processes.
    tell : callable
        Takes the news of the work, from the lane's threads.
    shared : object
        What :attr:`~wsi_pipeline.run.lanes.Tools.shared` gives; sent once to every process.
    log : Path or None
        File to which the processes append what they say, their last words among it.
    """

    def __init__(
        self, name: str, width: int, tell: Tell, *, shared: object = None, log: Path | None = None
    ) -> None:
        self.width = width
        self._tell = tell
        self._log = log
        self._shared = cloudpickle.dumps(shared)
        self._stopped = Event()
        self._lock = Lock()
        self._mine = local()
        self._workers: set[_Worker] = set()
        self._pool = ThreadPoolExecutor(width, thread_name_prefix=name)

    def submit(self, key: str, work: Callable[[Tools], Result]) -> Future[Result]:
        """Do ``work`` on the slide ``key`` when its turn comes, first come first served."""
        return self._pool.submit(self._do, key, work)

    def close(self) -> None:
        """Drop what waits, stop what runs at its next step of progress, and end the processes."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            workers = list(self._workers)
        for worker in workers:
            worker.ask_to_end()
        self._pool.shutdown()
        for worker in workers:
            worker.end()

    def _do(self, key: str, work: Callable[[Tools], Result]) -> Result:
        worker = self._worker()
        try:
            result: Result = worker.do(key, work, self._tell)
        except EOFError:
            self._mine.worker = None
            with self._lock:
                self._workers.discard(worker)
            end = worker.end()
            if self._stopped.is_set():
                raise CancelledError("the run was stopped") from None
            raise WorkerLostError(_explain(end)) from None
        return result

    def _worker(self) -> _Worker:
        """Return the process of the calling thread, a new one where the last has died."""
        if getattr(self._mine, "worker", None) is None:
            with self._lock:
                if self._stopped.is_set():
                    raise CancelledError("the run was stopped")
                self._mine.worker = _Worker(self._shared, self._log)
                self._workers.add(self._mine.worker)
        worker: _Worker = self._mine.worker
        return worker


class _Worker:
    """One process."""

    def __init__(self, shared: bytes, log: Path | None) -> None:
        self._connection, theirs = Pipe()
        with theirs, _open_log(log) as sink:
            self._process = subprocess.Popen(
                # -P: a module that lies in the current folder is not taken for ours
                [sys.executable, "-P", "-c", START_OF_WORKER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
                start_new_session=True,  # Ctrl-C is for the parent
            )
        with suppress(OSError):  # it may be dead already, which is found out when it is asked
            self._connection.send_bytes(shared)

    def do(self, key: str, work: Callable[[Tools], Any], tell: Tell) -> Any:  # noqa: ANN401
        """Have a piece of work done.

        Raises
        ------
        EOFError
            If the process dies of it.
        """
        message = cloudpickle.dumps((key, work))
        try:
            self._connection.send_bytes(message)
            while True:
                kind, value = cloudpickle.loads(self._connection.recv_bytes())
                if kind == "result":
                    return value
                if kind == "error":
                    raise value
                tell(value)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise EOFError from error

    def ask_to_end(self) -> None:
        """Ask the process to end."""
        self._process.terminate()

    def end(self) -> int:
        """Wait for the process to end, for a while; return how it did, as subprocess tells it."""
        self._connection.close()
        try:
            return self._process.wait(timeout=2 * GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _open_log(log: Path | None) -> Any:  # noqa: ANN401 -- a file
    try:
        if log is not None:
            return log.open("ab")
    except OSError:
        pass  # a run into a folder that is full or read-only says so itself
    return Path(os.devnull).open("ab")


def _explain(end: int) -> str:
    if end == -signal.SIGKILL:
        cause = "was killed, most likely because memory ran out"
        remedy = "give the run more memory, or fewer --workers and --slides-at-once"
    elif end < 0:
        cause = f"was ended by {signal.Signals(-end).name} ({signal.strsignal(-end)})"
        remedy = "the file is most likely damaged: scan or copy it again, or try another --reader"
    else:
        cause = f"ended with code {end}"
        remedy = "the log of the run has its last words"
    return f"the process that worked on it {cause}; {remedy}"
