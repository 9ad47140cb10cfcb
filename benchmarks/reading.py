"""A tiled JPEG slide -> tiles per second by each reader, on the grid of tiles and off it.

Usage: ``python benchmarks/reading.py FOLDER [--side 8192]``. Every reader gives RGB pixels of the
same places; they take turns, best of some, and open the slide anew each time, so that none finds
tiles of the turn before. What reads stored tiles only has no figure off the grid.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import tifffile
from decode import RUN, all_corners
from numpy.typing import NDArray
from slides import TILE_PX, repeated_slide
from tables import table

from wsi_pipeline.config import ReadConfig, ReaderName
from wsi_pipeline.slide.open import open_slide

OFF_GRID_PX = 100
"""How far places off the grid lie from the corner of a tile, in both directions."""

STORED_TILES = "tifffile, stored tiles"

Places = NDArray[np.int64]
Read = Callable[[int, int], NDArray[np.uint8]]


@dataclass(frozen=True)
class ReadingRow:
    """Tiles of 256 px that a reader gives in a second, and as a multiple of OpenSlide's.

    ``off_grid_per_s`` is None where a reader gives stored tiles only.
    """

    reader: str
    workers: int
    tiles_per_s: float
    off_grid_per_s: float | None


def _by_us(name: ReaderName, path: Path, stack: ExitStack) -> Read:
    slide = stack.enter_context(open_slide(path, ReadConfig(reader=name)))
    return lambda x, y: slide.read_level(0, (x, y), (TILE_PX, TILE_PX))


def _by_openslide(path: Path, stack: ExitStack) -> Read:
    slide = stack.enter_context(openslide.OpenSlide(path))

    def read(x: int, y: int) -> NDArray[np.uint8]:
        region = slide.read_region((x, y), 0, (TILE_PX, TILE_PX)).convert("RGB")
        return np.asarray(region, dtype=np.uint8)

    return read


def _by_tifffile(path: Path, stack: ExitStack) -> Read:
    page = stack.enter_context(tifffile.TiffFile(path)).pages[0].aspage()
    file = stack.enter_context(path.open("rb", buffering=0))
    columns = -(-page.imagewidth // TILE_PX)

    def read(x: int, y: int) -> NDArray[np.uint8]:
        index = y // TILE_PX * columns + x // TILE_PX
        data = os.pread(file.fileno(), page.databytecounts[index], page.dataoffsets[index])
        pixels, _, _ = page.decode(data, index, jpegtables=page.jpegtables)
        tile: NDArray[np.uint8] = np.asarray(pixels, dtype=np.uint8)[0]
        return tile

    return read


READERS: dict[str, Callable[[Path, ExitStack], Read]] = {
    "openslide-python": _by_openslide,
    STORED_TILES: _by_tifffile,
    "ours, by OpenSlide": partial(_by_us, ReaderName.OPENSLIDE),
    "ours, direct": partial(_by_us, ReaderName.TIFF),
}


def _seconds(path: Path, name: str, places: Places, workers: int) -> float:
    """Read places in a slide that has just been opened."""
    with ExitStack() as stack, ThreadPoolExecutor(workers) as pool:
        read = READERS[name](path, stack)

        def run(start: int) -> None:
            for x, y in places[start : start + RUN].tolist():
                read(x, y)

        begin = time.perf_counter()
        list(pool.map(run, range(0, len(places), RUN)))
        return time.perf_counter() - begin


def measure(
    folder: Path, side_px: int, workers: tuple[int, ...] = (1, 2), repeats: int = 3
) -> list[ReadingRow]:
    """Measure every reader with each number of threads."""
    corners = all_corners(side_px)
    inside = corners[(corners < side_px - TILE_PX).all(axis=1)]
    slide = repeated_slide(folder, side_px)
    placed = [name for name in READERS if name != STORED_TILES]
    rows = []
    for count in workers:
        on = _rates(slide, list(READERS), inside, count, repeats)
        off = _rates(slide, placed, inside + OFF_GRID_PX, count, repeats)
        rows += [ReadingRow(name, count, on[name], off.get(name)) for name in READERS]
    return rows


def _rates(
    slide: Path, names: list[str], places: Places, workers: int, repeats: int
) -> dict[str, float]:
    best = dict.fromkeys(names, float("inf"))
    for _ in range(repeats):
        for name in names:
            best[name] = min(best[name], _seconds(slide, name, places, workers))
    return {name: len(places) / seconds for name, seconds in best.items()}


def markdown(rows: list[ReadingRow]) -> str:
    """Write rows as a table, with multiples of OpenSlide's rate."""
    base = {row.workers: row for row in rows if row.reader == "openslide-python"}

    def cell(rate: float | None, of: float | None) -> str:
        return "" if rate is None or of is None else f"{rate:,.0f} ({rate / of:.2f})"

    return table(
        ("reader", "threads", "tiles/s (of OpenSlide)", f"{OFF_GRID_PX} px off the grid"),
        (
            (
                row.reader,
                row.workers,
                cell(row.tiles_per_s, base[row.workers].tiles_per_s),
                cell(row.off_grid_per_s, base[row.workers].off_grid_per_s),
            )
            for row in rows
        ),
    )


def main() -> None:
    """Print the rows as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=8192)
    options = parser.parse_args()
    print(markdown(measure(options.folder, options.side)), end="")


if __name__ == "__main__":
    main()
