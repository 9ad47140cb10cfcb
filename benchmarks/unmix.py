"""RGB patches -> milliseconds to separate one into its two 8-bit planes, by each candidate.

Usage: ``python benchmarks/unmix.py FOLDER``. One thread, patches of 256 px of the slide that
``slides.py`` draws, best of some turns; the candidates take turns, so all see the same machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from slides import TILE_PX, repeated_slide

from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.stain import (
    HeEncoder,
    fixed_stain_matrix,
    input_rows,
    optical_density,
    unpack_counts,
)

RGB = NDArray[np.uint8]
Separate = Callable[[RGB], RGB]


@dataclass(frozen=True)
class UnmixRow:
    """Time of one candidate, and how far it is from float64 arithmetic at most, counts."""

    name: str
    ms_per_patch: float
    patches_per_s: float
    counts_off: float


def candidates() -> dict[str, Separate]:
    """Return every way to separate a patch (P, P, 3) into planes (2, P, P), by name."""
    stains = fixed_stain_matrix()
    encoder = HeEncoder(stains)
    rows = (255.0 * input_rows(stains)).astype(np.float32)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    density = optical_density(levels).astype(np.float32)
    table, torch_table = encoder.table, torch.from_numpy(encoder.table)

    def ours(rgb: RGB) -> RGB:
        planes = np.empty((2, *rgb.shape[:2]), dtype=np.uint8)
        encoder.encode(rgb, planes)
        return planes

    def lookup(rgb: RGB) -> RGB:
        both = table[0].take(rgb[..., 0])
        both += table[1].take(rgb[..., 1])
        both += table[2].take(rgb[..., 2])
        return np.stack(unpack_counts(both)).clip(0, 255).astype(np.uint8)

    def opencv(rgb: RGB) -> RGB:
        od = cv2.LUT(rgb, density[None])
        planes = np.empty((2, *rgb.shape[:2]), dtype=np.uint8)
        for plane, row in zip(planes, rows, strict=True):
            counts = np.asarray(cv2.transform(od, row[None]))
            np.clip(counts, 0.0, 255.0, out=counts)
            np.rint(counts, out=counts)
            np.copyto(plane, counts, casting="unsafe")
        return planes

    def pytorch(rgb: RGB) -> RGB:
        pixels = torch.from_numpy(rgb).long()
        both = sum(torch_table[c].take(pixels[..., c]) for c in range(3))
        return torch.stack(unpack_counts(both)).clamp_(0, 255).to(torch.uint8).numpy()

    return {
        "numba, one packed table (used)": ours,
        "numpy, the same table": lookup,
        "OpenCV, density table and matrix": opencv,
        "torch, the same table": pytorch,
    }


def exact(rgb: RGB) -> NDArray[np.float64]:
    """Separate by the definition, in float64, not rounded."""
    counts = 255.0 * optical_density(rgb) @ input_rows(fixed_stain_matrix()).T
    return counts.clip(0, 255).transpose(2, 0, 1)


def load_patches(folder: Path) -> list[RGB]:
    """Read 64 patches of tissue."""
    with open_slide(repeated_slide(folder, 4096)) as slide:
        corners = [(x, y) for y in range(0, 4096, TILE_PX) for x in range(0, 4096, TILE_PX)]
        patches = [slide.read_level(0, xy, (TILE_PX, TILE_PX)) for xy in corners]
    return [patch for patch in patches if patch.mean() < 215][:64]


def measure(patches: list[RGB], repeats: int = 7) -> list[UnmixRow]:
    """Measure every candidate."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    everyone = candidates()
    seconds = dict.fromkeys(everyone, float("inf"))
    for _ in range(repeats):
        for name, separate in everyone.items():
            begin = time.perf_counter()
            for patch in patches:
                separate(patch)
            seconds[name] = min(seconds[name], time.perf_counter() - begin)
    return [
        UnmixRow(
            name=name,
            ms_per_patch=seconds[name] / len(patches) * 1e3,
            patches_per_s=len(patches) / seconds[name],
            counts_off=max(float(np.abs(separate(p) - exact(p)).max()) for p in patches[:8]),
        )
        for name, separate in everyone.items()
    ]


def main() -> None:
    """Print the rows as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print("| kernel | ms per patch | patches/s | counts off, rounding included |")
    print("|---|---|---|---|")
    for row in measure(load_patches(parser.parse_args().folder)):
        print(
            f"| {row.name} | {row.ms_per_patch:.3f} | {row.patches_per_s:.0f} "
            f"| {row.counts_off:.3f} |"
        )


if __name__ == "__main__":
    main()
