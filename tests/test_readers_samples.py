"""What the samples of a pixel mean: depth, channels in pages of their own, alpha."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.contracts.reading import sources, whole
from tests.contracts.slide_files import halved, picture
from wsi_pipeline.config import ReaderName
from wsi_pipeline.errors import SlideError
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.base import NotBrightfieldError
from wsi_pipeline.types import MppSource

TILED: dict[str, Any] = {"tile": (64, 64), "metadata": None}
SLIDE = picture()


# --- depth ---


@pytest.mark.parametrize("compression", [None, "deflate", "lzw", "zstd", "jpeg2000"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_of_16_bit_are_read(tmp_path: Path, compression: str | None, planar: str) -> None:
    path = tmp_path / "deep.tif"
    deep = SLIDE.astype(np.uint16) * 257
    tifffile.imwrite(
        path, np.moveaxis(deep, -1, 0) if planar == "separate" else deep,
        photometric="rgb", planarconfig=planar, compression=compression, **TILED,
    )  # fmt: skip
    with open_reader(path) as reader:
        assert reader.name == "tiff"
        np.testing.assert_array_equal(whole(reader), SLIDE)
        np.testing.assert_array_equal(reader.read(0, (64, 64), (64, 64)), SLIDE[64:128, 64:128])


def test_deep_values_are_rounded_to_the_nearest(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, (128, 128, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", values, photometric="rgb", **TILED)
    with open_reader(tmp_path / "deep.tif") as reader:
        assert np.abs(whole(reader) - values / 257).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_bits_that_are_not_used_are_stated_or_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "camera.ome.tif"
    top = (1 << bits) - 1
    deep = np.rint(SLIDE.astype(float) * top / 255).astype(np.uint16)
    for stated in (True, False):
        metadata = {"axes": "YXS", **({"SignificantBits": bits} if stated else {})}
        tifffile.imwrite(path, deep, tile=(64, 64), photometric="rgb", ome=True, metadata=metadata)
        if stated:
            with open_reader(path) as reader:
                assert np.abs(whole(reader) - SLIDE).max() <= 1
        elif bits < 14:
            with pytest.raises(NotBrightfieldError, match=r"SignificantBits.*vips"):
                open_reader(path)


def deep(bits: int) -> Any:
    return np.rint(SLIDE.astype(float) * ((1 << bits) - 1) / 255).astype(np.uint16)


@pytest.mark.parametrize(("tag", "bits"), [(281, 10), (281, 14), (341, 12)])
def test_the_largest_value_of_a_sample_tells_the_bits(tmp_path: Path, tag: int, bits: int) -> None:
    largest = (tag, 3, 3, ((1 << bits) - 1,) * 3, True)
    tifffile.imwrite(
        tmp_path / "a.tif", deep(bits), photometric="rgb", extratags=[largest], **TILED
    )
    with open_reader(tmp_path / "a.tif") as reader:
        assert np.abs(whole(reader).astype(int) - SLIDE).max() <= 1


@pytest.mark.parametrize("bits", [12, 14, 15])
def test_bits_that_nobody_states_are_refused_not_shown_dark(tmp_path: Path, bits: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", deep(bits), photometric="rgb", **TILED)
    with pytest.raises(NotBrightfieldError, match="bits that are not used"):
        open_reader(tmp_path / "a.tif")


def test_bits_are_those_of_the_slide_not_of_the_photograph_before_it(tmp_path: Path) -> None:
    images = (np.full((40, 90, 3), 200, np.uint8), 8), (deep(12), 12)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        for pixels, bits in images:
            size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5} if bits > 8 else {}
            metadata = {"axes": "YXS", "SignificantBits": bits, **size}
            tif.write(pixels, tile=(64, 64), photometric="rgb", metadata=metadata)
    with open_reader(tmp_path / "a.ome.tif") as reader:
        assert np.abs(whole(reader).astype(int) - SLIDE).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "options", "said"),
    [
        (np.zeros((64, 64, 3), np.float32), {"photometric": "rgb"}, "type float32.*vips"),
        (np.zeros((64, 64, 3), np.uint32), {"photometric": "rgb"}, "type uint32.*vips"),
        (np.zeros((64, 64), np.uint8), {"photometric": "minisblack"}, "greyscale.*leave it out"),
        (np.zeros((64, 64), np.uint16), {"photometric": "minisblack"}, "greyscale"),
    ],
    ids=["float", "32 bit", "grey", "grey, 16 bit"],
)
def test_what_is_refused_says_the_true_reason(
    tmp_path: Path, pixels: Any, options: dict[str, Any], said: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options, **TILED)
    with pytest.raises(NotBrightfieldError, match=said):
        open_reader(tmp_path / "a.tif")


# --- red, green and blue in pages of their own ---


def write_channels(path: Path, channels: dict[str, Any], levels: int = 1, **options: Any) -> None:
    pixels = SLIDE
    with tifffile.TiffWriter(path, ome=True) as tif:
        metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": channels}
        given = {"tile": (64, 64), "photometric": "minisblack", **options}
        tif.write(np.moveaxis(pixels, -1, 0), subifds=levels - 1, metadata=metadata, **given)
        for _ in range(levels - 1):
            pixels = halved(pixels)
            tif.write(np.moveaxis(pixels, -1, 0), subfiletype=1, metadata=None, **given)


@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
@pytest.mark.parametrize(
    "channels",
    [
        {"Name": ["Red", "Green", "Blue"]},
        {"Name": ["r", "G", " b "]},
        {"Color": [-16776961, 16711935, 65535]},
    ],
    ids=["names", "letters", "colours"],
)
def test_three_pages_of_one_colour_each_are_one_slide(
    tmp_path: Path, compression: str | None, channels: dict[str, Any]
) -> None:
    path = tmp_path / "three.ome.tif"
    write_channels(path, channels, levels=2, compression=compression)
    with open_reader(path) as reader:
        assert reader.level_sizes_wh == ((300, 200), (150, 100))
        assert sources(reader)[MppSource.OME] == (0.5, 0.5)
        loss = 30 if compression == "jpeg" else 0
        assert np.abs(whole(reader) - SLIDE).max() <= loss
        assert np.abs(whole(reader, 1) - halved(SLIDE)).max() <= loss


def test_channels_in_another_order_of_pages_keep_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "turned.ome.tif"
    write_channels(path, {"Name": ["Red", "Green", "Blue"]})
    xml = tifffile.tiffcomment(path)
    assert isinstance(xml, str)
    # the file says that its pages are blue, red and green
    order = ((0, 1), (1, 2), (2, 0))
    pages = "".join(f'<TiffData FirstC="{c}" IFD="{page}"/>' for c, page in order)
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    tifffile.tiffcomment(path, (xml[:start] + pages + xml[end:]).encode())
    with open_reader(path) as reader:
        np.testing.assert_array_equal(whole(reader), SLIDE[..., [1, 2, 0]])


@pytest.mark.parametrize("names", [["DAPI", "FITC", "TRITC"], ["Blue", "Green", "Red"]])
def test_three_other_channels_are_refused_with_what_to_do(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "stains.ome.tif"
    write_channels(path, {"Name": names})
    with pytest.raises(NotBrightfieldError, match=r"greyscale.*name them so in its OME-XML"):
        open_reader(path)


# --- a fourth sample ---


@pytest.mark.parametrize("declared", [None, "unspecified", "unassalpha", "assocalpha"])
def test_only_declared_alpha_is_transparency(tmp_path: Path, declared: str | None) -> None:
    path = tmp_path / "four.tif"
    fourth = np.zeros((*SLIDE.shape[:2], 1), np.uint8)
    pixels = np.concatenate([SLIDE, fourth], axis=-1)
    extra: dict[str, Any] = {} if declared is None else {"extrasamples": [declared]}
    tifffile.imwrite(path, pixels, photometric="rgb", **extra, **TILED)
    if declared is None:
        # tifffile would declare it; the writers meant here do not
        _forget_tag(path, 338)
    with open_reader(path, ReaderName.TIFF) as reader:
        read = whole(reader)
    if declared in (None, "unspecified"):
        np.testing.assert_array_equal(read, SLIDE)
    elif declared == "unassalpha":
        assert (read == 255).all()


def test_samples_behind_the_colours_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "five.tif"
    pixels = np.concatenate([SLIDE, np.zeros((*SLIDE.shape[:2], 2), np.uint8)], axis=-1)
    tifffile.imwrite(
        path, pixels, photometric="rgb", extrasamples=["unspecified", "unspecified"], **TILED
    )
    with open_reader(path, ReaderName.TIFF) as reader:
        np.testing.assert_array_equal(whole(reader), SLIDE)


def _forget_tag(path: Path, code: int) -> None:
    """Put another tag, which changes nothing, in place of one of the first page."""
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.tags[code].offset
    with path.open("r+b") as file:
        file.seek(offset)
        # SampleFormat: unsigned integers, as it is anyway
        file.write(struct.pack("<HHII", 339, 3, 1, 1))


def test_palettes_and_other_colours_are_read_by_openslide_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.tif"
    cmyk = np.concatenate([255 - SLIDE, np.zeros((*SLIDE.shape[:2], 1), np.uint8)], axis=-1)
    tifffile.imwrite(path, cmyk, photometric="separated", **TILED)
    try:
        with open_reader(path) as reader:
            assert reader.name == "openslide"
            assert np.abs(whole(reader) - SLIDE).max() <= 2
    except SlideError as error:
        assert "convert" in str(error)  # noqa: PT017 -- either outcome is right
