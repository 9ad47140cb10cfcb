"""A tiled JPEG slide -> patches per second that decoding alone allows: the physical limit.

Usage: ``python benchmarks/decode.py FOLDER [--side 16384]``. The compressed bytes of the tiles lie
in memory; libjpeg-turbo decodes each into the same few pixels of memory, on as many threads as
there are workers.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from slides import COARSE, FINE, PYRAMID, TILE_PX, repeated_slide

RUN = 16
"""Tiles that a thread decodes in one go, as preprocessing does."""


@dataclass(frozen=True)
class DecodeRow:
    """Patches of 256 px decoded in a second by some threads."""

    workers: int
    patches: int
    patches_per_s: float
    kib_per_patch: float


def compressed_tiles(slide: Path, level_xy: NDArray[np.int64]) -> list[bytes]:
    """Read the bytes of the tiles of level 0 whose corners are given."""
    with tifffile.TiffFile(slide) as tiff, slide.open("rb") as file:
        page = tiff.pages[0].aspage()
        columns = -(-page.imagewidth // TILE_PX)
        tiles = []
        for column, row in (level_xy // TILE_PX).tolist():
            file.seek(page.dataoffsets[row * columns + column])
            tiles.append(file.read(page.databytecounts[row * columns + column]))
    return tiles


def all_corners(side_px: int) -> NDArray[np.int64]:
    """Return the corner of every tile of a square slide, row by row."""
    row, column = np.divmod(np.arange((side_px // TILE_PX) ** 2), side_px // TILE_PX)
    return np.stack([column, row], axis=1) * TILE_PX


def decode(tiles: list[bytes], workers: int, *, beside: int = 0) -> float:
    """Decode tiles once and return the seconds it takes.

    Parameters
    ----------
    tiles : list of bytes
        Compressed tiles.
    workers : int
        Threads.
    beside : int
        Bytes from a multiple of 64 to where pixels begin. It matters: at a multiple of 32,
        libjpeg-turbo writes past the processor's cache, else into it.

    Returns
    -------
    float
        Seconds.
    """

    def run(start: int) -> None:
        block = np.empty(TILE_PX**2 * 3 + 128, dtype=np.uint8)
        begin = -block.ctypes.data % 64 + beside
        pixels = block[begin : begin + TILE_PX**2 * 3].reshape(TILE_PX, TILE_PX, 3)
        for tile in tiles[start : start + RUN]:
            imagecodecs.jpeg8_decode(tile, out=pixels)

    with ThreadPoolExecutor(workers) as pool:
        begin = time.perf_counter()
        list(pool.map(run, range(0, len(tiles), RUN)))
        return time.perf_counter() - begin


def measure(
    tiles: list[bytes], workers: tuple[int, ...] = (1, 2), repeats: int = 3
) -> list[DecodeRow]:
    """Measure how fast tiles decode, best of some repeats."""
    size = sum(map(len, tiles)) / len(tiles) / 1024
    return [
        DecodeRow(
            workers=count,
            patches=len(tiles),
            patches_per_s=len(tiles) / min(decode(tiles, count) for _ in range(repeats)),
            kib_per_patch=size,
        )
        for count in workers
    ]


def main() -> None:
    """Print the limit as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=16_384)
    options = parser.parse_args()
    print("| JPEG | workers | tiles | KiB per tile | tiles/s |")
    print("|---|---|---|---|---|")
    for coding in (FINE, COARSE):
        slide = repeated_slide(options.folder, options.side, PYRAMID, coding)
        for row in measure(compressed_tiles(slide, all_corners(options.side))):
            print(
                f"| {coding.name} | {row.workers} | {row.patches} "
                f"| {row.kib_per_patch:.1f} | {row.patches_per_s:.0f} |"
            )


if __name__ == "__main__":
    main()
