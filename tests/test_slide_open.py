"""Any place of a slide at any resolution, against exact answers."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.contracts.slide_files import RGB, halved, picture, write_pyramid, write_svs
from wsi_pipeline.config import ReadConfig, ReaderName
from wsi_pipeline.errors import (
    AnisotropicMppError,
    MissingMppError,
    SlideReadError,
    UnsupportedSlideError,
)
from wsi_pipeline.slide.open import open_slide, slide_files
from wsi_pipeline.types import MppSource

MPP = 0.5
_HALF_UM: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


@pytest.fixture(scope="module")
def pixels() -> RGB:
    return picture(640, 480)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory, pixels: RGB) -> Path:
    path = tmp_path_factory.mktemp("slide") / "pyramid.tif"
    write_pyramid(path, pixels, levels=3, **_HALF_UM)
    return path


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory, pixels: RGB) -> Path:
    path = tmp_path_factory.mktemp("slide") / "flat.tif"
    write_pyramid(path, pixels, levels=1, **_HALF_UM)
    return path


def area_mean(pixels: RGB, x: Fraction, y: Fraction, side: Fraction) -> list[float]:
    """Mean over a square with fractional edges, one pixel at a time; white outside."""
    total = np.zeros(3)
    for row in range(int(y // 1), int(-((-y - side) // 1))):
        for col in range(int(x // 1), int(-((-x - side) // 1))):
            width = min(x + side, Fraction(col + 1)) - max(x, Fraction(col))
            height = min(y + side, Fraction(row + 1)) - max(y, Fraction(row))
            inside = 0 <= row < pixels.shape[0] and 0 <= col < pixels.shape[1]
            colour = pixels[row, col] if inside else np.full(3, 255)
            total += float(width * height) * colour
    return [float(value) for value in total / float(side * side)]


# --- opening ---


def test_info_states_what_is_known(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        info = slide.info
    assert (info.slide_id, info.reader, info.vendor) == ("pyramid", "tiff", "generic-tiff")
    assert info.size_wh == (640, 480)
    assert info.mpp == pytest.approx(0.5)
    assert info.mpp_source is MppSource.TIFF
    assert info.level_sizes_wh == ((640, 480), (320, 240), (160, 120))
    assert info.level_downsamples == (1, 2, 4)


def test_the_reader_and_the_name_can_be_chosen(pyramid: Path) -> None:
    config = ReadConfig(reader=ReaderName.OPENSLIDE)
    with open_slide(pyramid, config, slide_id="case-12") as slide:
        assert (slide.info.reader, slide.info.slide_id) == ("openslide", "case-12")


def test_flag_beats_table_beats_file(pyramid: Path) -> None:
    with open_slide(pyramid, ReadConfig(slide_mpp=0.3), table_mpp=0.4) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.3, MppSource.FLAG)
    with open_slide(pyramid, table_mpp=0.4) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.4, MppSource.TABLE)


def test_an_estimate_from_the_objective_is_marked(tmp_path: Path) -> None:
    write_svs(tmp_path / "a.svs", picture(), fields="AppMag = 40")
    with open_slide(tmp_path / "a.svs") as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (0.25, MppSource.OBJECTIVE)
        assert slide.info.objective_power == 40


def test_an_image_needs_its_resolution_told(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(picture()).save(path, dpi=(72, 72))
    with pytest.raises(MissingMppError, match=r"photo\.png.*--slide-mpp.*CSV"):
        open_slide(path)
    with open_slide(path, ReadConfig(slide_mpp=0.5)) as slide:
        np.testing.assert_array_equal(slide.read_level(0, (0, 0), (300, 200)), picture())


def test_the_72_dpi_of_an_editor_is_not_believed(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", picture(), resolution=(72, 72), resolutionunit="INCH")
    for reader in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with pytest.raises(MissingMppError, match=r"352\.8"):
            open_slide(tmp_path / "a.tif", ReadConfig(reader=reader))


def test_oblong_pixels_are_refused(tmp_path: Path) -> None:
    write_pyramid(
        tmp_path / "a.tif", picture(), resolution=(20_000, 10_000), resolutionunit="CENTIMETER"
    )
    for reader in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with pytest.raises(AnisotropicMppError, match=r"a\.tif.*0\.5 x 1 um"):
            open_slide(tmp_path / "a.tif", ReadConfig(reader=reader))


# --- reading regions ---


def test_native_regions_are_the_stored_pixels(pyramid: Path, pixels: RGB) -> None:
    with open_slide(pyramid) as slide:
        np.testing.assert_array_equal(
            slide.read_region((31, 17), (200, 100), MPP), pixels[17:117, 31:231]
        )
        small = halved(pixels)
        np.testing.assert_array_equal(
            slide.read_region((62, 34), (80, 60), 2 * MPP), small[17:77, 31:111]
        )


@settings(max_examples=25, deadline=None)
@given(
    x=st.integers(-40, 650), y=st.integers(-40, 490), quarters=st.integers(5, 30),
)  # fmt: skip
def test_any_region_is_the_mean_over_the_area_it_covers(
    flat: Path, pixels: RGB, x: int, y: int, quarters: int
) -> None:
    side = Fraction(quarters, 4)
    with open_slide(flat) as slide:
        region = slide.read_region((x, y), (3, 2), MPP * quarters / 4)
    assert region.shape == (2, 3, 3)
    for row in range(2):
        for col in range(3):
            exact = area_mean(pixels, x + col * side, y + row * side, side)
            assert np.abs(region[row, col] - np.array(exact)).max() <= 0.5 + 1e-6


def test_fractional_places_are_respected(flat: Path, pixels: RGB) -> None:
    with open_slide(flat) as slide:
        region = slide.read_region((10.5, 20.25), (1, 1), 2 * MPP)
    exact = area_mean(pixels, Fraction(21, 2), Fraction(81, 4), Fraction(2))
    assert np.abs(region[0, 0] - np.array(exact)).max() <= 0.5 + 1e-6


def test_finer_than_native_interpolates_between_pixel_centres(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 60, axis=0)
    write_pyramid(tmp_path / "ramp.tif", np.repeat(ramp, 3, axis=2), levels=1, **_HALF_UM)
    with open_slide(tmp_path / "ramp.tif") as slide:
        region = slide.read_region((10, 10), (40, 40), MPP / 2)
    # centres lie at 10.25, 10.75, ... px; the ramp is 4 x (centre - 0.5)
    expected = 4 * (10.25 - 0.5 + np.arange(40) / 2)
    assert np.abs(region[5, :, 0] - expected).max() <= 0.5
    assert (region == region[:1]).all()


def test_regions_outside_are_white(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        for mpp in (0.1, 0.5, 0.7, 3.0):
            assert (slide.read_region((-900, 700), (20, 30), mpp) == 255).all()


# --- reading patches ---


def test_a_native_patch_is_what_is_stored(pyramid: Path, pixels: RGB) -> None:
    with open_slide(pyramid) as slide:
        np.testing.assert_array_equal(
            slide.read_patch(0, (40, 30), 128, 128), pixels[30:158, 40:168]
        )


@pytest.mark.parametrize("read_px", [65, 96, 128, 150])
def test_a_shrunk_patch_averages_areas(flat: Path, pixels: RGB, read_px: int) -> None:
    with open_slide(flat) as slide:
        patch = slide.read_patch(0, (40, 30), read_px, 64)
    side = Fraction(read_px, 64)
    for row, col in ((0, 0), (13, 50), (63, 63)):
        exact = area_mean(pixels, 40 + col * side, 30 + row * side, side)
        assert np.abs(patch[row, col] - np.array(exact)).max() <= 1.0


def test_an_enlarged_patch_has_the_size_asked_for(flat: Path) -> None:
    with open_slide(flat) as slide:
        assert slide.read_patch(0, (40, 30), 50, 64).shape == (64, 64, 3)


# --- the overview ---


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mpp=st.floats(0.5, 60), block=st.integers(1, 2_000))
def test_the_overview_averages_areas_whatever_the_blocks(
    flat: Path, pixels: RGB, monkeypatch: pytest.MonkeyPatch, mpp: float, block: int
) -> None:
    with open_slide(flat) as slide, ThreadPoolExecutor(2) as pool:
        at_once, _ = slide.overview(mpp)
        monkeypatch.setattr("wsi_pipeline.slide.open.BLOCK_PX", max(block, round(12 * mpp / MPP)))
        rgb, downsample = slide.overview(mpp, pool)
    assert np.abs(rgb.astype(int) - at_once).max() <= 1
    height, width = rgb.shape[:2]
    assert (width * downsample[0], height * downsample[1]) == pytest.approx((640, 480))
    assert abs(width - 640 * MPP / mpp) <= 0.5 or width == 1
    wide, high = Fraction(640, width), Fraction(480, height)
    for row, col in ((0, 0), (height // 2, width // 3), (height - 1, width - 1)):
        rows = slice(int(row * high), -int(-(row + 1) * high // 1))
        cols = slice(int(col * wide), -int(-(col + 1) * wide // 1))
        low, top = pixels[rows, cols].min(axis=(0, 1)), pixels[rows, cols].max(axis=(0, 1))
        assert (rgb[row, col] >= low.astype(int) - 1).all()
        assert (rgb[row, col] <= top.astype(int) + 1).all()
    assert np.abs(rgb.mean(axis=(0, 1)) - pixels.mean(axis=(0, 1))).max() <= 0.6


def test_the_overview_of_a_whole_factor_is_the_mean_of_blocks(flat: Path, pixels: RGB) -> None:
    with open_slide(flat) as slide:
        rgb, downsample = slide.overview(8 * MPP)
    blocks = pixels.reshape(60, 8, 80, 8, 3).mean(axis=(1, 3))
    assert downsample == (8, 8)
    assert np.abs(rgb - blocks).max() <= 1.0


@pytest.mark.parametrize(("mpp", "level"), [(0.5, 0), (2.0, 0), (4.0, 1), (8.0, 2), (60.0, 2)])
def test_the_overview_is_averaged_from_a_level_four_times_finer(
    tmp_path: Path, mpp: float, level: int
) -> None:
    path = tmp_path / "levels.tif"
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        for number in range(3):
            shown = np.full((480 >> number, 640 >> number, 3), number, np.uint8)
            tif.write(shown, subfiletype=int(number > 0), **options, **_HALF_UM)
    with open_slide(path) as slide:
        assert (slide.overview(mpp)[0] == level).all()


def test_the_overview_never_enlarges(pyramid: Path, pixels: RGB) -> None:
    with open_slide(pyramid) as slide:
        rgb, downsample = slide.overview(MPP / 10)
    np.testing.assert_array_equal(rgb, pixels)
    assert downsample == (1, 1)


def test_the_overview_of_a_tiny_slide_is_one_pixel(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "tiny.tif", picture(20, 16), levels=1, **_HALF_UM)
    with open_slide(tmp_path / "tiny.tif") as slide:
        rgb, downsample = slide.overview(50)
    assert rgb.shape == (1, 1, 3)
    assert downsample == (20, 16)


def test_the_overview_of_a_large_single_level_slide_needs_little_memory(tmp_path: Path) -> None:
    side, tile = 16_384, 1024
    path = tmp_path / "large.tif"
    tile_bytes = np.full((tile, tile, 3), 90, np.uint8)
    tiles = (tile_bytes for _ in range((side // tile) ** 2))
    tifffile.imwrite(
        path, tiles, shape=(side, side, 3), dtype=np.uint8, tile=(tile, tile), photometric="rgb",
        compression="zstd", metadata=None, resolution=(20_000, 20_000), resolutionunit=3,
    )  # fmt: skip
    with open_slide(path) as slide:
        tracemalloc.start()
        rgb, _ = slide.overview(8.0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (rgb == 90).all()
    assert rgb.shape == (1024, 1024, 3)
    # the slide has 805 MB of pixels; strip, its copies and the cache of tiles are a fifth of that
    assert peak < 250e6


# --- files ---


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path, pyramid: Path) -> None:
    copy = tmp_path / "elsewhere.tif"
    shutil.copy(pyramid, copy)
    with open_slide(pyramid) as slide, open_slide(copy) as other:
        before = slide.fingerprint()
        assert other.fingerprint() == before
    with copy.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with open_slide(copy) as other:
        assert other.fingerprint() != before


def test_a_mirax_slide_is_its_file_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").touch()
    (tmp_path / "a").mkdir()
    for name in ("Slidedat.ini", "Data0000.dat"):
        (tmp_path / "a" / name).touch()
    found = [file.name for file in slide_files(tmp_path / "a.mrxs")]
    assert found == ["a.mrxs", "Data0000.dat", "Slidedat.ini"]


def test_a_closed_slide_says_so(pyramid: Path) -> None:
    slide = open_slide(pyramid)
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read_level(0, (0, 0), (1, 1))


# --- real slides ---


@pytest.mark.data
def test_containers_of_one_slide_agree(data_dir: Path) -> None:
    names = (
        "CMU-1-Small-Region.svs",
        "CMU-1-Small-Region_generic-pyramid.tif",
        "CMU-1-Small-Region.ome.tif",
        "CMU-1-Small-Region_dicom",
    )
    overviews = []
    for name in names:
        with open_slide(data_dir / "slides" / name) as slide:
            assert slide.info.mpp == pytest.approx(0.499, rel=1e-6)
            overviews.append(slide.overview(8.0)[0].astype(int))
    for other in overviews[1:]:
        assert other.shape == overviews[0].shape == (185, 138, 3)
        assert np.abs(other - overviews[0]).mean() < 3
    np.testing.assert_array_equal(overviews[0], overviews[3])


@pytest.mark.data
def test_ndpi_resolution(data_dir: Path) -> None:
    with open_slide(data_dir / "slides" / "hamamatsu_fluorescence_DAPI.ndpi") as slide:
        assert slide.info.mpp == pytest.approx(0.228, abs=5e-4)
        assert slide.info.objective_power == 40


@pytest.mark.data
def test_a_fixture_with_the_resolution_of_a_screen(data_dir: Path) -> None:
    path = data_dir / "slides" / "fixtures" / "boxes.tiff"
    with pytest.raises(MissingMppError, match=r"352\.8"):
        open_slide(path)
    with open_slide(path, ReadConfig(slide_mpp=0.5)) as slide:
        assert slide.overview(4.0)[0].shape == (31, 38, 3)


@pytest.mark.data
def test_bad_slides_fail_with_their_name(data_dir: Path) -> None:
    slides = data_dir / "slides"
    with (
        open_slide(slides / "fixtures" / "unreadable.svs") as slide,
        pytest.raises(SlideReadError, match=r"unreadable\.svs"),
    ):
        slide.overview(8.0)
    with pytest.raises(UnsupportedSlideError, match=r"pathml_small_dicom\.dcm"):
        open_slide(slides / "pathml_small_dicom.dcm")


def test_pipes_and_devices_are_no_slides(tmp_path: Path) -> None:
    pipe, device = tmp_path / "a.svs", tmp_path / "b.tif"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        with pytest.raises(SlideReadError, match="a pipe or a device"):
            open_slide(path)
        with pytest.raises(SlideReadError, match="a pipe or a device"):
            slide_files(path)
