"""Tiles into shards: every tile is read once, and what is stored is the plain path's."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from wsi_pipeline.config import PipelineConfig, StoreConfig, load_config
from wsi_pipeline.preprocess.extraction import Extraction, TileReader
from wsi_pipeline.preprocess.given import read_given, recipe_of
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.preprocess.survey import survey_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import Slide, open_slide
from wsi_pipeline.stain import encode_he
from wsi_pipeline.stopwatch import Stopwatch
from wsi_pipeline.store import StoreWriter
from wsi_pipeline.types import NoProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.known import KnownSlide
    from wsi_pipeline.store import StoreHeader


def config(**store: Any) -> PipelineConfig:
    small = {"chunk_patches": 4, "shard_patches": 32, **store}
    return load_config(overrides={"tile": {"patch_size": 128}, "store": small})


@pytest.fixture(scope="module")
def slide(known_slide: KnownSlide) -> Iterator[Slide]:
    with open_slide(known_slide.path) as opened:
        yield opened


@pytest.fixture(scope="module")
def header(slide: Slide, known_slide: KnownSlide) -> StoreHeader:
    job = SlideJob(path=known_slide.path, slide_id="known")
    given = read_given(job, slide.info, config(), recipe_of(job, config()))
    with ThreadPoolExecutor(1) as pool:
        return survey_slide(TileReader(slide, max_bytes=0), given, config(), pool, Stopwatch())


def test_stored_patches_are_those_of_the_plain_path(
    slide: Slide, header: StoreHeader, known_slide: KnownSlide, tmp_path: Path
) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")
    store = preprocess_slide(job, tmp_path / "p.zarr", config(keep_rgb=True), workers=2).store
    grid = header.grid

    for index, (x, y) in enumerate(grid.level_xy.tolist()):
        rgb = slide.read_patch(grid.level, (x, y), grid.read_px, grid.patch_px)
        assert np.array_equal(store.read_rgb(index, index + 1)[0], rgb)
        plain = encode_he(rgb, header.stain.matrix)
        assert np.array_equal(store.read_he(index, index + 1)[0], plain)


def test_sampled_tiles_are_not_read_again(
    known_slide: KnownSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[tuple[int, tuple[int, int]]] = Counter()
    read_level = Slide.read_level

    def count(opened: Slide, level: int, xy: tuple[int, int], *rest: Any) -> Any:
        read[level, xy] += 1
        return read_level(opened, level, xy, *rest)

    monkeypatch.setattr(Slide, "read_level", count)
    job = SlideJob(path=known_slide.path, slide_id="known")
    store = preprocess_slide(job, tmp_path / "p.zarr", config()).store

    grid = store.grid
    assert len(grid) > 30
    assert read == Counter((grid.level, tuple(xy)) for xy in grid.level_xy.tolist())


def test_no_more_is_kept_than_there_is_room_for(slide: Slide, header: StoreHeader) -> None:
    grid = header.grid
    tile_bytes = 3 * grid.read_px**2
    tiles = TileReader(slide, max_bytes=5 * tile_bytes // 2)

    for index in range(4):
        tiles.sample(grid, index, 8)
    assert tiles.nbytes == 2 * tile_bytes

    x, y = grid.level_xy[0].tolist()
    plain = slide.read_patch(grid.level, (x, y), grid.read_px, grid.patch_px)
    assert np.array_equal(tiles.patch(grid, 0), plain)
    assert tiles.nbytes == tile_bytes
    tiles.sample(grid, 3, 8)
    assert tiles.nbytes == 2 * tile_bytes


@pytest.mark.parametrize("chunk_patches", [1, 4, 32])
def test_progress_tells_of_every_patch_and_time_of_every_work(
    slide: Slide, header: StoreHeader, tmp_path: Path, chunk_patches: int
) -> None:
    class Told(NoProgress):
        total = done = 0

        def start(self, title: str, total: int) -> None:
            self.total = total

        def advance(self, steps: int = 1) -> None:
            self.done += steps

    stored = StoreConfig(chunk_patches=chunk_patches, shard_patches=32)
    writer = StoreWriter.create_or_resume(tmp_path / "p.zarr", header, stored)
    told = Told()
    with ThreadPoolExecutor(2) as pool:
        seconds = Extraction(TileReader(slide), header, stored).fill(writer, pool, told)

    assert told.total == told.done == len(header.grid)
    assert set(seconds) == {"decode", "unmix", "compress", "write"}
    assert all(spent > 0 for spent in seconds.values())
    writer.seal().verify()
