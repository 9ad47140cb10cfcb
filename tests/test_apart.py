"""Slides that stay open while people look, decoded in processes that may die."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wsi_pipeline.errors import WorkerLostError
from wsi_pipeline.run.apart import MOST_DEATHS, SlidesApart, _ReaderApart
from wsi_pipeline.slide.open import open_slide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.known import KnownSlide


@pytest.fixture(scope="module")
def apart() -> Iterator[SlidesApart]:
    with SlidesApart(processes=1) as slides:
        yield slides


def kill_decoder(apart: SlidesApart) -> None:
    """End the process that decodes, as a crash in a decoder does."""
    (worker,) = apart._lane._workers
    os.kill(worker._process.pid, signal.SIGSEGV)
    worker._process.wait()


def test_pixels_are_those_of_the_slide_also_after_a_crash(
    apart: SlidesApart, known_slide: KnownSlide
) -> None:
    with open_slide(known_slide.path) as here, apart.open(known_slide.path) as there:
        assert there.info == here.info
        places = [(level, (level - 3, 5)) for level in range(len(here.info.level_sizes_wh))]
        for level, xy in places:
            read = there.read_level(level, xy, (90, 70))
            np.testing.assert_array_equal(read, here.read_level(level, xy, (90, 70)))

        kill_decoder(apart)
        with pytest.raises(WorkerLostError, match=rf"{known_slide.path}.*SIGSEGV"):
            there.read_region((0, 0), (8, 8), 0.5)
        np.testing.assert_array_equal(
            there.read_region((700, 700), (64, 64), 2.0),
            here.read_region((700, 700), (64, 64), 2.0),
        )


def test_a_slide_that_ends_processes_costs_few(apart: SlidesApart, known_slide: KnownSlide) -> None:
    slide = apart.open(known_slide.path)
    assert isinstance(slide._reader, _ReaderApart)
    slide._reader._deaths = MOST_DEATHS - 1
    kill_decoder(apart)
    for _ in range(2):
        with pytest.raises(WorkerLostError):
            slide.read_region((0, 0), (8, 8), 0.5)
    assert not apart._lane._workers  # none was started for what is known to be deadly

    assert apart.open(known_slide.path).info == slide.info
