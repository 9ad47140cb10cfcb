"""Which reader opens what, what is refused, and real slides through all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.contracts.reader_contract import ReaderContract
from tests.contracts.reading import sources, whole
from tests.contracts.slide_files import (
    BOTH_READERS,
    RGB,
    TIFF_ONLY,
    picture,
    write_pyramid,
    write_svs,
)
from wsi_pipeline.config import ReaderName
from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.base import NotBrightfieldError, composite_on_white
from wsi_pipeline.types import MppSource


class TestTiffReader(ReaderContract):
    name = ReaderName.TIFF
    containers = BOTH_READERS + TIFF_ONLY


class TestOpenSlideReader(ReaderContract):
    name = ReaderName.OPENSLIDE
    containers = BOTH_READERS


# --- which reader ---


def test_importing_readers_loads_no_library() -> None:
    code = (
        "import sys, wsi_pipeline.slide.readers, wsi_pipeline.slide.open\n"
        "print(sorted({'openslide', 'tifffile', 'imagecodecs', 'PIL'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "[]"


def test_auto_decodes_tiff_directly_and_leaves_the_rest_to_openslide(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture())
    Image.fromarray(picture()).save(tmp_path / "b.png")
    with open_reader(tmp_path / "a.tif") as tiff, open_reader(tmp_path / "b.png") as image:
        assert (tiff.name, image.name) == ("tiff", "openslide")


def test_auto_falls_back_to_openslide_for_tiles_that_need_it(tmp_path: Path) -> None:
    # Aperio's 33003 is the same codestream holding YCbCr, which only OpenSlide turns into RGB
    write_pyramid(
        tmp_path / "ycc.svs", picture(), description="Aperio x|MPP = 0.5", levels=1,
        compression="aperio_jp2000_ycbc",
    )  # fmt: skip
    with open_reader(tmp_path / "ycc.svs") as reader:
        assert reader.name == "openslide"
    with pytest.raises(UnsupportedSlideError, match=r"APERIO_JP2000_YCBC.*not decoded directly"):
        open_reader(tmp_path / "ycc.svs", ReaderName.TIFF)


def test_a_refusal_names_the_file_and_what_each_reader_said(tmp_path: Path) -> None:
    path = tmp_path / "notes.svs"
    path.write_text("no slide at all")
    with pytest.raises(UnsupportedSlideError) as caught:
        open_reader(path)
    message = str(caught.value)
    assert str(path) in message
    assert "tiff: not a readable TIFF" in message
    assert "openslide: OpenSlide does not know the format" in message
    assert caught.value.path == path


def test_a_missing_file_is_a_read_error(tmp_path: Path) -> None:
    with pytest.raises(SlideReadError, match="does not exist"):
        open_reader(tmp_path / "gone.svs")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_file_is_a_read_error(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture())
    (tmp_path / "a.tif").chmod(0)
    with pytest.raises(SlideReadError, match="Permission"):
        open_reader(tmp_path / "a.tif")


# --- what is not a brightfield slide ---


@pytest.mark.parametrize(
    ("pixels", "photometric", "said"),
    [
        (np.zeros((64, 64), np.uint8), "minisblack", "greyscale"),
        (np.zeros((64, 64, 3), np.uint16), "rgb", "type uint16"),
        (np.zeros((64, 64, 3), np.float32), "rgb", "type float32"),
        (np.zeros((64, 64, 5), np.uint8), "minisblack", "5 channels"),
    ],
    ids=["greyscale", "16 bit", "float", "5 channels"],
)
@pytest.mark.parametrize("choice", [ReaderName.AUTO, ReaderName.TIFF])
def test_what_is_not_8_bit_colour_is_refused_by_name(
    tmp_path: Path,
    pixels: RGB,
    photometric: str,
    said: str,
    choice: ReaderName,
) -> None:
    path = tmp_path / "fluorescence.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric=photometric, planarconfig="contig")
    with pytest.raises(NotBrightfieldError, match=said) as caught:
        open_reader(path, choice)
    assert str(path) in str(caught.value)


def test_fluorescence_channels_are_refused_not_shown_as_grey(tmp_path: Path) -> None:
    path = tmp_path / "channels.ome.tif"
    tifffile.imwrite(
        path, np.zeros((4, 128, 128), np.uint8), tile=(64, 64), ome=True,
        metadata={"axes": "CYX"}, photometric="minisblack",
    )  # fmt: skip
    with pytest.raises(NotBrightfieldError, match="greyscale"):
        open_reader(path)


def test_grey_images_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(picture()[..., 0]).save(path)
    with pytest.raises(NotBrightfieldError, match="mode L"):
        open_reader(path)


# --- transparency ---


@given(rgba=arrays(np.uint8, st.tuples(st.integers(0, 6), st.integers(0, 6), st.just(4))))
def test_compositing_equals_the_formula(rgba: RGB) -> None:
    alpha = rgba[..., 3:] / 255
    exact = rgba[..., :3] * alpha + 255 * (1 - alpha)
    pixels = np.zeros((*rgba.shape[:2], 3), np.uint8)
    composite_on_white(rgba, pixels)
    assert np.abs(pixels - exact).max(initial=0) <= 0.5 + 1e-9


def test_transparent_black_is_white() -> None:
    pixels = np.zeros((1, 2, 3), np.uint8)
    composite_on_white(np.array([[[0, 0, 0, 0], [10, 20, 30, 255]]], np.uint8), pixels)
    assert pixels.tolist() == [[[255, 255, 255], [10, 20, 30]]]


@pytest.mark.parametrize(("kind", "stored"), [("unassalpha", 1.0), ("assocalpha", 0.5)])
def test_alpha_of_tiff_files_shows_white_behind(tmp_path: Path, kind: str, stored: float) -> None:
    rgb = picture()
    alpha = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    alpha[:, 100:] = 0
    alpha[:100, 100:] = 128
    colour = np.where(alpha == 128, np.rint(rgb * stored), rgb).astype(np.uint8)
    colour[alpha[..., 0] == 0] = 0
    path = tmp_path / "alpha.tif"
    tifffile.imwrite(
        path, np.concatenate([colour, alpha], axis=-1), tile=(64, 64), photometric="rgb",
        extrasamples=[kind],
    )  # fmt: skip
    with open_reader(path, ReaderName.TIFF) as reader:
        read = whole(reader)
    np.testing.assert_array_equal(read[:, :100], rgb[:, :100])
    assert (read[100:, 100:] == 255).all()
    assert np.abs(read[:100, 100:] - (rgb[:100, 100:] / 2 + 127.5)).max() <= 1.5


def test_transparent_png_shows_white_behind(tmp_path: Path) -> None:
    rgba = np.concatenate([picture(), np.full((200, 300, 1), 255, np.uint8)], axis=-1)
    rgba[50:, 60:] = 0
    Image.fromarray(rgba).save(tmp_path / "cut.png")
    with open_reader(tmp_path / "cut.png") as reader:
        read = whole(reader)
    assert (read[50:, 60:] == 255).all()
    np.testing.assert_array_equal(read[:50], picture()[:50])


# --- images ---


@pytest.mark.parametrize(("suffix", "tolerance"), [(".png", 0), (".jpg", 60)])
def test_plain_images_are_slides_of_one_level_without_resolution(
    tmp_path: Path, suffix: str, tolerance: int
) -> None:
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(picture()).save(path, quality=95)
    with open_reader(path) as reader:
        assert reader.level_sizes_wh == ((300, 200),)
        assert reader.mpp_candidates == ()
        assert np.abs(whole(reader) - picture()).max() <= tolerance


def test_an_image_too_large_for_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.png"
    Image.fromarray(picture()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnsupportedSlideError, match=r"too large.*tiled TIFF"):
        open_reader(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_image_is_a_read_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"half{suffix}"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SlideReadError, match="half"):
        open_reader(path)


# --- stated resolutions ---


def test_both_readers_name_the_true_source(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs", picture())
    write_pyramid(tmp_path / "b.tif", picture())
    for choice in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with open_reader(tmp_path / "a.svs", choice) as reader:
            assert sources(reader) == {
                MppSource.VENDOR: (0.499, 0.499),
                MppSource.OBJECTIVE: (0.5, 0.5),
            }
        with open_reader(tmp_path / "b.tif", choice) as reader:
            # OpenSlide offers this one as its own; it comes from the tags
            assert sources(reader) == {MppSource.TIFF: (0.499, 0.499)}


def test_the_objective_is_the_last_resort(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs", picture(), fields="AppMag = 40")
    for choice in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with open_reader(tmp_path / "a.svs", choice) as reader:
            assert sources(reader) == {MppSource.OBJECTIVE: (0.25, 0.25)}


def test_resolution_without_unit_states_nothing(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture(), resolution=(20000, 20000), resolutionunit="NONE")
    for choice in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with open_reader(tmp_path / "a.tif", choice) as reader:
            assert reader.mpp_candidates == ()


def test_inches_are_converted(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture(), resolution=(50800, 50800), resolutionunit="INCH")
    for choice in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with open_reader(tmp_path / "a.tif", choice) as reader:
            assert sources(reader) == {MppSource.TIFF: (0.5, 0.5)}


# --- real slides ---


@pytest.fixture
def slides(data_dir: Path) -> Path:
    return data_dir / "slides"


@pytest.mark.data
@pytest.mark.parametrize(
    "name",
    [
        "CMU-1-Small-Region.svs",
        "CMU-1-Small-Region_generic-pyramid.tif",
        "CMU-1-Small-Region.ome.tif",
        "mosaic_monuseg_train_40x.tif",
    ],
)
def test_both_readers_read_the_same_pixels_of_real_slides(slides: Path, name: str) -> None:
    with (
        open_reader(slides / name, ReaderName.TIFF) as tiff,
        open_reader(slides / name, ReaderName.OPENSLIDE) as other,
    ):
        width, height = tiff.level_sizes_wh[0]
        xy, size = (width // 3 + 5, height // 4 + 3), (1000, 1000)
        np.testing.assert_array_equal(tiff.read(0, xy, size), other.read(0, xy, size))
        for level in range(1, len(other.level_sizes_wh)):
            assert tiff.level_sizes_wh[level] == other.level_sizes_wh[level]
            near = np.abs(
                tiff.read(level, (37, 21), (500, 500)).astype(int)
                - other.read(level, (37, 21), (500, 500))
            )
            # OpenSlide interpolates where a downsample is not whole: a shift of < 0.02 px here
            assert near.mean() < 0.5


@pytest.mark.data
def test_dicom_frames_are_the_tiles_of_the_svs(slides: Path) -> None:
    with (
        open_reader(slides / "CMU-1-Small-Region.svs") as svs,
        open_reader(slides / "CMU-1-Small-Region_dicom") as dicom,
    ):
        np.testing.assert_array_equal(whole(svs), whole(dicom))


@pytest.mark.data
def test_copies_compressed_again_stay_near_the_svs(slides: Path) -> None:
    with (
        open_reader(slides / "CMU-1-Small-Region.svs") as svs,
        open_reader(slides / "CMU-1-Small-Region_generic-pyramid.tif") as tif,
        open_reader(slides / "CMU-1-Small-Region.ome.tif") as ome,
    ):
        np.testing.assert_array_equal(whole(tif), whole(ome))
        # their JPEG is lossy: measured mean 3.10, maximum 116 on single pixels
        loss = whole(tif) - whole(svs)
        assert np.abs(loss).mean() < 3.5
        assert np.abs(loss.mean(axis=(0, 1))).max() < 0.5


@pytest.mark.data
def test_the_ome_tiff_that_openslide_refuses_is_read(slides: Path) -> None:
    with open_reader(slides / "OS-1-detail_HE.ome.tif") as reader:
        red, green, blue = whole(reader).mean(axis=(0, 1))
        assert reader.level_sizes_wh == ((1101, 1101),)
        assert sources(reader)[MppSource.OME] == pytest.approx((0.2271, 0.2271), abs=1e-4)
    # pink and purple: colours taken for YCbCr or swapped would be neither
    assert green < blue < 255
    assert green < red < 255


@pytest.mark.data
def test_ndpi_states_its_resolution(slides: Path) -> None:
    with open_reader(slides / "hamamatsu_fluorescence_DAPI.ndpi") as reader:
        assert (reader.name, reader.vendor) == ("openslide", "hamamatsu")
        assert sources(reader)[MppSource.TIFF] == pytest.approx((0.2282, 0.2282), abs=1e-4)
    with pytest.raises(UnsupportedSlideError, match="NDPI files are left to OpenSlide"):
        open_reader(slides / "hamamatsu_fluorescence_DAPI.ndpi", ReaderName.TIFF)


@pytest.mark.data
@pytest.mark.parametrize("choice", list(ReaderName))
def test_a_slide_with_unreadable_tiles_says_so(slides: Path, choice: ReaderName) -> None:
    with (
        open_reader(slides / "fixtures" / "unreadable.svs", choice) as reader,
        pytest.raises(SlideReadError, match=r"unreadable\.svs.*Bogus marker length"),
    ):
        whole(reader)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pathml_small_dicom.dcm", "Couldn't get image flavor"),
        ("fixtures/highdicom_sm_annotations.dcm", "OpenSlide does not know the format"),
    ],
)
def test_dicom_that_is_no_slide_is_refused(slides: Path, name: str, said: str) -> None:
    with pytest.raises(UnsupportedSlideError, match=said):
        open_reader(slides / name)


@pytest.mark.data
def test_small_fixtures_open(slides: Path) -> None:
    with open_reader(slides / "fixtures" / "boxes_0.dcm") as reader:
        assert reader.level_sizes_wh == ((16, 16),)
    with open_reader(slides / "fixtures" / "highdicom_sm_image.dcm") as reader:
        assert reader.level_sizes_wh == ((50, 50),)
    with (
        open_reader(slides / "fixtures" / "boxes.tiff", ReaderName.TIFF) as tiff,
        open_reader(slides / "fixtures" / "boxes.tiff", ReaderName.OPENSLIDE) as other,
    ):
        assert tiff.level_sizes_wh == other.level_sizes_wh
        np.testing.assert_array_equal(whole(tiff), whole(other))
