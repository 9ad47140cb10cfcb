"""The page in a real browser -> how long people wait, and the memory of its server.

Usage::

    python benchmarks/view.py list FOLDER [--slides 5000]    # a folder of many slides
    python benchmarks/view.py pan FOLDER [--side 40000]      # first tile, panning
    python benchmarks/view.py loop FOLDER SLIDE AREAS        # slide to a trained second map

``loop`` paints strokes on one region per name of AREAS (GeoJSON), then on a second one, trains, and
tells how much of the other regions each map has right. Nobody thinks or hesitates in it.

A browser gives its own threads the priority of any program, whatever it was started with. On a
machine that others use, ``--before-others`` (root) puts it before them, and so measures the page.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright
from slides import repeated_slide
from tables import table

from wsi_pipeline.annotations import Annotation, read_annotations
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.run.outcome import RunReport

PROGRAM = [sys.executable, "-c", "from wsi_pipeline.cli import main; main()"]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT_MS = 1_200_000
WIDTH, HEIGHT = 1280, 800
NICE = -17
"""Before the programs of people who are nice to themselves."""

FIRST_TILE = "performance.getEntriesByName('first tile')[0]?.startTime"
"""When the first tile was drawn, ms after the page was asked for, by the browser's clock."""

FRAMES = """() => new Promise((resolve) => {
    const gaps = [];
    let last = performance.now();
    const end = last + 4000;
    const tick = (now) => {
        gaps.push(now - last);
        last = now;
        if (now < end) requestAnimationFrame(tick); else resolve(gaps.slice(1));
    };
    requestAnimationFrame(tick);
})"""
"""Gaps between the frames of four seconds, ms."""


@contextmanager
def before_others(root: int) -> Iterator[None]:
    """Keep the threads of a process and of all that it starts before those of other programs."""
    ended = Event()

    def lift() -> None:
        while not ended.wait(0.05):
            for thread in _threads(root):
                with suppress(OSError):  # it ended
                    if os.getpriority(os.PRIO_PROCESS, thread) > NICE:
                        os.setpriority(os.PRIO_PROCESS, thread, NICE)

    lifting = Thread(target=lift, daemon=True)
    lifting.start()
    try:
        yield
    finally:
        ended.set()
        lifting.join()


def _threads(process: int) -> Iterator[int]:
    """Find the threads of a process and of those it started."""
    for folder in Path(f"/proc/{process}/task").glob("*"):
        yield int(folder.name)
        with suppress(OSError):
            for child in (folder / "children").read_text(encoding="ascii").split():
                yield from _threads(int(child))


def command(*words: str) -> None:
    """Run a command of the product."""
    subprocess.run([*PROGRAM, *words], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def visited(out: Path) -> Iterator[tuple[Page, str, int]]:
    """Serve results and visit them; yields the page, its address and the server's process id."""
    words = [*PROGRAM, "view", str(out), "--no-browser", "--port", "0"]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address = server.stdout.readline().removeprefix("Open ").strip()
    browser_path = os.environ.get("WSI_BROWSER") or shutil.which("chromium")
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.set_default_timeout(WAIT_MS)
            yield page, address, server.pid
            browser.close()
    finally:
        server.terminate()
        server.wait()


def memory_mib(process: int) -> tuple[int, int]:
    """Return the memory of a process now, and the most it ever had, MiB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return int(found["VmRSS"]) // 1024, int(found["VmHWM"]) // 1024


def measure_list(folder: Path, count: int) -> list[tuple[str, str]]:
    """Open a folder whose record names many slides; one of them has results."""
    out = _one_slide(folder, 8192)
    report = RunReport.read(out / "run.json")
    (real,) = report.outcomes
    others = tuple(replace(real, slide_id=f"slide-{number:05d}") for number in range(count - 1))
    replace(report, outcomes=(real, *others)).write(out / "run.json")
    size = (out / "run.json").stat().st_size / 2**20
    with visited(out) as (page, address, server):
        first, again = (_timed(lambda: page.request.get(f"{address}api/results")) for _ in "ab")
        begun = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("#slides li")
        listed = time.perf_counter() - begun
        page.wait_for_selector("body[data-ready]")
        ready = time.perf_counter() - begun
        found = _timed(lambda: _find(page, f"{count - 2:05d}"))
        return [
            (
                f"list of {count} slides ({size:.0f} MiB of run.json), first answer",
                f"{first:.2f} s",
            ),
            ("the same again", f"{again:.2f} s"),
            ("list seen in the browser", f"{listed:.2f} s"),
            ("slide seen", f"{ready:.2f} s"),
            ("one of them found by name", f"{found:.2f} s"),
            ("server, now and at most", "{} and {} MiB".format(*memory_mib(server))),
        ]


def _find(page: Page, words: str) -> None:
    page.fill("#filter", words)
    page.wait_for_selector(f"#slides li[data-slide$='{words}']")


def measure_panning(folder: Path, side: int) -> list[tuple[str, str]]:
    """Open a large slide, and pan and zoom over it for a while."""
    with visited(_one_slide(folder, side)) as (page, address, server):
        before, _ = memory_mib(server)
        tiles: list[float] = []
        page.on("requestfinished", lambda request: _note(request, tiles))
        begun = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        ready = time.perf_counter() - begun
        while (first := page.evaluate(FIRST_TILE)) is None:
            page.wait_for_timeout(10)
        box = page.locator("#panes").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        for _ in range(4):
            page.mouse.wheel(0, -400)
            page.wait_for_timeout(400)
        tiles.clear()
        page.evaluate(f"window.frames4 = ({FRAMES})()", None)
        for turn in range(16):
            page.mouse.move(x, y)
            page.mouse.down()
            page.mouse.move(x + 300 * (-1) ** (turn // 8), y - 150, steps=12)
            page.mouse.up()
        gaps = np.array(page.evaluate("window.frames4"))
        page.wait_for_timeout(1500)
        now, most = memory_mib(server)
        return [
            (f"slide of {side} px: first tile drawn", f"{first / 1000:.2f} s"),
            ("everything there", f"{ready:.2f} s"),
            ("frames while panning", _spread(gaps)),
            (f"{len(tiles)} tiles while panning", _spread(np.array(tiles))),
            ("server before, after, at most", f"{before}, {now}, {most} MiB"),
        ]


def _spread(milliseconds: NDArray[np.float64]) -> str:
    middle, slow = np.percentile(milliseconds, [50, 95])
    return f"median {middle:.0f} ms, 95 % within {slow:.0f} ms"


def _note(request: Any, tiles: list[float]) -> None:  # noqa: ANN401 -- playwright's request
    if "/tiles/" in request.url:
        tiles.append(request.timing["responseEnd"])


def _one_slide(folder: Path, side: int) -> Path:
    """Make the results of one slide, or find them."""
    out = folder / f"view-{side}"
    shutil.rmtree(out, ignore_errors=True)
    slide = repeated_slide(folder, side // 256 * 256)
    command("preprocess", str(slide), "--out", str(out), "--mpp", "8", "--quiet")
    return out


def measure_loop(folder: Path, slide: Path, areas_file: Path) -> list[tuple[str, str]]:
    """Go from a slide to a map that was trained on strokes, and judge every map on the way."""
    out = folder / "view-loop"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    options = ["--mpp", "0.5", "--patch-size", "128", "--quiet"]
    command("preprocess", str(slide), "--out", str(out), *options)
    rows = [("slide to patches", _since(begun))]
    regions: dict[str, list[Annotation]] = defaultdict(list)
    for area in read_annotations(areas_file):
        regions[area.name or ""].append(area)
    several = {name: found for name, found in regions.items() if len(found) > 2}
    with visited(out) as (page, address, server):
        page.goto(address + "#tab=label")
        page.wait_for_selector("body[data-ready]")
        for name in several:
            page.fill("#new-class", name)
            page.click("#add-class")
            page.get_by_role("radio", name=name).wait_for()
        for number, what in enumerate(("first strokes to first map", "second strokes to next map")):
            start = time.perf_counter()
            page.click("#tab-label")
            for name, found in several.items():
                _paint(page, name, found[number], out)
            page.click("#tab-learn")
            page.wait_for_timeout(200)
            page.click("#learn-now")
            _settle(page, out)
            rows += [(what, _since(start)), _judge(out, "learned", several, number + 1)]
            if not number:
                rows.append(("from the beginning to the first map", _since(begun)))
        start = time.perf_counter()
        page.click("#tab-train")
        page.click("#train")
        page.wait_for_selector(".job .badge.good, .job .badge.bad")
        if page.locator(".job .badge.bad").count():
            raise SystemExit(page.locator(".job pre").first.inner_text())
        rows.append(("training and its map", _since(start)))
        rows.append(_judge(out, "class-m-small-1", several, 2))
        rows.append(("from the beginning to the second map", _since(begun)))
        rows.append(("server, now and at most", "{} and {} MiB".format(*memory_mib(server))))
    return rows


def _paint(page: Page, name: str, area: Annotation, out: Path) -> None:
    """Paint a stroke over the middle of a region, as a person does who sees the whole slide."""
    page.get_by_role("radio", name=name, exact=False).first.click()
    page.click("#tool-brush")
    box = page.locator("#panes").bounding_box()
    assert box is not None
    width, height = RunReport.read(out / "run.json").outcomes[0].slide["size_wh"]
    scale = min(box["width"] / width, box["height"] / height)
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    x, y = area.geometry.centroid.x, area.geometry.centroid.y
    page.mouse.move(left + (x - 150) * scale, top + y * scale)
    page.mouse.down()
    page.mouse.move(left + (x + 150) * scale, top + y * scale, steps=4)
    page.mouse.up()


def _settle(page: Page, out: Path) -> None:
    """Wait until the map is younger than the labels."""
    newest = max(file.stat().st_mtime_ns for file in out.glob("*/labels.geojson"))
    while not any(
        file.stat().st_mtime_ns > newest for file in out.glob("*/learned/predictions.parquet")
    ):
        page.wait_for_timeout(100)
    page.wait_for_selector("#accuracy")


def _judge(
    out: Path, model: str, regions: dict[str, list[Annotation]], labelled: int
) -> tuple[str, str]:
    """Tell how much of the regions without a stroke a map has right."""
    (path,) = out.glob(f"*/{model}/predictions.parquet")
    found = read_predictions(path)
    centres = shapely.points(found.xy + found.extent / 2)
    shares, most = [], []
    for name, areas in regions.items():
        for area in areas[labelled:]:
            inside = shapely.contains(area.geometry, centres)
            said = [found.class_names[label] for label in found.label[inside]]
            shares.append(np.mean([word == name for word in said]))
            most.append(max(set(said), key=said.count) == name)
    words = (
        f"tiles right in {len(shares)} other regions; regions whose most frequent class is right"
    )
    return f"{model}: {words}", f"{np.mean(shares):.0%}; {np.mean(most):.0%}"


def _timed(work: Any) -> float:  # noqa: ANN401 -- any call
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.0f} s"


def _measure(options: argparse.Namespace) -> list[tuple[str, str]]:
    if options.what == "list":
        return measure_list(options.folder, options.slides)
    if options.what == "pan":
        return measure_panning(options.folder, options.side)
    return measure_loop(options.folder, options.slide, options.areas)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("list", "pan", "loop"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("slide", type=Path, nargs="?")
    parser.add_argument("areas", type=Path, nargs="?")
    parser.add_argument("--slides", type=int, default=5000)
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("--before-others", action="store_true")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if options.before_others:
            stack.enter_context(before_others(os.getpid()))
        rows = _measure(options)
    print(table(["what", "measured"], rows))
    print(json.dumps({"load": os.getloadavg(), "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
