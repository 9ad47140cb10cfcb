"""Runs over slides: results on disk, survival of bad slides, lanes, parts, and the record."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import pytest
from distributed import LocalCluster

from tests.runs import Bluer, DeadlyPath, bluer, linked, results
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, SchedulerError
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.report import republish_report
from wsi_pipeline.run.slides import NoMonitor, RunOptions, run_slides
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.job import Share, SlideJob

if TYPE_CHECKING:
    import torch

    from tests.known import KnownSlide
    from wsi_pipeline.run.lanes import StepNews


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def report(out: Path, known_slide: KnownSlide) -> RunReport:
    broken = out / "broken.svs"
    broken.write_bytes(b"II*\x00 not a slide")
    jobs = [
        SlideJob(path=broken, slide_id="broken"),
        SlideJob(path=out / "missing.svs", slide_id="missing"),
        SlideJob(path=known_slide.path, slide_id="known"),
    ]
    return run_slides(jobs, RunOptions(out=out, config=load_config()), model=bluer())


def test_bad_slides_are_recorded_and_the_rest_is_done(report: RunReport) -> None:
    broken, missing, known = report.outcomes

    assert (broken.status, missing.status, known.status) == (
        Status.FAILED,
        Status.FAILED,
        Status.DONE,
    )
    assert "broken.svs" in (broken.error or "")
    assert "missing.svs does not exist; check the name" in (missing.error or "")


def test_the_record_holds_what_is_needed_to_repeat(report: RunReport, out: Path) -> None:
    record = json.loads((out / "run.json").read_text())
    (known,) = (o for o in record["outcomes"] if o["slide_id"] == "known")

    assert record["model"]["class_names"] == ["blue", "pink"]
    assert record["config"]["tile"]["mpp"] == 0.5
    assert known["slide"]["mpp_source"] == "tiff"
    assert known["stain"]["matrix"]["vectors"][0][0] > known["stain"]["matrix"]["vectors"][1][0]
    assert sum(known["class_shares"].values()) == pytest.approx(1)
    assert sum(known["funnel"].values()) == 64
    assert set(known["files"]) == {
        "patches", "qc", "qc_small", "predictions", "geojson", "heatmap", "heatmap_small",
    }  # fmt: skip
    assert all((out / path).exists() for path in known["files"].values())


def test_the_record_says_where_the_time_went(report: RunReport, out: Path) -> None:
    known = report.outcomes[2]

    assert {"mask", "stain", "prediction", "exports"} <= set(known.seconds)
    assert report.timing["stages"] == known.seconds  # the others took none
    assert report.timing["verdict"][1:] in (out / "index.html").read_text()
    assert RunReport.read(out / "run.json").timing == report.timing


def test_a_second_run_does_what_is_new(
    report: RunReport, out: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")

    (again,) = run_slides([job], RunOptions(out=out), model=bluer()).outcomes
    copied = tmp_path / "copied"
    shutil.copytree(out, copied)  # other times of change: files are read against their checksums
    other = replace(bluer(), fingerprint="others")
    (predicted,) = run_slides([job], RunOptions(out=copied), model=other).outcomes

    assert again.reused
    assert set(predicted.seconds) == {"prediction", "exports"}
    assert predicted.class_shares == again.class_shares == report.outcomes[2].class_shares


def test_without_patches_predictions_are_the_same(
    report: RunReport, out: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")

    direct = run_slides([job], RunOptions(out=tmp_path, store=False), model=bluer())

    assert direct.outcomes[0].class_shares == report.outcomes[2].class_shares
    # what is known of the slide, and no patch
    (records,) = tmp_path.rglob("*.zarr")
    assert records.name == "slide.zarr"
    assert not {"he", "rgb"} & {path.name for path in records.iterdir()}
    with pytest.raises(ConfigError, match="without a model"):
        run_slides([job], RunOptions(out=tmp_path, store=False))


@pytest.mark.slow
def test_processes_give_the_same_files_and_survive_a_crash(
    report: RunReport, out: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    deadly = SlideJob(path=DeadlyPath(tmp_path / "deadly.svs"), slide_id="deadly")
    broken = SlideJob(path=tmp_path / "broken.svs", slide_id="broken")
    known = SlideJob(path=known_slide.path, slide_id="known")
    jobs = [deadly, broken, known]

    made = run_slides(jobs, RunOptions(out=tmp_path, slides_at_once=2), model=bluer())

    assert [outcome.status for outcome in made.outcomes] == [
        Status.FAILED,
        Status.FAILED,
        Status.DONE,
    ]
    assert "SIGSEGV" in (made.outcomes[0].error or "")
    assert made.outcomes[0].kind == "WorkerLostError"
    assert results(tmp_path) == results(out)


@pytest.mark.slow
def test_a_standing_cluster_gives_the_same_files(
    report: RunReport, out: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    jobs = [SlideJob(path=known_slide.path, slide_id="known")]
    with LocalCluster(
        n_workers=1, threads_per_worker=2, resources={"GPU": 1}, dashboard_address=":0"
    ) as cluster:
        options = RunOptions(out=tmp_path, scheduler=cluster.scheduler_address)

        made = run_slides(jobs, options, model=bluer())

    assert made.outcomes[0].error is None
    assert made.timing["means"]["predictors"] == 1
    assert results(tmp_path) == results(out)


def test_a_scheduler_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_pipeline.run.cluster.CONNECT_SECONDS", 1)
    options = RunOptions(out=tmp_path, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(SchedulerError, match=r"tcp://127\.0\.0\.1:9.*dask scheduler"):
        run_slides([], options)


class _Witness(NoMonitor):
    """Sees the patches of a slide being made."""

    def __init__(self, slide_id: str) -> None:
        self.slide_id = slide_id
        self.seen = Event()

    def tell(self, news: StepNews) -> None:
        if news.key == self.slide_id and news.what.endswith("patches"):
            self.seen.set()


class _WaitingModel(Bluer):
    """Gives no answer before something else has happened."""

    def __init__(self, event: Event) -> None:
        super().__init__()
        self.event = event
        self.in_time = False

    def __deepcopy__(self, memo: object) -> _WaitingModel:
        return self

    def forward(self, he: torch.Tensor) -> torch.Tensor:
        self.in_time = self.event.wait(timeout=60)
        return super().forward(he)


def test_the_next_slide_is_prepared_while_one_is_predicted(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    jobs = linked(known_slide.path, tmp_path / "slides", "first", "second")
    witness = _Witness("second")
    model = _WaitingModel(witness.seen)

    made = run_slides(
        jobs, RunOptions(out=tmp_path / "out"), model=bluer(module=model), monitor=witness
    )

    assert model.in_time
    assert made.count(Status.DONE) == 2


class _Interrupting(NoMonitor):
    """A person who has seen enough after one slide."""

    def finished(self, outcome: SlideOutcome) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_run_stops_at_once_and_goes_on_later(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    missing = SlideJob(path=tmp_path / "missing.svs", slide_id="missing")
    jobs = [missing, *linked(known_slide.path, tmp_path / "slides", "a", "b", "c")]
    options = RunOptions(out=tmp_path / "out")

    with pytest.raises(KeyboardInterrupt):
        run_slides(jobs, options, monitor=_Interrupting())

    assert len(list(options.out.glob("*/patches.zarr"))) < 3
    assert (options.out / "index.html").exists()
    assert run_slides(jobs, options).count(Status.DONE) == 3


def test_parts_of_a_run_make_one_report(known_slide: KnownSlide, tmp_path: Path) -> None:
    jobs = linked(known_slide.path, tmp_path / "slides", "a", "b", "c")
    jobs.append(SlideJob(path=tmp_path / "missing.svs", slide_id="d"))
    out = tmp_path / "out"

    for index in (1, 0):
        run_slides(jobs, RunOptions(out=out, share=Share(index=index, count=2)))

    whole = RunReport.read(out / "run.json")
    assert [outcome.slide_id for outcome in whole.outcomes] == ["a", "b", "c", "d"]
    assert (whole.count(Status.DONE), whole.count(Status.FAILED)) == (3, 1)
    assert "4 slides" in (out / "index.html").read_text()
    (out / "run.json").unlink()
    assert republish_report(out) == whole
    # a run of one slide afterwards forgets none of the others
    run_slides(jobs[:1], RunOptions(out=out))
    assert republish_report(out).outcomes == whole.outcomes


def test_a_table_gives_each_slide_its_resolution(known_slide: KnownSlide, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    rows = [f"{known_slide.path},0.5,stated", f"{known_slide.path.resolve()}.no,0.5,missing"]
    linked(known_slide.path, tmp_path, "twice")
    rows.append(f"{tmp_path / 'twice.tif'},0.25,twice")
    table.write_text("\n".join(["path,mpp,slide_id", *rows]))
    # the same file under two names is one slide: the copy keeps them apart
    (tmp_path / "twice.tif").unlink()
    (tmp_path / "twice.tif").write_bytes(known_slide.path.read_bytes())

    made = run_slides(find_slides([str(table)]), RunOptions(out=tmp_path / "out"))

    stated, missing, twice = made.outcomes
    assert (stated.slide["mpp"], twice.slide["mpp"]) == (0.5, 0.25)
    assert twice.slide["mpp_source"] == "table"
    assert missing.status is Status.FAILED
    # tiles of 0.5 um/px are twice as large on a slide whose pixels span half as much
    assert 4 * sum(twice.funnel.values()) == sum(stated.funnel.values())


def test_results_that_cannot_be_written_are_an_error_at_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        run_slides([], RunOptions(out=file / "below"))


def test_a_run_of_no_slides_leaves_a_report(tmp_path: Path) -> None:
    assert run_slides([], RunOptions(out=tmp_path)).outcomes == ()
    assert (tmp_path / "index.html").exists()
