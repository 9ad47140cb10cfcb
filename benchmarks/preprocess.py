"""A synthetic JPEG slide -> patches per second of preprocessing, beside the limit of decoding.

Usage: ``python benchmarks/preprocess.py FOLDER [--side 16384] [--workers 1 2]``. Each worker count
is measured in turns with the decoding of the very tiles that become patches (see ``decode.py``),
so both see the same machine. Preprocessing is everything: mask, grid, stain matrix, unmixing,
compression, and waiting for the disk.
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
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
from decode import compressed_tiles, decode
from slides import COARSE, FINE, PYRAMID, TILE_PX, UNIT_PX, Coding, repeated_slide

from wsi_pipeline.config import load_config
from wsi_pipeline.preprocess.slide_store import Preprocessed, preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import open_slide

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

SAMPLED = 64
"""Patches whose size as PNG is measured."""


@dataclass(frozen=True)
class PreprocessRow:
    """One slide preprocessed: speed, size, memory.

    ``ratio`` is the speed as a share of decoding the same tiles on as many threads, and
    ``cpu_ratio`` the same in seconds of the processor, which others on the machine disturb less;
    the PNGs are those of the RGB patches, and of their two planes.
    """

    side_px: int
    workers: int
    patches: int
    seconds: float
    patches_per_s: float
    decode_per_s: float
    ratio: float
    cpu_ratio: float
    store_kib: float
    png_rgb_kib: float
    png_he_kib: float
    peak_mib: float
    stages: dict[str, float]


def measure(
    folder: Path,
    side_px: int = 16_384,
    workers: tuple[int, ...] = (1, 2),
    *,
    repeats: int = 3,
    factors: tuple[int, ...] = PYRAMID,
    coding: Coding = FINE,
) -> list[PreprocessRow]:
    """Preprocess a slide with each number of workers, best of some repeats.

    Every run has a process of its own, so that its peak of memory is its own. A small slide goes
    first, so that what a process does once (imports, compiled kernels) is not counted.
    """
    slide = repeated_slide(folder, side_px, factors, coding)
    return [_best_run(slide, side_px, count, repeats) for count in workers]


def _best_run(slide: Path, side_px: int, workers: int, repeats: int) -> PreprocessRow:
    command = [sys.executable, __file__, str(slide), "--one-run", str(workers)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]
    fastest = min(runs, key=lambda run: run["seconds"])
    decoding = min(run["decode_seconds"] for run in runs)
    n = fastest["patches"]
    return PreprocessRow(
        side_px=side_px,
        workers=workers,
        patches=n,
        seconds=fastest["seconds"],
        patches_per_s=n / fastest["seconds"],
        decode_per_s=n / decoding,
        ratio=decoding / fastest["seconds"],
        cpu_ratio=min(r["decode_cpu"] for r in runs) / min(r["cpu"] for r in runs),
        peak_mib=max(run["peak_mib"] for run in runs),
        stages=fastest["stages"],
        **fastest["sizes"],
    )


@dataclass(frozen=True)
class _Run:
    patches: int
    seconds: float
    cpu: float
    decode_seconds: float
    decode_cpu: float
    peak_mib: float
    stages: dict[str, float]
    sizes: dict[str, float]


def one_run(slide: Path, workers: int) -> _Run:
    """Preprocess a slide in this process, then decode the tiles of its patches."""
    path = slide.with_suffix(f".{workers}.zarr")
    preprocess_afresh(repeated_slide(slide.parent, UNIT_PX), path, workers)
    begin, cpu = time.perf_counter(), time.process_time()
    made = preprocess_afresh(slide, path, workers)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = peak_mib()
    tiles = compressed_tiles(slide, made.store.grid.level_xy)
    decode_cpu = time.process_time()
    decode_seconds = decode(tiles, workers)
    decode_cpu = time.process_time() - decode_cpu
    run = _Run(
        patches=len(made.store),
        seconds=seconds,
        cpu=cpu,
        decode_seconds=decode_seconds,
        decode_cpu=decode_cpu,
        peak_mib=peak,
        stages=made.seconds,
        sizes=_sizes(slide, made.store),
    )
    shutil.rmtree(path)
    return run


def preprocess_afresh(
    slide: Path, path: Path, workers: int, patch_px: int = TILE_PX
) -> Preprocessed:
    """Preprocess a slide as if no store of it were there."""
    shutil.rmtree(path, ignore_errors=True)
    job = SlideJob(path=slide, slide_id=slide.stem)
    config = load_config(overrides={"tile": {"patch_size": patch_px}})
    return preprocess_slide(job, path, config, workers=workers, overwrite=True)


def peak_mib() -> float:
    """Return the most memory that this process has held, MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _sizes(slide: Path, store: PatchStore) -> dict[str, float]:
    """Return KiB per patch: in the store, as RGB in PNG, and as two planes in PNG."""
    indices = np.linspace(0, len(store) - 1, SAMPLED).astype(int).tolist()
    stored = sum(file.stat().st_size for file in (store.path / "he").iterdir())
    with open_slide(slide) as opened:
        grid = store.grid
        rgb = [
            opened.read_patch(
                grid.level, tuple(grid.level_xy[i].tolist()), grid.read_px, grid.patch_px
            )
            for i in indices
        ]
    planes = [plane for i in indices for plane in store.read_he(i, i + 1)[0]]
    return {
        "store_kib": stored / len(store) / 1024,
        "png_rgb_kib": sum(len(imagecodecs.png_encode(p)) for p in rgb) / SAMPLED / 1024,
        "png_he_kib": sum(len(imagecodecs.png_encode(p)) for p in planes) / SAMPLED / 1024,
    }


def main() -> None:
    """Print the rows as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, nargs="+", default=[16_384])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--single-level", action="store_true")
    parser.add_argument("--coarse", action="store_true", help="JPEG with half the chroma")
    parser.add_argument("--one-run", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one_run:
        print(json.dumps(asdict(one_run(options.folder, options.one_run))))
        return
    columns = (
        "side px", "workers", "patches", "s", "patches/s", "decode/s", "ratio", "CPU ratio", "KiB",
        "KiB, RGB as PNG", "KiB, H/E as PNG", "peak MiB",
    )  # fmt: skip
    print("|", " | ".join(columns), "|")
    print("|---" * len(columns) + "|")
    for side in options.side:
        rows = measure(
            options.folder,
            side,
            tuple(options.workers),
            repeats=options.repeats,
            factors=(1,) if options.single_level else PYRAMID,
            coding=COARSE if options.coarse else FINE,
        )
        for row in rows:
            print(
                f"| {row.side_px} | {row.workers} | {row.patches} | {row.seconds:.2f} "
                f"| {row.patches_per_s:.0f} | {row.decode_per_s:.0f} | {row.ratio:.2f} "
                f"| {row.cpu_ratio:.2f} "
                f"| {row.store_kib:.1f} | {row.png_rgb_kib:.1f} | {row.png_he_kib:.1f} "
                f"| {row.peak_mib:.0f} |"
            )
            stages = ", ".join(f"{name} {spent:.2f}" for name, spent in row.stages.items())
            print(f"<!-- seconds: {stages} -->", flush=True)


if __name__ == "__main__":
    main()
