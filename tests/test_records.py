"""The records of a folder: what is kept, recognised and shown; slides on their way to them."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest

from wsi_pipeline.errors import OutputError, ReportError
from wsi_pipeline.run.journeys import Journey, Leg, Traffic
from wsi_pipeline.run.lanes import Lane, ThreadLane
from wsi_pipeline.run.marks import Stage, find_damage, is_untouched, make_mark
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.records import Records
from wsi_pipeline.run.report import Publisher, republish_report, write_views
from wsi_pipeline.run.work import finished_stages

if TYPE_CHECKING:
    from wsi_pipeline.run.lanes import Tools


def outcome(slide_id: str, model: str = "", status: Status = Status.DONE) -> SlideOutcome:
    return SlideOutcome(
        slide_id=slide_id,
        path=f"slides/{slide_id}.svs",
        status=status,
        model=model,
        slide={"mpp": 0.5, "mpp_source": "tiff", "size_wh": [10, 20], "reader": "r", "vendor": "v"},
        funnel={"kept": 4},
        classified_mm2=1.0,
        class_shares={"tumor": 0.5} if model else {},
        class_colors={"tumor": "#ff0000"} if model else {},
    )


def report(run: str = "r") -> RunReport:
    return RunReport(
        command="c", started="2026", config={}, model={}, versions={}, outcomes=(), run=run
    )


def test_a_record_comes_back_and_a_changed_byte_does_not(tmp_path: Path) -> None:
    records = Records(tmp_path)
    mark = make_mark(tmp_path, {"recipe": "x"}, {})
    records.write(replace(outcome("a", "m"), stages={"store": mark}))
    (file,) = tmp_path.rglob("m.model.json")
    assert json.loads(file.read_bytes())["record"]["slide_id"] == "a", "plain JSON for others"

    assert Records(tmp_path).read("a", "m") == records.read("a", "m")
    content = file.read_bytes()
    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 4
        file.write_bytes(changed)
        assert Records(tmp_path).read("a", "m") is None
        assert Records(tmp_path).damaged() == [file]


def test_the_patches_stand_for_a_slide_until_a_model_does_or_they_fail(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for record in (outcome("a"), outcome("a", "m"), outcome("b"), outcome("a", "k")):
        records.write(record)
    assert [(o.slide_id, o.model) for o in records.shown()] == [("a", "k"), ("a", "m"), ("b", "")]

    records.write(outcome("a", status=Status.FAILED))

    assert [o.model for o in records.shown() if o.slide_id == "a"] == ["", "k", "m"]


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, other = Records(tmp_path), Records(tmp_path)
    for name in "abc":
        other.write(outcome(name))
    assert len(records.all()) == 3
    read: list[str] = []
    inner = SlideOutcome.from_json

    def note(text: bytes) -> SlideOutcome:
        read.append(json.loads(text)["slide_id"])
        return inner(text)

    monkeypatch.setattr(SlideOutcome, "from_json", note)

    other.write(outcome("b", status=Status.FAILED))

    assert [o.status for o in records.all()] == ["done", "failed", "done"]
    assert read == ["b"]


def test_a_stage_is_finished_while_its_files_are_as_they_were_left(tmp_path: Path) -> None:
    (tmp_path / "s" / "p.zarr" / "he").mkdir(parents=True)
    for name in ("s/table", "s/p.zarr/he/c"):
        (tmp_path / name).write_bytes(b"content")
    origin = {"model": "m"}
    mark = make_mark(tmp_path, origin, {"table": "s/table", "patches": "s/p.zarr"})
    record = replace(outcome("s"), stages={Stage.PREDICTIONS.value: mark})

    def finished(**changes: str) -> bool:
        wanted = {Stage.PREDICTIONS: {**origin, **changes}}
        return bool(finished_stages(record, wanted, tmp_path))

    assert finished()
    assert not finished(model="other")
    os.utime(tmp_path / "s" / "table")  # copied, for instance
    assert not finished()
    assert find_damage(mark, tmp_path) == {}
    (tmp_path / "s" / "table").write_bytes(b"CONTENT")
    assert list(find_damage(mark, tmp_path)) == ["s/table"]
    mark = make_mark(tmp_path, origin, {"patches": "s/p.zarr"})
    assert is_untouched(mark, tmp_path)
    (tmp_path / "s" / "p.zarr" / "he" / "c").unlink()
    assert not is_untouched(mark, tmp_path)
    assert find_damage(make_mark(tmp_path, {}, {}), tmp_path) == {}


def test_views_show_the_folder_whichever_run_left_it(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write_run(report("1"))
    records.write(outcome("=a", "m"))
    records.write(outcome("b", status=Status.FAILED).failed(ValueError("<b>why</b>")))

    write_views(Records(tmp_path))

    found = json.loads((tmp_path / "run.json").read_text())["outcomes"]
    assert [o["slide_id"] for o in found] == ["=a", "b"]
    page = (tmp_path / "index.html").read_text()
    assert "&lt;b&gt;why" in page
    assert "not foreseen" in page
    with (tmp_path / "summary.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first["slide"] == "'=a", "no formula for a spreadsheet"
    assert (first["mm2_tumor"], first["share_tumor"], first["tiles"]) == ("0.5", "0.5", "4")
    assert (second["status"], second["reason"], second["mm2_tumor"]) == (
        "failed",
        "<b>why</b>",
        "",
    )


def test_a_folder_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    old = replace(report(), outcomes=(outcome("a"), replace(outcome("b"), slide={"x": 1})))
    old.write(tmp_path / "run.json")

    assert [o.slide_id for o in republish_report(tmp_path).outcomes] == ["a", "b"]
    assert len(Records(tmp_path).all()) == 2
    with pytest.raises(ReportError, match="no report"):
        republish_report(tmp_path / "elsewhere")


def test_five_thousand_records_are_shown_in_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read and written as a run does it; the target is in benchmarks/folders.py."""
    records = Records(tmp_path)
    records.write_run(report())
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        for number in range(1000):
            records.write(outcome(f"s{number}"))
    began = time.monotonic()

    assert len(write_views(Records(tmp_path)).outcomes) == 1000

    assert time.monotonic() - began < 10


def test_views_are_not_made_more_often_than_they_are_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Records(tmp_path)
    records.write_run(report())
    made: list[float] = []

    def slow(records: Records) -> None:
        made.append(time.monotonic())
        time.sleep(0.05)

    monkeypatch.setattr("wsi_pipeline.run.report.write_views", slow)
    publisher = Publisher(records)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        publisher.soon()

    assert len(made) == 1


@contextmanager
def lanes() -> Iterator[dict[Lane, ThreadLane]]:
    with ExitStack() as stack:
        yield {
            lane: stack.enter_context(closing(ThreadLane(lane.value, lambda news: None)))
            for lane in Lane
        }


def journey(slide_id: str, *legs: Leg) -> Journey:
    start = SlideOutcome(slide_id=slide_id, path=slide_id, status=Status.EMPTY)
    return Journey(slide_id, lambda: (start, list(legs)))


def done(outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
    return replace(outcome, status=Status.DONE)


def test_few_slides_are_under_way_however_slow_prediction_is(tmp_path: Path) -> None:
    prepared: list[str] = []
    most = 0
    predicted = 0

    def prepare(outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
        prepared.append(outcome.slide_id)
        return outcome

    def predict(outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
        nonlocal most, predicted
        time.sleep(0.02)
        most = max(most, len(prepared) - predicted)
        predicted += 1
        return replace(outcome, status=Status.DONE)

    legs = (Leg(Lane.PREPARE, prepare), Leg(Lane.PREDICT, predict))
    with lanes() as by_name:
        traffic = Traffic(Records(tmp_path), by_name, 1, "r")
        found = list(traffic.outcomes([journey(str(n), *legs) for n in range(30)]))

    assert len(found) == 30
    assert most <= 4, "one in each of three lanes and one that waits"


@pytest.mark.parametrize(
    "error", [MemoryError(), ValueError("$_$"), RecursionError("deep"), OSError(28, "full")]
)
def test_whatever_happens_to_a_slide_is_its_own_failure(tmp_path: Path, error: Exception) -> None:
    def fail(outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
        raise error

    journeys = [
        journey("a", Leg(Lane.PREPARE, done)),
        journey("b", Leg(Lane.PREPARE, fail), Leg(Lane.PREDICT, done)),
        journey("c", Leg(Lane.FINISH, done)),
    ]
    with lanes() as by_name:
        found = list(Traffic(Records(tmp_path), by_name, 1, "r").outcomes(journeys))

    statuses = {o.slide_id: o.status for o in found}
    assert statuses == {"a": Status.DONE, "b": Status.FAILED, "c": Status.DONE}
    (bad,) = (o for o in Records(tmp_path).all() if o.slide_id == "b")
    assert bad.kind == type(error).__name__
    assert bad.error
    assert bad.hint


def test_every_stop_is_on_record(tmp_path: Path) -> None:
    records = Records(tmp_path)
    seen: list[Status] = []

    def look(outcome: SlideOutcome, tools: Tools) -> SlideOutcome:
        record = records.read("a")
        assert record is not None
        seen.append(record.status)
        return replace(outcome, status=Status.DONE)

    with lanes() as by_name:
        legs = (Leg(Lane.PREPARE, done), Leg(Lane.FINISH, look))
        (found,) = Traffic(records, by_name, 1, "r").outcomes([journey("a", *legs)])

    assert seen == [Status.UNFINISHED]
    assert records.read("a") == found
    assert found.run == "r"
    assert found.ended


def test_a_slide_that_another_run_is_at_is_left_for_later_and_found_done(tmp_path: Path) -> None:
    """Two runs of one command share its slides, and neither says that a slide failed."""
    records = Records(tmp_path)
    order: list[str] = []
    held, release = Event(), Event()

    def other_run() -> None:
        with records.claim("a"):
            held.set()
            release.wait(20)
            records.write(outcome("a"))

    def plan(slide_id: str) -> tuple[SlideOutcome, list[Leg]]:
        record = Records(tmp_path).read(slide_id)
        if record is not None:
            return record, []
        return outcome(slide_id, status=Status.EMPTY), [Leg(Lane.PREPARE, done)]

    thread = Thread(target=other_run)
    thread.start()
    assert held.wait(10)
    journeys = [Journey(name, partial(plan, name)) for name in "abc"]
    with lanes() as by_name:
        for found in Traffic(Records(tmp_path), by_name, 1, "r").outcomes(journeys):
            order.append(found.slide_id)
            if len(order) == 2:
                release.set()
    thread.join()

    assert order == ["b", "c", "a"]
    assert {o.status for o in records.all()} == {Status.DONE}


def test_a_folder_that_is_held_says_by_whom(tmp_path: Path) -> None:
    records = Records(tmp_path)
    with records.claim("a"), pytest.raises(OutputError, match=f"process {os.getpid()} on "):
        records.claim("a").__enter__()


def test_a_record_of_another_slide_counts_for_nothing(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for record in (outcome("a"), outcome("b"), outcome("b", "m")):
        records.write(record)
    folder = tmp_path / ".wsi-pipeline" / "slides"
    (folder / "a" / "patches.json").write_bytes((folder / "b" / "patches.json").read_bytes())
    (folder / "b" / "k.model.json").write_bytes((folder / "b" / "m.model.json").read_bytes())

    assert records.read("a") is None
    assert [(o.slide_id, o.model) for o in records.all()] == [("b", ""), ("b", "m")]
    assert len(records.damaged()) == 2


def test_a_folder_in_the_place_of_a_record_costs_its_slide(tmp_path: Path) -> None:
    records = Records(tmp_path)
    place = tmp_path / ".wsi-pipeline" / "slides" / "a" / "patches.json"
    place.mkdir(parents=True)
    slides = [journey(name, Leg(Lane.FINISH, done)) for name in "ab"]

    with lanes() as by_name:
        bad, good = Traffic(records, by_name, 1, "run").outcomes(slides)

    assert (bad.status, good.status) == (Status.FAILED, Status.DONE)
    assert str(place) in (bad.error or "")
    assert "remove it" in bad.hint
    assert records.damaged() == [place]
    assert records.read("a") is None


def test_views_survive_the_loss_of_the_runs(tmp_path: Path) -> None:
    records = Records(tmp_path)
    with pytest.raises(ReportError):
        write_views(records)
    records.write(outcome("a"))

    assert [o.slide_id for o in write_views(records).outcomes] == ["a"]
    assert "a" in (tmp_path / "index.html").read_text()
