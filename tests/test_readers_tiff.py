"""Pyramids, damaged files and the cache of the reader that decodes TIFF tiles itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.reading import whole
from tests.contracts.slide_files import (
    RGB,
    halved,
    picture,
    write_ome,
    write_pyramid,
    write_svs,
)
from wsi_pipeline.config import ReaderName
from wsi_pipeline.errors import SlideError, SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.tile_cache import TileCache, TileKey

# --- pyramids ---


def test_thumbnail_label_and_macro_are_no_levels(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs", picture())
    for choice in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with open_reader(tmp_path / "a.svs", choice) as reader:
            assert reader.level_sizes_wh == ((300, 200), (150, 100))
            assert reader.objective_power == 20


def test_tiled_pages_of_other_proportions_are_no_levels(tmp_path: Path) -> None:
    path = tmp_path / "macro.tif"
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.zeros((100, 100, 3), np.uint8), **options)
        tif.write(picture(), **options)
        tif.write(halved(picture()), **options)
        tif.write(np.zeros((100, 150), np.uint8), tile=(64, 64), metadata=None)
    with open_reader(path, ReaderName.TIFF) as reader:
        assert reader.level_sizes_wh == ((300, 200), (150, 100))
        np.testing.assert_array_equal(whole(reader), picture())


def test_openslide_sees_one_level_of_subifds_where_direct_decoding_sees_all(
    tmp_path: Path,
) -> None:
    write_ome(tmp_path / "a.ome.tif", picture())
    with (
        open_reader(tmp_path / "a.ome.tif", ReaderName.TIFF) as tiff,
        open_reader(tmp_path / "a.ome.tif", ReaderName.OPENSLIDE) as other,
    ):
        assert len(tiff.level_sizes_wh) == 3
        assert len(other.level_sizes_wh) == 1
        np.testing.assert_array_equal(whole(tiff), whole(other))


@given(width=st.integers(200, 700), height=st.integers(200, 700), tile=st.sampled_from([64, 112]))
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_pyramids_of_odd_sizes_keep_every_level(
    tmp_path: Path, width: int, height: int, tile: int
) -> None:
    write_pyramid(tmp_path / "odd.tif", picture(width, height), levels=4, tile=(tile, tile))
    with open_reader(tmp_path / "odd.tif", ReaderName.TIFF) as reader:
        assert reader.level_sizes_wh == tuple((width >> n, height >> n) for n in range(4))
        assert reader.level_downsamples == pytest.approx((1, 2, 4, 8), rel=0.06)
        np.testing.assert_array_equal(whole(reader), picture(width, height))


def test_pieces_too_large_to_read_alone_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_pipeline.slide.readers.tiff_tiles.MAX_TILE_BYTES", 1000)
    write_pyramid(tmp_path / "strip.tif", picture(), tile=None, levels=1)
    with pytest.raises(UnsupportedSlideError, match="pieces of 300 x 200 px"):
        open_reader(tmp_path / "strip.tif", ReaderName.TIFF)


# --- damage ---


def test_a_truncated_file_fails_where_pixels_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    write_pyramid(path, picture(), levels=1)
    sound = path.read_bytes()
    path.write_bytes(sound[: len(sound) * 2 // 3])
    with open_reader(path, ReaderName.TIFF) as reader:
        np.testing.assert_array_equal(reader.read(0, (0, 0), (64, 64)), picture()[:64, :64])
        with pytest.raises(SlideReadError, match=r"truncated, copy it again") as caught:
            whole(reader)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "jpeg", "aperio_jp2000_rgb"])
def test_a_damaged_tile_names_its_place_and_spares_the_others(
    tmp_path: Path, compression: str
) -> None:
    path = tmp_path / "damaged.tif"
    write_pyramid(path, picture(), levels=1, compression=compression)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        offset, count = page.dataoffsets[7], page.databytecounts[7]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\xd8" + bytes(count - 2))
    with open_reader(path, ReaderName.TIFF) as reader:
        reader.read(0, (0, 0), (64, 64))
        for _ in range(2):
            with pytest.raises(SlideReadError, match="level 0, column 2, row 1"):
                whole(reader)


def test_openslide_errors_name_the_file_and_the_place(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    write_pyramid(path, picture(), levels=1, compression="deflate")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.dataoffsets[7]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"broken")
    with open_reader(path, ReaderName.OPENSLIDE) as reader:
        for _ in range(2):
            with pytest.raises(SlideReadError, match=r"cut\.tif cannot be read at level 0"):
                whole(reader)


def test_pages_that_form_a_ring_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ring.tif"
    write_pyramid(path, picture(), levels=2)
    with tifffile.TiffFile(path) as tif:
        first, last = tif.pages[0].offset, tif.pages[1].offset
        tags = len(tif.pages[1].aspage().tags)
    with path.open("r+b") as file:
        file.seek(last + 2 + 12 * tags)
        file.write(first.to_bytes(4, "little"))
    with pytest.raises(UnsupportedSlideError, match="ring"):
        open_reader(path, ReaderName.TIFF)


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.ome.tif"
    write_ome(path, picture(150, 100), levels=2, compression="deflate")
    return path


@given(
    damage=st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), max_size=6),
    kept=st.floats(0.02, 1),
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_broken_files_fail_as_slides_do(
    tmp_path: Path, sound_file: Path, damage: list[tuple[int, int]], kept: float
) -> None:
    sound = sound_file.read_bytes()
    broken = bytearray(sound[: max(1, int(len(sound) * kept))])
    for place, value in damage:
        broken[place % len(broken)] = value
    path = tmp_path / "broken.tif"
    path.write_bytes(broken)
    with suppress(SlideError), open_reader(path, ReaderName.TIFF) as reader:
        width, height = reader.level_sizes_wh[0]
        reader.read(0, (0, 0), (min(width, 500), min(height, 500)))


# --- the cache of decoded tiles ---


def counting(calls: list[TileKey]) -> Callable[[TileKey], RGB]:
    def decode(key: TileKey) -> RGB:
        calls.append(key)
        return np.full((10, 10, 3), key[1], np.uint8)

    return decode


@given(columns=st.lists(st.integers(0, 8), max_size=60))
def test_the_cache_stays_within_its_bytes_and_keeps_what_was_used_last(
    columns: list[int],
) -> None:
    calls: list[TileKey] = []
    cache, decode = TileCache(3 * 300), counting(calls)
    recent: list[int] = []
    for column in columns:
        before = len(calls)
        tile = cache.get((0, column, 0), decode)
        assert tile is not None
        assert (tile == column).all()
        assert (len(calls) == before) == (column in recent)
        recent = [*[other for other in recent if other != column][-2:], column]
        assert cache.nbytes == 300 * len(recent)


def test_a_tile_larger_than_the_cache_is_decoded_but_not_kept() -> None:
    calls: list[TileKey] = []
    cache = TileCache(100)
    for _ in range(2):
        assert cache.get((0, 1, 0), counting(calls)) is not None
    assert len(calls) == 2
    assert cache.nbytes == 0


def test_unaligned_patches_decode_each_tile_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pyramid(tmp_path / "a.tif", picture(640, 640), levels=1)
    with open_reader(tmp_path / "a.tif", ReaderName.TIFF) as reader:
        read: list[int] = []
        pread = os.pread

        def counting_pread(file: int, count: int, offset: int) -> bytes:
            read.append(offset)
            return pread(file, count, offset)

        monkeypatch.setattr(os, "pread", counting_pread)
        for y in range(0, 600, 50):
            for x in range(0, 600, 50):
                reader.read(0, (x, y), (50, 50))
    assert len(read) == len(set(read)) == 100


# --- whole tiles ---


CODINGS: list[dict[str, Any]] = [
    {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
    {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)},
    {"compression": "jpeg", "photometric": "rgb"},
    {"compression": "jpeg2000", "photometric": "rgb"},
    {"compression": "deflate", "photometric": "rgb", "predictor": True},
    {"compression": "lzw", "photometric": "rgb", "planarconfig": "separate"},
    {"compression": "zstd", "photometric": "rgb"},
]


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: "-".join(map(str, coding.values())))
def test_a_whole_tile_is_the_same_as_its_part_of_a_larger_rectangle(
    tmp_path: Path, coding: dict[str, Any]
) -> None:
    pixels = picture(300, 200)
    shape = np.moveaxis(pixels, -1, 0) if "planarconfig" in coding else pixels
    tifffile.imwrite(tmp_path / "a.tif", shape, tile=(64, 64), metadata=None, **coding)
    with open_reader(tmp_path / "a.tif", ReaderName.TIFF) as reader:
        everything = whole(reader)
        for x, y in ((0, 0), (64, 128), (192, 64)):
            tile = reader.read(0, (x, y), (64, 64))
            np.testing.assert_array_equal(tile, everything[y : y + 64, x : x + 64])
        # the last column is cut by the border of the slide
        tile = reader.read(0, (256, 0), (64, 64))
        np.testing.assert_array_equal(tile[:, :44], everything[:64, 256:])
        assert (tile[:, 44:] == 255).all()


@pytest.mark.data
def test_a_whole_tile_with_tables_of_its_page(data_dir: Path) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0].aspage()
        assert page.jpegtables is not None
        side = page.tilewidth
    with open_reader(path, ReaderName.TIFF) as reader:
        around = reader.read(0, (side - 1, 3 * side - 1), (side + 2, side + 2))
        tile = reader.read(0, (side, 3 * side), (side, side))
    np.testing.assert_array_equal(tile, around[1:-1, 1:-1])


def test_a_whole_tile_that_is_missing_is_white(tmp_path: Path) -> None:
    def tiles() -> Any:
        for index in range(20):
            yield None if index == 6 else np.full((64, 64, 3), 9 * index, dtype=np.uint8)

    tifffile.imwrite(
        tmp_path / "a.tif",
        tiles(),
        shape=(256, 320, 3),
        dtype=np.uint8,
        tile=(64, 64),
        photometric="rgb",
        compression="jpeg",
        metadata=None,
    )
    with open_reader(tmp_path / "a.tif", ReaderName.TIFF) as reader:
        assert (reader.read(0, (64, 64), (64, 64)) == 255).all()
        assert np.abs(reader.read(0, (128, 64), (64, 64)).astype(int) - 63).max() <= 1


def test_whole_tiles_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pyramid(tmp_path / "a.tif", picture(640, 640), levels=1, tile=(64, 64))
    read: list[int] = []
    pread = os.pread

    def counting_pread(file: int, count: int, offset: int) -> bytes:
        read.append(offset)
        return pread(file, count, offset)

    monkeypatch.setattr(os, "pread", counting_pread)
    with open_reader(tmp_path / "a.tif", ReaderName.TIFF) as reader:
        reader.read(0, (64, 64), (64, 64))
        reader.read(0, (96, 64), (64, 64))
        reader.read(0, (90, 64), (64, 64))
    assert len(read) == 3
    assert len(set(read)) == 2
