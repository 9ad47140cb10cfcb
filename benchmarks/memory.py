"""Slides of growing size -> the most memory that preprocessing holds, and what a patch costs.

Usage: ``python benchmarks/memory.py FOLDER [--side 5120 20480 ...] [--workers 2]``. Every slide
has a process of its own. Its time includes everything from opening the slide to the closed store;
imports and compiled kernels are made before it starts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from preprocess import peak_mib, preprocess_afresh
from slides import TILE_PX, UNIT_PX, repeated_slide
from tables import table

SIDES = (5_120, 20_480, 81_920, 122_880)
SMALL_PATCH_PX = 64
SMALL_PATCH_SIDES = (2_816, 8_960, 28_160, 90_112)
"""Slides with about 10^3 to 10^6 patches of that size: as patches of 256 px they fill no disk."""


@dataclass(frozen=True)
class SlideRow:
    """One slide preprocessed: its size, time on the clock and of the processor, and memory."""

    side_px: int
    patch_px: int
    workers: int
    patches: int
    seconds: float
    cpu_seconds: float
    peak_mib: float


def measure(
    folder: Path,
    sides: tuple[int, ...] = SIDES,
    workers: int = 2,
    repeats: int = 1,
    patch_px: int = TILE_PX,
) -> list[SlideRow]:
    """Preprocess slides of some sizes, each in a new process; the fastest of some repeats."""
    return [
        min(
            (_in_process(folder, side, workers, patch_px) for _ in range(repeats)),
            key=lambda row: row.seconds,
        )
        for side in sides
    ]


def _in_process(folder: Path, side_px: int, workers: int, patch_px: int) -> SlideRow:
    repeated_slide(folder, side_px)
    command = [sys.executable, __file__, str(folder), "--side", str(side_px)]
    command += ["--workers", str(workers), "--patch", str(patch_px), "--one-run"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return SlideRow(**json.loads(done.stdout))


def one_run(folder: Path, side_px: int, workers: int, patch_px: int) -> SlideRow:
    """Preprocess a slide in this process, after a small one that warms it up."""
    slide = repeated_slide(folder, side_px)
    path = slide.with_suffix(f".memory-{workers}.zarr")
    preprocess_afresh(repeated_slide(folder, UNIT_PX), path, workers, patch_px)
    begin, cpu = time.perf_counter(), time.process_time()
    patches = len(preprocess_afresh(slide, path, workers, patch_px).store)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    shutil.rmtree(path)
    return SlideRow(side_px, patch_px, workers, patches, seconds, cpu, peak_mib())


def markdown(rows: list[SlideRow]) -> str:
    """Write rows as a table."""
    return table(
        (
            "side px",
            "patch px",
            "workers",
            "patches",
            "s",
            "ms per patch",
            "CPU ms per patch",
            "peak MiB",
        ),
        (
            (
                f"{row.side_px:,}",
                row.patch_px,
                row.workers,
                f"{row.patches:,}",
                f"{row.seconds:.2f}",
                f"{row.seconds / row.patches * 1e3:.3f}",
                f"{row.cpu_seconds / row.patches * 1e3:.3f}",
                f"{row.peak_mib:.0f}",
            )
            for row in rows
        ),
    )


def main() -> None:
    """Print the rows as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, nargs="+", default=list(SIDES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--patch", type=int, default=TILE_PX, help="side of the patches, px")
    parser.add_argument("--one-run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_run:
        run = options.folder, options.side[0], options.workers, options.patch
        print(json.dumps(asdict(one_run(*run))))
        return
    rows = measure(options.folder, tuple(options.side), options.workers, patch_px=options.patch)
    print(markdown(rows), end="")


if __name__ == "__main__":
    main()
