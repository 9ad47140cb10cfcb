"""Slides -> pixels, decoded in processes that may die, for what stays open while people look.

A decoder that crashes costs one answer: the next comes from a new process. A slide that has ended
several is not read again until it is opened anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Self, TypeVar

from wsi_files.cores import usable_cores
from wsi_pipeline.config import ReadConfig
from wsi_pipeline.errors import WorkerLostError
from wsi_pipeline.run.processes import ProcessLane
from wsi_pipeline.slide.open import Slide, slide_of
from wsi_pipeline.slide.readers import Reader, SlideHeader, open_reader

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wsi_pipeline.run.lanes import StepNews, Tools

Answer = TypeVar("Answer")

MOST_PROCESSES = 4
"""Each takes about a second to start and a hundred megabytes."""

MOST_OPEN = 8
"""Slides that a process holds open."""

MOST_DEATHS = 3
"""A first may be another's fault, such as memory that ran out."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What a process needs to open a slide; a file that was replaced is another."""

    path: Path
    choice: str
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What a process tells of a slide that it opened."""

    name: str
    header: SlideHeader
    tiles_wh: tuple[tuple[int, int], ...]


class _Readers:
    """Slides open in a process, the latest of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: OrderedDict[_Source, Reader] = OrderedDict()

    def of(self, source: _Source) -> Reader:
        """Open a slide, or return it if it is open."""
        if source not in self._open:
            self._open[source] = open_reader(source.path, source.choice)
            if len(self._open) > self._most:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(source)
        return self._open[source]


class SlidesApart:
    """Opens slides in processes that may die. A context manager.

    Parameters
    ----------
    processes : int or None
        How many decode at a time; if None, one for each core, but few. They start when needed.
    """

    def __init__(self, processes: int | None = None) -> None:
        width = processes or min(MOST_PROCESSES, usable_cores())
        self._lane = ProcessLane("decode", width, _ignore, shared=_Readers(MOST_OPEN))

    def open(
        self,
        path: Path,
        config: ReadConfig | None = None,
        table_mpp: float | None = None,
        *,
        slide_id: str | None = None,
    ) -> Slide:
        """Open a slide, as :func:`~wsi_pipeline.slide.open.open_slide` does.

        Raises
        ------
        WorkerLostError
            If the process died of it; also when it is read.
        SlideError
            As :func:`~wsi_pipeline.slide.open.open_slide`.
        """
        config = config or ReadConfig()
        changed = path.stat().st_mtime_ns if path.exists() else 0  # opening says what is wrong
        reader = _ReaderApart(self._lane, _Source(path, config.reader, changed))
        return slide_of(reader, config, table_mpp, slide_id=slide_id)

    def close(self) -> None:
        """End the processes, and with them every slide that is open."""
        self._lane.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ReaderApart(Reader):
    """Has what it is asked for read elsewhere."""

    def __init__(self, lane: ProcessLane, source: _Source) -> None:
        self._lane = lane
        self._source = source
        self._deaths = 0
        self._lock = Lock()
        opened = self._ask(partial(_open, source))
        super().__init__(source.path, opened.header)
        self.name = opened.name
        self._tiles_wh = opened.tiles_wh

    def tile_wh(self, level: int) -> tuple[int, int]:
        """Return what the slide's own reader says."""
        return self._tiles_wh[level]

    def _fill(self, level: int, xy: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        height, width, _ = pixels.shape
        pixels[...] = self._ask(partial(_read, self._source, level, xy, (width, height)))

    def _ask(self, work: Callable[[Tools], Answer]) -> Answer:
        if self._deaths >= MOST_DEATHS:
            raise WorkerLostError(
                f"{self._source.path} has ended {MOST_DEATHS} processes that read it; it is most "
                f"likely damaged: scan or copy it again, or try another --reader"
            )
        try:
            return self._lane.submit(str(self._source.path), work).result()
        except WorkerLostError as error:
            with self._lock:
                self._deaths += 1
            raise WorkerLostError(f"{self._source.path}: {error}") from error

    def _release(self) -> None:
        """Leave the slide to the processes, which close what they have not read for long."""


def _open(source: _Source, tools: Tools) -> _Opened:
    readers: _Readers = tools.shared()
    reader = readers.of(source)
    return _Opened(
        name=reader.name,
        header=SlideHeader(
            vendor=reader.vendor,
            level_sizes_wh=reader.level_sizes_wh,
            objective_power=reader.objective_power,
            mpp_candidates=reader.mpp_candidates,
            bounds_xy=reader.bounds_xy,
            dicom=reader.dicom,
        ),
        tiles_wh=tuple(reader.tile_wh(level) for level in range(len(reader.level_sizes_wh))),
    )


def _read(
    source: _Source, level: int, xy: tuple[int, int], size_wh: tuple[int, int], tools: Tools
) -> NDArray[np.uint8]:
    readers: _Readers = tools.shared()
    return readers.of(source).read(level, xy, size_wh)


def _ignore(_: StepNews) -> None:
    """Nobody waits for steps here."""
