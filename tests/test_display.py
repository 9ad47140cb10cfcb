"""What a person sees of a run: counts, speed and time left."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from wsi_pipeline.cli.console import MANY_ROWS, print_table
from wsi_pipeline.cli.display import RunDisplay
from wsi_pipeline.run.lanes import StepNews
from wsi_pipeline.run.outcome import SlideOutcome, Status


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def text() -> StringIO:
    return StringIO()


@pytest.fixture
def display(clock: Clock, text: StringIO) -> RunDisplay:
    # no terminal: a line per slide
    shown = RunDisplay(Progress(console=Console(file=text, width=200)), clock)
    shown.begin(4, "predict", "http://localhost:8787/status")
    return shown


def outcome(slide_id: str, status: Status) -> SlideOutcome:
    return SlideOutcome(slide_id=slide_id, path=slide_id, status=status)


def test_the_dashboard_is_named(display: RunDisplay, text: StringIO) -> None:
    assert "Dask dashboard: http://localhost:8787/status" in text.getvalue()


def test_speed_and_time_left_follow_from_the_last_stage(
    display: RunDisplay, clock: Clock, text: StringIO
) -> None:
    display.tell(StepNews(key="a", what="a: patches", done=500, total=1000))
    assert display.summary() == "0 of 4 slides done", "patches that are not predicted yet"

    clock.now = 10.0
    display.tell(StepNews(key="a", what="predict", done=0, total=1000))
    display.tell(StepNews(key="a", what="predict", done=1000, total=1000))
    display.finished(outcome("a", Status.DONE))
    display.finished(outcome("b", Status.FAILED))

    # half of the slides in 10 s, so the other half takes 10 s more
    assert display.summary() == "1 of 4 slides done, 1 failed, 100 patches/s, 0:00:10 left"
    assert "1 failed, 100 patches/s, 0:00:10 left: b failed" in text.getvalue()


def test_slides_under_way_count_by_their_share(display: RunDisplay, clock: Clock) -> None:
    display.finished(outcome("a", Status.DONE))
    clock.now = 30.0
    display.tell(StepNews(key="b", what="predict", done=50, total=100))

    assert display.summary() == "1 of 4 slides done, 2 patches/s, 0:00:50 left"


def test_a_finished_run_has_no_time_left(display: RunDisplay, clock: Clock) -> None:
    clock.now = 5.0
    for name in "abcd":
        display.finished(outcome(name, Status.EMPTY))

    assert display.summary() == "4 of 4 slides done"


@pytest.mark.parametrize("count", [3, MANY_ROWS + 1])
def test_a_table_shows_every_row_in_columns(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("slide", "status"), [(f"s{row}", f"[b]{row}\x1b") for row in range(count)])
    lines = capsys.readouterr().out.splitlines()
    words = ["status"] + ["[b]"] * count
    places = {line.index(word) for line, word in zip(lines, words, strict=True)}
    assert len(places) == 1
    assert lines[-1].split() == [f"s{count - 1}", f"[b]{count - 1}\\x1b"]
