"""A process of :mod:`wsi_pipeline.run.processes`: does one piece of work at a time, as it is told.

Started by name and not by ``multiprocessing``, which would run the script of whoever called again.
Ends when its parent does.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import cloudpickle

from wsi_files.cores import limit_linear_algebra
from wsi_pipeline.run.lanes import StepNews, TellingProgress, Tools

GRACE_SECONDS = 3.0
"""How long work may go on, once it is to stop, until its next step of progress."""

MEMORY_KILLS_FIRST = "500"
"""Added to how readily the kernel kills this process when memory runs out, rather than its parent,
who knows what is done."""


class _Inbox:
    """Takes what the parent sends, and sees when it is gone."""

    def __init__(self, connection: Connection) -> None:
        self.stopped = Event()
        self._connection = connection
        self._messages: SimpleQueue[bytes | None] = SimpleQueue()
        Thread(target=self._listen, daemon=True).start()

    def next(self) -> bytes | None:
        """Wait for a message; None at the end."""
        return self._messages.get()

    def stop(self, *_: object) -> None:
        """Let what runs end at its next step, or with the process."""
        if not self.stopped.is_set():
            self.stopped.set()
            Thread(target=_end_late, daemon=True).start()
        self._messages.put(None)

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._messages.put(self._connection.recv_bytes())
        self.stop()


def _end_late() -> None:
    time.sleep(GRACE_SECONDS)
    os._exit(1)


def _work(connection: Connection, inbox: _Inbox) -> None:
    packed = inbox.next()
    held: list[Any] = []

    def shared() -> Any:  # noqa: ANN401 -- any object
        if not held and packed is not None:
            held.append(cloudpickle.loads(packed))
        return held[0]

    def tell(news: StepNews) -> None:
        connection.send_bytes(cloudpickle.dumps(("news", news)))

    while (message := inbox.next()) is not None:
        key, work = cloudpickle.loads(message)
        progress = TellingProgress(key, tell, inbox.stopped)
        try:
            answer = ("result", work(Tools(progress=progress, shared=shared)))
        except BaseException as error:  # noqa: BLE001 -- it is raised again in the parent
            answer = ("error", error)
        connection.send_bytes(cloudpickle.dumps(answer))


def main() -> None:
    """Serve the parent at the other end of the connection whose number is the first argument."""
    connection = Connection(int(sys.argv[1]))
    faulthandler.enable()
    limit_linear_algebra()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(MEMORY_KILLS_FIRST, encoding="ascii")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    inbox = _Inbox(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    signal.signal(signal.SIGTERM, inbox.stop)
    with suppress(BrokenPipeError):
        _work(connection, inbox)
    logging.shutdown()
    os._exit(0)  # the parent waits, and there is nothing left to take down with care


if __name__ == "__main__":
    main()
