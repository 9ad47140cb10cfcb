"""The record of a run and its page."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.report import VIEW_ADDRESS, write_report

SLIDE = {
    "size_wh": [4096, 2048],
    "mpp": 0.25,
    "mpp_source": "objective",
    "reader": "tiff",
    "vendor": "aperio",
}
STAIN = {
    "verdict": "flagged",
    "reasons": ["angle 60.0, outside 21 to 52"],
    "matrix": {
        "vectors": [[0.6, 0.7, 0.3], [0.2, 0.7, 0.6]],
        "max_concentration": [1.1, 0.8],
        "background": [255, 255, 255],
    },
}


@pytest.fixture
def report() -> RunReport:
    done = SlideOutcome(
        slide_id="a & b",
        path="slides/a & b.svs",
        status=Status.DONE,
        slide=SLIDE,
        stain=STAIN,
        funnel={"kept": 3, "glass": 5},
        class_shares={"tumor": 2 / 3, "stroma": 1 / 3},
        class_colors={"tumor": "#ff0000", "stroma": "#00ff00"},
        seconds={"mask": 0.5},
        files={"qc": "a & b/qc.png", "predictions": "a & b/m/predictions.parquet"},
    )
    failed = SlideOutcome(
        slide_id="bad", path="bad.svs", status=Status.FAILED, error="<script>alert(1)</script>"
    )
    return RunReport(
        command="wsi-pipeline run a",
        started="2026-01-01T00:00:00+00:00",
        config={"tile": {"mpp": 0.5}},
        model={
            "name": "m",
            "class_names": ["tumor", "stroma"],
            "class_colors": ["#ff0000", "#00ff00"],
            "trained_on": "slides of one hospital",
        },
        versions={"zarr": "3"},
        outcomes=(done, failed),
    )


def test_clusters_that_a_slide_does_not_have_are_not_listed(
    report: RunReport, tmp_path: Path
) -> None:
    names = [f"cluster {number}" for number in range(1, 101)]
    shares = dict.fromkeys(names, 0.0) | {"cluster 7": 0.75, "cluster 99": 0.25}
    (done, _) = report.outcomes
    outcomes = (replace(done, class_shares=shares, class_colors=dict.fromkeys(names, "#123456")),)
    page = tmp_path / "index.html"
    write_report(page, replace(report, outcomes=outcomes))
    text = Page(page.read_text()).text
    assert "cluster 7 75.0 %" in text
    assert "cluster 99 25.0 %" in text
    assert "cluster 8 " not in text


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def every(self, tag: str, attribute: str) -> list[str | None]:
        return [attrs.get(attribute) for name, attrs in self.tags if name == tag]


def test_the_record_reads_back(tmp_path: Path, report: RunReport) -> None:
    report.write(tmp_path / "run.json")

    values: dict[str, Any] = json.loads((tmp_path / "run.json").read_text())

    assert values["schema"] == 1
    assert [o["status"] for o in values["outcomes"]] == ["done", "failed"]
    assert report.count(Status.FAILED) == 1


def test_the_page_shows_verdicts_reasons_and_links(tmp_path: Path, report: RunReport) -> None:
    write_report(tmp_path / "index.html", report)

    page = Page((tmp_path / "index.html").read_text())

    assert "a%20%26%20b/qc.png" in page.every("img", "src")
    assert "a%20%26%20b/m/predictions.parquet" in page.every("a", "href")
    for fact in (
        "3 of 8 tiles kept",
        "flagged",
        "angle 60.0",
        "66.7 %",
        "an estimate: check it",
        "1 failed",
        "of one hospital",
    ):
        assert fact in page.text


def test_text_from_files_cannot_become_markup(tmp_path: Path, report: RunReport) -> None:
    write_report(tmp_path / "index.html", report)

    page = Page((tmp_path / "index.html").read_text())

    assert "<script>alert(1)</script>" in page.text
    assert [tag for tag, _ in page.tags].count("script") == 1, "ours alone"


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path, report: RunReport) -> None:
    write_report(tmp_path / "index.html", report)

    page = Page((tmp_path / "index.html").read_text())

    loaded = page.every("img", "src") + page.every("link", "href") + page.every("script", "src")
    assert all("://" not in (link or "") for link in loaded)
    links = [link for link in page.every("a", "href") if link and "://" in link]
    assert all(link.startswith(VIEW_ADDRESS) for link in links), "the page of this machine"


def test_a_run_without_slides_or_model_has_a_page(tmp_path: Path, report: RunReport) -> None:
    empty = RunReport(command="", started="", config={}, model={}, versions={}, outcomes=())

    write_report(tmp_path / "index.html", empty)

    assert "0 slides" in Page((tmp_path / "index.html").read_text()).text


def test_doubts_about_the_classes_are_said_on_the_page(report: RunReport, tmp_path: Path) -> None:
    done = replace(report.outcomes[0], doubts=("60% of the tiles look <unlike> those",))
    page = tmp_path / "index.html"
    write_report(page, replace(report, outcomes=(done,)))
    assert "60% of the tiles look <unlike> those" in Page(page.read_text()).text
    assert SlideOutcome.from_json(json.dumps(asdict(done)).encode()).doubts == done.doubts
