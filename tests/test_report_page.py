"""The page of a run in a real browser: it sorts, filters, opens, and fits a telephone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.test_report import SLIDE, STAIN
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Page

sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine: apt install chromium"
    ),
]


def make_page(folder: Path, count: int) -> Path:
    done = SlideOutcome(
        slide_id="",
        path="",
        status=Status.DONE,
        model="m",
        slide=SLIDE,
        stain={**STAIN, "verdict": "ok", "reasons": []},
        funnel={"kept": 3, "glass": 5},
        class_shares={"tumor": 0.75, "stroma": 0.25},
        classified_mm2=4.0,
        class_colors={"tumor": "#0072b2", "stroma": "#e69f00"},
    )
    outcomes = [
        replace(done, slide_id=f"slide-{n:04d}", path=f"/s/{n}.svs", tissue_mm2=float(n * 7 % 101))
        for n in range(count)
    ]
    outcomes.append(
        SlideOutcome(
            slide_id="zz-bad", path="bad.svs", status=Status.FAILED, error="<b>it</b> is truncated"
        )
    )
    report = RunReport(
        command="wsi-pipeline run a",
        started="2026-01-01T00:00:00+00:00",
        config={},
        model={"name": "m", "trained_on": "slides"},
        versions={},
        outcomes=tuple(outcomes),
    )
    write_report(folder / "index.html", report)
    return folder / "index.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    file = make_page(tmp_path_factory.mktemp("page"), 300)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        said: list[str] = []
        opened.on("console", lambda message: said.append(message.text))
        opened.on("pageerror", lambda error: said.append(str(error)))
        opened.goto(file.as_uri())
        yield opened
        browser.close()
    assert said == []


@pytest.fixture(autouse=True)
def _fresh(page: Page) -> None:
    page.goto(page.url.partition("#")[0])
    page.set_viewport_size({"width": 1280, "height": 900})


def names(page: Page) -> list[Any]:
    script = "slides => slides.filter(s => !s.hidden).map(s => s.dataset.name)"
    return list(page.eval_on_selector_all("details.slide", script))


def test_the_page_opens_with_failures(page: Page) -> None:
    assert names(page)[:2] == ["zz-bad", "slide-0000"]
    assert page.locator(".why").inner_text() == "<b>it</b> is truncated"


def test_slides_are_sorted_and_put_back(page: Page) -> None:
    page.select_option("#order", "tissue")
    first = int(names(page)[0].removeprefix("slide-"))
    assert first * 7 % 101 == 100
    page.select_option("#order", "name")
    assert names(page) == [*(f"slide-{n:04d}" for n in range(300)), "zz-bad"]
    page.select_option("#order", "")
    assert names(page)[0] == "zz-bad"


def test_slides_are_found_by_words_and_status(page: Page) -> None:
    page.fill("#search", "SLIDE-012 tumor")
    assert names(page) == [f"slide-{n:04d}" for n in range(120, 130)]
    assert page.locator("#shown").inner_text() == "10 of 301 shown"
    page.fill("#search", "")
    page.click("button.kind.failed")
    assert names(page) == ["zz-bad"]
    page.click("button.kind.failed")
    assert len(names(page)) == 301


def test_a_link_opens_its_slide(page: Page) -> None:
    page.goto(page.url.partition("#")[0] + "#slide-0123/m")
    assert page.locator("details.slide[open] .name").inner_text() == "slide-0123"
    assert "75.0 %" in page.locator("details.slide[open] .facts").inner_text()


def test_nothing_is_wider_than_a_telephone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.click("details.slide summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
