"""A slide -> seconds its stain matrix takes, and how far it is from that of all tissue pixels.

Usage: ``python benchmarks/stain.py FOLDER [--side 16384] [--slide FILE ...]``. The estimate that
preprocessing makes, of a sample of tiles, is compared with the same arithmetic on the averaged
pixels of every kept tile.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from slides import repeated_slide

from wsi_pipeline.config import load_config
from wsi_pipeline.preprocess.extraction import TileReader
from wsi_pipeline.preprocess.given import read_given, recipe_of
from wsi_pipeline.preprocess.survey import survey_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import Slide, open_slide
from wsi_pipeline.stain import estimate_stain_matrix
from wsi_pipeline.stopwatch import Stopwatch

if TYPE_CHECKING:
    from wsi_pipeline.types import StainMatrix, TileGrid


@dataclass(frozen=True)
class StainRow:
    """Time of an estimate, s, and its distance from that of all pixels.

    ``h_degrees`` and ``e_degrees`` are angles between vectors; ``h_max`` and ``e_max`` are relative
    differences of the maxima.
    """

    slide: str
    tiles: int
    seconds: float
    h_degrees: float
    e_degrees: float
    h_max: float
    e_max: float


def measure(path: Path, seeds: tuple[int, ...] = (0, 1, 2), workers: int = 2) -> list[StainRow]:
    """Estimate a slide's stains with several seeds of the sample."""
    rows = []
    with open_slide(path) as slide, ThreadPoolExecutor(workers) as pool:
        reference = None
        for seed in seeds:
            config = load_config(overrides={"stain": {"seed": seed}})
            watch = Stopwatch()
            job = SlideJob(path=path, slide_id=path.stem)
            given = read_given(job, slide.info, config, recipe_of(job, config))
            tiles = TileReader(slide, max_bytes=0)
            header = survey_slide(tiles, given, config, pool, watch)
            reference = reference or _of_all_pixels(slide, header.grid, pool)
            rows.append(_compare(path, header.stain.matrix, reference, watch, len(header.grid)))
    return rows


def _of_all_pixels(slide: Slide, grid: TileGrid, pool: ThreadPoolExecutor) -> StainMatrix:
    config = load_config().stain
    side = max(1, round(grid.patch_px * grid.mpp / max(config.pixel_um, grid.mpp)))

    def read(index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        x, y = grid.level_xy[index].tolist()
        return slide.read_patch(grid.level, (x, y), grid.read_px, side).reshape(-1, 3)

    return estimate_stain_matrix(
        np.concatenate(list(pool.map(read, range(len(grid))))), config
    ).matrix


def _compare(
    path: Path, found: StainMatrix, reference: StainMatrix, watch: Stopwatch, tiles: int
) -> StainRow:
    cosines = (found.vectors * reference.vectors).sum(axis=1).clip(-1, 1)
    degrees = np.degrees(np.arccos(cosines)).tolist()
    maxima = np.abs(found.max_concentration / reference.max_concentration - 1).tolist()
    return StainRow(path.stem, tiles, watch.seconds["stain"], *degrees, *maxima)


def main() -> None:
    """Print the rows as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=16_384)
    parser.add_argument("--slide", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    print("| slide | tiles | s | H, degrees | E, degrees | max H | max E |")
    print("|---|---|---|---|---|---|---|")
    for path in (repeated_slide(options.folder, options.side), *options.slide):
        for row in measure(path):
            print(
                f"| {row.slide} | {row.tiles} | {row.seconds:.2f} | {row.h_degrees:.2f} "
                f"| {row.e_degrees:.2f} | {row.h_max:.2%} | {row.e_max:.2%} |"
            )


if __name__ == "__main__":
    main()
