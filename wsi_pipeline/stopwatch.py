"""Blocks of code -> seconds by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up wall time by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block as ``name``."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begin
            self._add(name, spent)

    @contextmanager
    def divided(self) -> Iterator[dict[str, float]]:
        """Count the time of the block as the kinds of work it fills in.

        Threads overlap; each kind gets the share of the time that it has in their seconds.
        """
        work: dict[str, float] = {}
        begin = time.perf_counter()
        yield work
        spent, total = time.perf_counter() - begin, sum(work.values())
        for name, seconds in work.items():
            self._add(name, spent * seconds / total)

    def _add(self, name: str, spent: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
