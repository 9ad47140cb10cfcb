"""The page in a real browser: open, label, learn, train, compare, tune, reload, find everything."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import sync_playwright

from tests.viewed import (
    BROWSER_FLAGS,
    find_browser,
    pure_tiles,
    served,
    served_here,
)
from wsi_pipeline.config import load_config
from wsi_pipeline.preprocess.drawn_tissue import read_drawn_tissue
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.run.outcome import RunReport
from wsi_pipeline.store import PatchStore
from wsi_pipeline.view.folder import ResultsFolder
from wsi_pipeline.view.jobs import RECIPES, Jobs
from wsi_pipeline.view.slides import Slides

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.known import KnownSlide

WAIT_MS = 300_000
"""Patience with a busy machine; every wait ends as soon as what it waits for is there."""

TILE = 64
"""Side of a tile, px: small enough that classes have tiles of their own that lie apart."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def out(small_tiles: Path, tmp_path: Path) -> Path:
    """Results of each test's own, since labels change them."""
    return Path(shutil.copytree(small_tiles, tmp_path / "out"))


class Visit:
    """A person at the page: where to click, and what the browser complains of."""

    def __init__(
        self, browser: Browser, address: str, width: int = 1280, height: int = 800
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.set_default_timeout(WAIT_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.left: list[str] = []
        self.address = address
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._leave(request.url))

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _leave(self, url: str) -> None:
        if not url.startswith((self.address, "data:", f"blob:{self.address}")):
            self.left.append(url)

    def open(self, rest: str = "") -> None:
        self.page.goto(self.address + rest)
        self.page.wait_for_selector("body[data-ready]")

    def until(self, condition: str) -> None:
        """Wait for a condition; playwright's own wait evaluates strings, which the page forbids."""
        end = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(50)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the slide, level-0 px, is on the screen; the slide fills the pane."""
        box = self.page.locator("#panes").bounding_box()
        assert box is not None
        scale = min(box["width"], box["height"]) / 2048
        left = box["x"] + (box["width"] - 2048 * scale) / 2
        top = box["y"] + (box["height"] - 2048 * scale) / 2
        return left + x * scale, top + y * scale

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.place(x, y))
        self.page.wait_for_timeout(120)  # a second click soon after would be a double click

    def draw(
        self, start: tuple[float, float], end: tuple[float, float], radius_keys: str = ""
    ) -> None:
        """Draw a stroke from one place to another."""
        for key in radius_keys:
            self.page.keyboard.press(key)
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(*end), steps=8)
        self.page.mouse.up()

    def saved(self) -> None:
        self.until("document.getElementById('saved').textContent === 'All labels saved'")


def tiles_of_classes(known: KnownSlide, out: Path, each: int) -> dict[str, list[tuple[int, int]]]:
    """Centres of tiles that lie in one class, so far apart that each is a region of its own."""
    xy = PatchStore.open(out / "known" / "patches.zarr").xy
    names = pure_tiles(known, xy, TILE)
    taken: list[tuple[int, int]] = []
    found: dict[str, list[tuple[int, int]]] = {}
    for name in sorted(set(names) - {""}):
        own: list[tuple[int, int]] = []
        for x, y in xy[names == name].tolist():
            near = any(max(abs(x - a), abs(y - b)) < 4 * TILE for a, b in taken + own)
            if not near and len(own) < each:
                own.append((x, y))
        if len(own) == each:
            taken += own
            found[name] = own
    return {name: [(x + TILE // 2, y + TILE // 2) for x, y in own] for name, own in found.items()}


def look(page: Page) -> bytes:
    """Look at the slide and all that is drawn over it."""
    # the caret is left alone: hiding it takes a style that the page does not allow
    return page.locator("#panes").screenshot(caret="initial")


def test_the_whole_loop_from_first_look_to_a_trained_map_and_back(
    browser: Browser, known_slide: KnownSlide, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {**RECIPES["class-m-small"], "train": {"epochs": 1, "iterations": 3}}
    monkeypatch.setitem(RECIPES, "class-m-small", quick)
    places = tiles_of_classes(known_slide, out, 5)
    assert len(places) >= 2
    with served_here(out) as address:
        visit = Visit(browser, address)
        page = visit.page
        visit.open()
        page.click("#tab-label")
        for name in places:
            page.fill("#new-class", name)
            page.click("#add-class")
            page.get_by_role("radio", name=name).wait_for()
        first = look(page)
        for name, tiles in places.items():
            page.get_by_role("radio", name=name).click()
            for x, y in tiles:
                visit.click(x, y)
        visit.saved()
        page.click("#tab-learn")
        page.wait_for_selector("#accuracy")
        page.wait_for_selector("#suggested img")
        page.click("#tab-map")
        visit.until("document.querySelector('#choose-map')?.value === 'learned'")
        learnt = look(page)
        assert learnt != first
        labels = json.loads((out / "known" / "labels.geojson").read_text())["features"]
        names = [label["properties"]["classification"]["name"] for label in labels]
        assert {name: names.count(name) for name in places} == dict.fromkeys(places, 5)

        page.click("#tab-train")
        page.click("#train")
        page.wait_for_selector(".job progress")
        visit.until("document.querySelectorAll('.pane').length === 2")  # beside the first
        page.keyboard.press("+")  # both panes zoom in step
        page.wait_for_timeout(600)

        page.click("#tab-tune")
        page.locator("#tune-min_tissue").fill("0.95")
        page.wait_for_selector("#tuned")
        page.click("#draw-tissue")
        page.keyboard.press("e")
        visit.draw((800, 1100), (1300, 1100), radius_keys="]]]]")
        visit.until("document.querySelector('#run-options')?.textContent.includes('tissue-mask')")
        page.click("#tab-map")
        page.locator("#threshold").fill("0.7")
        visit.until("location.hash.includes('threshold=0.7')")
        page.wait_for_timeout(600)
        kept = page.url
        page.close()

        again = Visit(browser, address)
        again.open(kept.removeprefix(address))
        again.until("document.querySelectorAll('.pane').length === 2")
        captions = again.page.locator(".caption").all_inner_texts()
        assert again.page.input_value("#threshold") == "0.7"
        again.page.click("#tab-label")
        counts = again.page.locator(".chips .number").all_inner_texts()
        assert counts.count("5") == len(places)
        again.page.click("#tab-train")
        (trained,) = again.page.locator(".job h2").all_inner_texts()
        again.page.click("#tab-tune")
        assert again.page.input_value("#tune-min_tissue") == "0.95"
        options = again.page.locator("#run-options").inner_text().split()
        for seen in (visit, again):
            assert seen.complaints == []
            assert seen.left == []

    assert captions == ["learned", trained.split()[0]]
    (map_name,) = {path.parent.name for path in out.glob("known/*/predictions.parquet")} - {
        "bluer",
        "learned",
    }
    assert trained.split() == [map_name, "done"]
    store = PatchStore.open(out / "known" / "patches.zarr")
    assert len(read_predictions(out / "known" / map_name / "predictions.parquet")) == len(store)
    (job,) = Jobs(Slides(ResultsFolder(out))).all()
    assert (job.state, job.map, len(job.commands)) == ("done", map_name, 3)
    config_option, toml, mask_option, masks = options
    assert (config_option, mask_option) == ("--config", "--tissue-mask")
    config = load_config(Path(toml))
    assert (config.tile.min_tissue, config.results.threshold) == (0.95, 0.7)
    drawn = read_drawn_tissue(Path(masks, "known.geojson"), store.slide)
    erased = store.mask.tissue & ~drawn.at(store.mask.tissue.shape, store.mask.downsample)
    assert 0 < erased.sum() < 0.5 * store.mask.tissue.sum()


def test_strokes_outlines_undo_and_a_server_that_dies(browser: Browser, out: Path) -> None:
    file = out / "known" / "labels.geojson"

    def kinds() -> list[str]:
        if not file.exists():
            return []
        return [f["geometry"]["type"] for f in json.loads(file.read_text())["features"]]

    with served_here(out) as address:
        visit = Visit(browser, address)
        page = visit.page
        visit.open("#tab=label")
        page.keyboard.press("b")
        visit.draw((400, 400), (700, 500))
        visit.until("document.querySelector('.chips .number').textContent === '1'")
        assert kinds() == ["Polygon"]

        page.keyboard.press("p")
        for x, y in [(1000, 1000), (1500, 1000), (1500, 1400)]:
            visit.click(x, y)
            page.wait_for_timeout(300)
        page.keyboard.press("Enter")
        visit.until("document.querySelector('.chips .number').textContent === '2'")

        page.keyboard.press("e")  # through the middle of the outline
        visit.draw((900, 1200), (1700, 1200))
        visit.until("!document.getElementById('undo').disabled")
        visit.saved()
        page.wait_for_timeout(300)
        assert "MultiPolygon" in kinds()
        page.keyboard.press("Control+z")
        page.keyboard.press("Control+z")
        visit.until("document.querySelector('.chips .number').textContent === '1'")
        page.keyboard.press("Control+y")
        visit.until("document.querySelector('.chips .number').textContent === '2'")
        port = address.rstrip("/").rpartition(":")[2]
    # the server is gone, and the person goes on
    page.keyboard.press("t")
    visit.click(1100, 600)
    visit.until("document.getElementById('saved').className === 'bad'")
    assert len(kinds()) == 2
    with served_here(out, int(port)):
        visit.saved()
        visit.until("document.querySelector('.chips .number').textContent === '3'")
    assert len(kinds()) == 3


HOSTILE = '<img src=x onerror="document.title=1"> "\'&{{1}}'


@pytest.fixture(scope="module")
def hostile(small_tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where results are served whose names and messages are HTML."""
    out = Path(shutil.copytree(small_tiles, tmp_path_factory.mktemp("hostile") / "out"))
    report = RunReport.read(out / "run.json").to_dict()
    (outcome,) = report["outcomes"]
    outcome["stain"]["reasons"] = [HOSTILE]
    failed = {**outcome, "slide_id": HOSTILE, "status": "failed", "error": HOSTILE}
    report["outcomes"] = [outcome, failed]
    (out / "run.json").write_text(json.dumps(report))
    area = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [900, 0], [900, 900], [0, 0]]]},
        "properties": {"classification": {"name": HOSTILE}},
    }
    (out / "known" / "labels.geojson").write_text(json.dumps([area]))
    with served(out) as address:
        yield address


def test_names_from_files_are_shown_as_text(browser: Browser, hostile: str) -> None:
    visit = Visit(browser, hostile)
    visit.open("#tab=label&" + "map=" + "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    visit.page.get_by_role("button", name="Make it a class").click()
    visit.page.get_by_role("radio", name="<img").wait_for()
    for tab in ("map", "label", "learn", "tune"):
        visit.page.click(f"#tab-{tab}")
        visit.page.mouse.move(*visit.place(500, 500))
        visit.page.wait_for_timeout(200)
    shown = visit.page.inner_text("body")
    assert shown.count("onerror") >= 2
    assert visit.page.locator("img[onerror], img[src='x']").count() == 0
    assert visit.page.title() != "1"
    assert visit.complaints == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_page_fits_its_window(browser: Browser, hostile: str, width: int, height: int) -> None:
    visit = Visit(browser, hostile, width, height)
    visit.open("#outlines=true&mask=true")
    page = visit.page
    for tab in ("map", "label", "learn", "train", "tune"):
        page.click(f"#tab-{tab}")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        box = page.locator("#panes").bounding_box()
        assert box is not None
        assert box["width"] > 0.4 * width
        assert box["height"] > 0.3 * height
    assert visit.complaints == []
