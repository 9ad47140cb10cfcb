"""Work in lanes of this process, and how it tells how far it is."""

from __future__ import annotations

from concurrent.futures import CancelledError, wait
from functools import partial
from threading import Event, get_ident

import pytest

from wsi_pipeline.run.lanes import StepNews, TellingProgress, ThreadLane, Tools


def test_a_lane_does_one_piece_of_work_after_the_other() -> None:
    done: list[str] = []
    threads: set[int] = set()
    lane = ThreadLane("test", lambda news: None, shared="the model")

    def work(name: str, tools: Tools) -> str:
        threads.add(get_ident())
        done.append(name)
        return f"{name} with {tools.shared()}"

    futures = [lane.submit(name, partial(work, name)) for name in "abc"]
    wait(futures)
    lane.close()

    assert done == ["a", "b", "c"]
    assert futures[1].result() == "b with the model"
    assert len(threads) == 1
    assert get_ident() not in threads


def test_lanes_run_beside_each_other() -> None:
    lanes = [ThreadLane(name, lambda news: None) for name in ("one", "other")]
    met = [Event(), Event()]

    def meet(mine: int, tools: Tools) -> bool:
        met[mine].set()
        return met[1 - mine].wait(timeout=10)

    futures = [lanes[k].submit("slide", partial(meet, k)) for k in (0, 1)]

    assert all(future.result() for future in futures)
    for lane in lanes:
        lane.close()


def test_closing_drops_what_waits_and_stops_what_tells_of_progress() -> None:
    begun = Event()
    lane = ThreadLane("test", lambda news: None)

    def endless(tools: Tools) -> None:
        tools.progress.start("patches", 10**9)
        while True:
            begun.set()
            tools.progress.advance(10**6)
            tools.progress.start("again", 10**9)

    running, waiting = lane.submit("a", endless), lane.submit("b", endless)
    assert begun.wait(timeout=10)
    lane.close()

    assert isinstance(running.exception(timeout=0), CancelledError)
    assert waiting.cancelled()


def test_news_come_at_the_start_now_and_then_and_at_the_end() -> None:
    told: list[StepNews] = []
    progress = TellingProgress("slide", told.append)

    progress.start("patches", 1000)
    for _ in range(1000):
        progress.advance()

    assert told[0] == StepNews(key="slide", what="patches", done=0, total=1000)
    assert told[-1].done == 1000
    assert len(told) < 100


def test_an_error_of_the_work_is_in_its_future() -> None:
    lane = ThreadLane("test", lambda news: None)

    def fail(tools: Tools) -> None:
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        lane.submit("a", fail).result()
    lane.close()
