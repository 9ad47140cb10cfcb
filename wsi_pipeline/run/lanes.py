"""Pieces of work -> futures, in lanes that run beside each other, on threads of this process.

A lane is what one kind of work waits for: the processor, the device of the model, neither.
What the work is, and in which order a slide takes the lanes, is decided elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from wsi_pipeline.types import Progress

Result = TypeVar("Result")

SECONDS_BETWEEN_STEPS = 0.2
"""Progress is told no more often than this: a person sees no more, and a network carries less."""


class Lane(StrEnum):
    """What a piece of work waits for."""

    PREPARE = "prepare"
    PREDICT = "predict"
    FINISH = "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNews:
    """How far the work on a slide is.

    Attributes
    ----------
    key : str
        Slide id.
    what : str
        The stage, in words.
    done, total : int
        Steps, mostly patches.
    """

    key: str
    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What a piece of work is given where it runs.

    Attributes
    ----------
    progress : Progress
        To be told of patches. It raises ``CancelledError`` when the run was stopped.
    shared : callable
        Gives what all work shares, the model, held once per process.
    """

    progress: Progress
    shared: Callable[[], Any]


Tell = Callable[[StepNews], None]


class WorkLane(Protocol):
    """Takes work of one kind."""

    @property
    def width(self) -> int:
        """Pieces of work that are done at a time."""

    def submit(self, key: str, work: Callable[[Tools], Result]) -> Future[Result]:
        """Do ``work`` on the slide ``key`` when its turn comes, first come first served."""


class TellingProgress:
    """Passes on what a :class:`~wsi_pipeline.types.Progress` is told, not too often.

    Parameters
    ----------
    key : str
        Slide id.
    tell : callable
        Takes the news.
    stopped : Event or None
        Once set, the next step raises ``CancelledError``: the way to end work that is under way.
    """

    def __init__(self, key: str, tell: Tell, stopped: Event | None = None) -> None:
        self._key = key
        self._tell = tell
        self._stopped = stopped
        self._what, self._done, self._total = "", 0, 0
        self._told = 0.0

    def start(self, what: str, total: int) -> None:
        """Announce ``total`` steps of ``what``."""
        self._what, self._done, self._total = what, 0, total
        self._pass_on()

    def advance(self, steps: int = 1) -> None:
        """Report that ``steps`` more are done."""
        self._done += steps
        late = time.monotonic() - self._told > SECONDS_BETWEEN_STEPS
        if late or self._done >= self._total:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._stopped is not None and self._stopped.is_set():
            raise CancelledError("the run was stopped")
        self._told = time.monotonic()
        self._tell(StepNews(key=self._key, what=self._what, done=self._done, total=self._total))


class ThreadLane:
    """Does work one piece after the other on a thread of this process.

    Parameters
    ----------
    name : str
        Name of the thread.
    tell : callable
        Takes the news of the work, from the lane's thread.
    shared : object
        What :attr:`Tools.shared` gives.
    """

    width = 1

    def __init__(self, name: str, tell: Tell, shared: object = None) -> None:
        self._tell = tell
        self._shared = shared
        self._stopped = Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, key: str, work: Callable[[Tools], Result]) -> Future[Result]:
        """Do ``work`` after what was submitted before."""
        progress = TellingProgress(key, self._tell, self._stopped)
        return self._pool.submit(work, Tools(progress=progress, shared=lambda: self._shared))

    def close(self) -> None:
        """Drop what waits, stop what runs at its next step of progress, and wait for it."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)
