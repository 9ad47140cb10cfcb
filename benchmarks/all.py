"""A folder for made-up slides -> one Markdown report of every benchmark, with machine and versions.

Usage: ``python benchmarks/all.py FOLDER [--peers ENVIRONMENT] [--only NAME ...] [--quick]``. Each
benchmark runs in a process of its own and replaces its own section of ``results.md``, so those that
are not asked for keep their figures, and say when and where they were measured. Methods of learning
have a report of their own, in ``methods/``.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from os import sched_getaffinity
from pathlib import Path

import comparisons
import decode
import inference
import memory
import preprocess
import reading
import stain
import torch
import unmix
from slides import COARSE, FINE, PYRAMID, repeated_slide
from tables import report, sections, table

RESULTS = Path(__file__).with_name("results.md")

INTRODUCTION = """\
# Results

Written by `benchmarks/all.py`. Figures depend on the machine and on what else runs on it: compare
within one section, as ratios. Slides repeat one square of drawn tissue and background; their tiles
are JPEG of 256 px, compressed finely (quality 90, full chroma) where nothing else is said.
"""

PACKAGES = ("numpy", "torch", "zarr", "imagecodecs", "openslide-python", "tifffile", "numba")


@dataclass(frozen=True)
class Options:
    """Where slides are written, how large they are, and where peers are installed, if at all."""

    folder: Path
    peers: Path | None
    side_px: int
    quick: bool


def decode_section(options: Options) -> str:
    """Measure the limit that every other figure is held against."""
    rows = [
        (
            coding.name,
            row.workers,
            row.patches,
            f"{row.kib_per_patch:.1f}",
            f"{row.patches_per_s:,.0f}",
        )
        for coding in (FINE, COARSE)
        for row in decode.measure(
            decode.compressed_tiles(
                repeated_slide(options.folder, options.side_px, PYRAMID, coding),
                decode.all_corners(options.side_px),
            )
        )
    ]
    return table(("JPEG", "workers", "tiles", "KiB per tile", "tiles/s"), rows)


def reading_section(options: Options) -> str:
    """Compare readers."""
    return reading.markdown(reading.measure(options.folder, options.side_px // 2))


def stain_section(options: Options) -> str:
    """Measure the estimate of the stain matrix with three samples."""
    rows = stain.measure(repeated_slide(options.folder, options.side_px))
    return table(
        ("tiles", "s", "H, degrees off", "E, degrees off", "max H off", "max E off"),
        (
            (
                row.tiles,
                f"{row.seconds:.2f}",
                f"{row.h_degrees:.2f}",
                f"{row.e_degrees:.2f}",
                f"{row.h_max:.2%}",
                f"{row.e_max:.2%}",
            )
            for row in rows
        ),
    )


def unmix_section(options: Options) -> str:
    """Compare ways to separate stains, ours and those of peers."""
    patches = unmix.load_patches(options.folder)
    ours = unmix.measure(patches)
    text = table(
        ("kernel", "ms per patch", "patches/s", "counts off, rounding included"),
        (
            (
                row.name,
                f"{row.ms_per_patch:.3f}",
                f"{row.patches_per_s:,.0f}",
                f"{row.counts_off:.3f}",
            )
            for row in ours
        ),
    )
    return text + "\n" + comparisons.unmix_peers(patches, ours[0].ms_per_patch, options.peers)


def preprocess_section(options: Options) -> str:
    """Hold preprocessing against decoding, with both codings."""
    rows = [
        (coding.name, row)
        for coding in ((FINE,) if options.quick else (FINE, COARSE))
        for row in preprocess.measure(options.folder, options.side_px, coding=coding)
    ]
    return table(
        (
            "JPEG", "workers", "patches", "s", "patches/s", "decode/s", "ratio", "CPU ratio", "KiB",
            "KiB, RGB as PNG", "KiB, H/E as PNG", "peak MiB",
        ),
        (
            (
                name,
                row.workers,
                row.patches,
                f"{row.seconds:.2f}",
                f"{row.patches_per_s:,.0f}",
                f"{row.decode_per_s:,.0f}",
                f"{row.ratio:.2f}",
                f"{row.cpu_ratio:.2f}",
                f"{row.store_kib:.1f}",
                f"{row.png_rgb_kib:.1f}",
                f"{row.png_he_kib:.1f}",
                f"{row.peak_mib:.0f}",
            )
            for name, row in rows
        ),
    )  # fmt: skip


def writers_section(options: Options) -> str:
    """Hold preprocessing against peers that write patches."""
    return comparisons.writers(options.folder, options.side_px, options.peers)


def inference_section(options: Options) -> str:
    """Hold inference against its limits."""
    return inference.table(inference.measure(options.folder, options.side_px)) + "\n"


def memory_section(options: Options) -> str:
    """Measure memory against the size of the slide."""
    sides = memory.SIDES[:2] if options.quick else memory.SIDES
    return memory.markdown(memory.measure(options.folder, sides))


def scaling_section(options: Options) -> str:
    """Measure a second worker, and the cost of a patch as slides grow."""
    side = options.side_px
    rows = [
        row
        for workers in (1, 2)
        for row in memory.measure(options.folder, (side,), workers, repeats=3)
    ]
    gain = rows[0].seconds / rows[1].seconds
    grown = memory.measure(options.folder, (11_520, 36_864), repeats=1 if options.quick else 2)
    sides = memory.SMALL_PATCH_SIDES[:2] if options.quick else memory.SMALL_PATCH_SIDES
    many = memory.measure(options.folder, sides, patch_px=memory.SMALL_PATCH_PX)
    drawn = memory.markdown([*rows, *grown, *many])
    return f"{drawn}\nThe second worker gives {gain:.2f} times the speed.\n"


SECTIONS: dict[str, tuple[str, Callable[[Options], str]]] = {
    "decode": ("Limit: decoding alone", decode_section),
    "reading": ("Reading tiles", reading_section),
    "stain": ("Stain matrix of a slide, against that of all its pixels", stain_section),
    "unmix": ("Separating stains, one thread, patches of 256 px", unmix_section),
    "preprocess": ("Preprocessing, against decoding", preprocess_section),
    "writers": ("Preprocessing, against peers that write patches", writers_section),
    "inference": ("Inference, against its limits", inference_section),
    "memory": ("Memory against the size of the slide", memory_section),
    "scaling": ("A second worker, and cost per patch", scaling_section),
}


def circumstances() -> str:
    """State date, machine and versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cores = len(sched_getaffinity(0))
    return (
        f"*{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, {_processor()}, "
        f"{cores} cores, {gpu}, Python {platform.python_version()}, {packages}*"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def write_section(name: str, options: Options, out: Path) -> None:
    """Run one benchmark and put its section into the report."""
    title, run = SECTIONS[name]
    body = f"## {title}\n\n{run(options)}\n{circumstances()}\n"
    found = sections(out.read_text(encoding="utf-8")) if out.exists() else {}
    found[name] = body
    parts = [(known, found[known]) for known in SECTIONS if known in found]
    out.write_text(report(INTRODUCTION, parts), encoding="utf-8")


def main() -> None:
    """Run what is asked for, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for slides and stores; up to 20 GB")
    parser.add_argument("--peers", type=Path, help="the environment that peers.sh made")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="smaller slides, fewer of them")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if len(given.only) == 1:
        options = Options(given.folder, given.peers, 8192 if given.quick else 16_384, given.quick)
        write_section(given.only[0], options, given.out)
        return
    command = [sys.executable, __file__, str(given.folder), "--out", str(given.out)]
    command += ["--peers", str(given.peers)] if given.peers else []
    command += ["--quick"] if given.quick else []
    for name in given.only:
        subprocess.run([*command, "--only", name], check=True)


if __name__ == "__main__":
    main()
