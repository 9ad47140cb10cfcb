"""Tiles whose bytes are not all there, in every compression: an error with its place, no pixels."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.slide_files import picture
from wsi_pipeline.config import ReaderName
from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.tiff_codecs import require_complete

CODINGS: dict[str, dict[str, Any]] = {
    "jpeg": {"compression": "jpeg", "compressionargs": {"level": 75}},
    "jpeg with half the chroma": {
        "compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2),
    },
    "jpeg, planar": {"compression": "jpeg", "planarconfig": "separate"},
    "jpeg, strips": {"compression": "jpeg", "tile": None, "rowsperstrip": 64},
    "jpeg 2000": {"compression": "jpeg2000", "compressionargs": {"level": 40}},
    "jpeg 2000, lossless": {"compression": "aperio_jp2000_rgb"},
    "webp": {"compression": "webp", "compressionargs": {"level": 75}},
    "webp, lossless": {"compression": "webp", "compressionargs": {"lossless": True}},
    "lzw": {"compression": "lzw"},
    "lzw, predicted": {"compression": "lzw", "predictor": True},
    "lzw, strips": {"compression": "lzw", "tile": None, "rowsperstrip": 64},
    "deflate": {"compression": "deflate"},
    "zstd": {"compression": "zstd"},
    "lzma": {"compression": "lzma"},
    "packbits": {"compression": "packbits"},
}  # fmt: skip


def write(path: Path, coding: dict[str, Any]) -> tuple[int, int]:
    """Write a slide of 4 x 4 tiles; return place and size of its last piece."""
    pixels = picture(512, 512)
    planes = np.moveaxis(pixels, -1, 0) if "planarconfig" in coding else pixels
    options = {"tile": (128, 128), "photometric": "rgb", "metadata": None, **coding}
    tifffile.imwrite(path, planes, **options)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages.first
        return page.dataoffsets[-1], page.databytecounts[-1]


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_a_piece_never_written_to_its_end_is_an_error_with_its_place(
    tmp_path: Path, coding: str, share: float
) -> None:
    path = tmp_path / "half.tif"
    offset, count = write(path, CODINGS[coding])
    kept = int(count * share)
    overwrite(path, offset + kept, bytes(count - kept))
    with open_reader(path, ReaderName.TIFF) as reader:
        np.testing.assert_array_equal(reader.read(0, (0, 0), (64, 64)).shape, (64, 64, 3))
        for place, size in (((384, 384), (128, 128)), ((450, 450), (40, 40))):
            for _ in range(2):
                with pytest.raises(SlideReadError, match=r"half\.tif has a damaged tile at level"):
                    reader.read(0, place, size)


@pytest.mark.parametrize("coding", CODINGS)
def test_a_piece_cut_short_is_an_error(tmp_path: Path, coding: str) -> None:
    path = tmp_path / "short.tif"
    _, count = write(path, CODINGS[coding])
    with tifffile.TiffFile(path) as tif:
        tags = tif.pages.first.tags
        tag = tags[325 if 325 in tags else 279]
        code = {3: "H", 4: "I", 16: "Q"}[tag.dtype]
        last = tag.valueoffset + struct.calcsize(code) * (tag.count - 1)
    overwrite(path, last, struct.pack(f"<{code}", count * 2 // 3))
    with (
        open_reader(path, ReaderName.TIFF) as reader,
        pytest.raises(SlideReadError, match="damaged tile"),
    ):
        reader.read(0, (384, 384), (128, 128))


@given(
    side=st.sampled_from([64, 240, 256, 512]),
    colour=st.tuples(*[st.integers(0, 255)] * 3),
    level=st.integers(1, 100),
)
@settings(max_examples=40, deadline=None)
def test_blank_tiles_are_complete(side: int, colour: tuple[int, int, int], level: int) -> None:
    blank = np.full((side, side, 3), colour, np.uint8)
    for options in ({"level": level}, {"lossless": True}):
        data = bytes(imagecodecs.webp_encode(blank, **options))
        require_complete(data, (side, side), is_jpeg2000=False)
    stream = bytes(imagecodecs.jpeg2k_encode(blank, level=level, codecformat="j2k"))
    require_complete(stream, (side, side), is_jpeg2000=True)
    # some writers end without the marker, or fill up with zeros behind it
    require_complete(stream + bytes(100), (side, side), is_jpeg2000=True)
    require_complete(stream[:-2], (side, side), is_jpeg2000=True)


def test_a_tile_that_claims_to_be_huge_takes_no_memory() -> None:
    stream = bytearray(imagecodecs.jpeg2k_encode(picture(64, 64), codecformat="j2k"))
    stream[8:16] = struct.pack(">II", 100_000, 100_000)
    with pytest.raises(ValueError, match="100000 x 100000"):
        require_complete(bytes(stream), (64, 64), is_jpeg2000=True)


def test_a_jpeg_tile_of_another_size_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "larger.tif"
    offset, count = write(path, CODINGS["jpeg"])
    jpeg = bytearray(path.read_bytes()[offset : offset + count])
    frame = jpeg.index(b"\xff\xc0")
    for height, width in ((65_500, 65_500), (128, 136), (64, 128)):
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
        overwrite(path, offset, bytes(jpeg))
        with (
            open_reader(path, ReaderName.TIFF) as reader,
            pytest.raises(SlideReadError, match="damaged tile at level 0, column 3, row 3"),
        ):
            reader.read(0, (384, 384), (128, 128))


def test_uncommon_ratios_of_chroma_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chroma.tif"
    pixels = picture(256, 256)
    for subsampling in ((1, 1), (2, 1), (2, 2), (4, 1)):
        tifffile.imwrite(
            path, pixels, tile=(128, 128), photometric="ycbcr", compression="jpeg",
            subsampling=subsampling, metadata=None,
        )  # fmt: skip
        with open_reader(path, ReaderName.TIFF) as reader:
            read = reader.read(0, (0, 0), (256, 256))
        np.testing.assert_array_equal(read, tifffile.imread(path))


@given(damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("coding", ["jpeg", "jpeg 2000", "webp", "lzw", "deflate"])
def test_damaged_pieces_end_in_pixels_or_errors_of_slides(
    tmp_path: Path, coding: str, damage: list[tuple[float, int]]
) -> None:
    path = tmp_path / "damaged.tif"
    offset, count = write(path, CODINGS[coding])
    for share, value in damage:
        overwrite(path, offset + int(share * (count - 1)), bytes([value]))
    with open_reader(path, ReaderName.TIFF) as reader:
        try:
            assert reader.read(0, (384, 384), (128, 128)).shape == (128, 128, 3)
        except SlideReadError as error:
            assert "column 3, row 3" in str(error)  # noqa: PT017 -- either outcome is right


@pytest.mark.parametrize("first", [b"\x00\x21", b"\x00\x00", b"\xff\xff", b"\x80\x80"])
def test_lzw_that_does_not_begin_as_such_never_reaches_its_decoder(
    tmp_path: Path, first: bytes
) -> None:
    # imagecodecs takes the first of these for LZW of 1986, and can die of it
    path = tmp_path / "old.tif"
    offset, _ = write(path, CODINGS["lzw"])
    overwrite(path, offset, first)
    with (
        open_reader(path, ReaderName.TIFF) as reader,
        pytest.raises(SlideReadError, match="LZW stream does not begin as one"),
    ):
        reader.read(0, (384, 384), (128, 128))
