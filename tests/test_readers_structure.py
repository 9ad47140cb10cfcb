"""Which images of a TIFF file are the slide: labels, photographs and second scans are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from tests.contracts.reading import whole
from tests.contracts.slide_files import APERIO, MPP, RGB, halved, picture, write_svs
from wsi_pipeline.config import ReaderName
from wsi_pipeline.errors import SlideError, SlideReadError
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.openslide_levels import sound_levels
from wsi_pipeline.slide.readers.resolution import resolve_mpp

TILED: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
STRIPS: dict[str, Any] = {"rowsperstrip": 16, "photometric": "rgb", "metadata": None}
PER_CM: dict[str, Any] = {"resolution": (1e4 / MPP, 1e4 / MPP), "resolutionunit": "CENTIMETER"}
SLIDE = picture(300, 200, seed=5)


def photograph(width: int = 640, height: int = 220) -> RGB:
    """Draw a glass with a label on it, of which no pixel may ever be read."""
    rgb = np.full((height, width, 3), 230, np.uint8)
    rgb[:, : width // 5] = 250, 250, 120
    rgb[height // 4 : height // 2, width // 2 :] = 200, 90, 160
    cv2.putText(rgb, "J. DOE", (5, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (0, 0, 0), 3)
    return rgb


def aperio(width: int, height: int, end: str = f"|AppMag = 20|MPP = {MPP}") -> str:
    return f"Aperio Image Library v11.2.1 \r\n{width}x{height} [0,0 {width}x{height}] (64x64){end}"


MARKS: dict[str, dict[str, Any]] = {
    "unmarked": {},
    "flag of a macro": {"subfiletype": 9},
    "described": {"description": "Aperio Image Library v11.2.1 \r\nmacro 640x220"},
    "described plainly": {"description": "Label image"},
    "named": {"extratags": [(285, 2, 6, "macro", True)]},
}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("layout", [TILED, STRIPS], ids=["tiled", "strips"])
@pytest.mark.parametrize("place", ["first", "last", "between levels"])
@pytest.mark.parametrize("size", [(640, 220), (600, 400)])
def test_another_image_is_never_the_slide_nor_a_level(
    tmp_path: Path, mark: str, layout: dict[str, Any], place: str, size: tuple[int, int]
) -> None:
    # 600 x 400 has the proportions of the slide, and is larger
    path = tmp_path / "slide.tif"
    other = photograph(*size)
    with tifffile.TiffWriter(path) as tif:
        if place == "first":
            tif.write(other, **layout, **MARKS[mark])
        tif.write(SLIDE, **TILED, **PER_CM)
        if place == "between levels":
            tif.write(other, **layout, **MARKS[mark])
        tif.write(halved(SLIDE), subfiletype=1, **TILED)
        if place == "last":
            tif.write(other, **layout, **MARKS[mark])
    with open_reader(path) as reader:
        assert reader.level_sizes_wh == ((300, 200), (150, 100))
        np.testing.assert_array_equal(whole(reader), SLIDE)
        np.testing.assert_array_equal(whole(reader, 1), halved(SLIDE))
        assert resolve_mpp(path, reader.mpp_candidates)[0] == pytest.approx(MPP)


@pytest.mark.parametrize("flag", [0, 1], ids=["unflagged", "flagged as reduced"])
def test_a_picture_of_the_right_proportions_but_another_scene_is_no_level(
    tmp_path: Path, flag: int
) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(SLIDE, **TILED, **PER_CM)
        tif.write(photograph(150, 100), subfiletype=flag, **TILED)
        tif.write(halved(halved(SLIDE)), subfiletype=flag, **TILED)
    for choice in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with open_reader(path, choice) as reader:
            if choice is ReaderName.TIFF or flag:
                assert reader.level_sizes_wh == ((300, 200), (75, 50))


@pytest.mark.parametrize("compression", [None, "jpeg", "deflate", "aperio_jp2000_rgb"])
def test_a_blank_level_is_found_on_a_slide_too_large_to_compare_whole(
    tmp_path: Path, compression: str | None
) -> None:
    path = tmp_path / "slide.tif"
    # one corner of glass and one of texture, as sections lie on slides
    slide = np.full((2304, 3072, 3), 244, np.uint8)
    slide[1000:2000, 1500:2700] = picture(1200, 1000)
    options: dict[str, Any] = {**TILED, "tile": (256, 256), "compression": compression}
    with tifffile.TiffWriter(path) as tif:
        tif.write(slide, **options, **PER_CM)
        tif.write(np.full((1152, 1536, 3), 244, np.uint8), subfiletype=1, **options)
        tif.write(halved(halved(slide)), subfiletype=1, **options)
    with open_reader(path, ReaderName.TIFF) as reader:
        assert reader.level_sizes_wh == ((3072, 2304), (768, 576))


@pytest.mark.parametrize("filter_of", ["skipping pixels", "gaussian", "sharpened", "shifted"])
def test_levels_are_kept_however_they_were_shrunk(tmp_path: Path, filter_of: str) -> None:
    slide = picture(1200, 800)

    def shrink(pixels: RGB) -> RGB:
        small = {
            "skipping pixels": pixels[::2, ::2],
            "gaussian": cv2.GaussianBlur(pixels, (0, 0), 1.5)[::2, ::2],
            "sharpened": cv2.addWeighted(
                halved(pixels), 1.8, cv2.GaussianBlur(halved(pixels), (0, 0), 2), -0.8, 0
            ),
            "shifted": np.roll(halved(pixels), 1, axis=(0, 1)),
        }[filter_of]
        return np.ascontiguousarray(small, dtype=np.uint8)

    path = tmp_path / "slide.tif"
    pixels = slide
    with tifffile.TiffWriter(path) as tif:
        for _ in range(3):
            tif.write(pixels, subfiletype=0, compression="jpeg", **TILED)
            pixels = shrink(pixels)
    with open_reader(path, ReaderName.TIFF) as reader:
        assert reader.level_sizes_wh == ((1200, 800), (600, 400), (300, 200))


def test_the_macro_of_a_small_region_is_larger_than_level_0(tmp_path: Path) -> None:
    path = tmp_path / "region.svs"
    with tifffile.TiffWriter(path) as tif:
        tif.write(SLIDE, description=aperio(300, 200), **TILED)
        tif.write(SLIDE[::3, ::3].copy(), description=aperio(300, 200, " -> 100x67"), **STRIPS)
        tif.write(photograph(200, 300), description="Aperio x\r\nlabel 200x300", **STRIPS)
        tif.write(photograph(1280, 431), subfiletype=9, **STRIPS)
    with open_reader(path) as reader, openslide.OpenSlide(path) as other:
        assert reader.level_sizes_wh == ((300, 200),) == other.level_dimensions
        np.testing.assert_array_equal(whole(reader), SLIDE)


def test_the_first_of_two_scenes_is_the_slide(tmp_path: Path) -> None:
    path = tmp_path / "scenes.ome.tif"
    scenes = (SLIDE, picture(400, 300, seed=9))
    with tifffile.TiffWriter(path, ome=True) as tif:
        for scene, name in zip(scenes, ("Image 1", "Image 2"), strict=True):
            tif.write(
                scene, tile=(64, 64), photometric="rgb",
                metadata={"axes": "YXS", "Name": name, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
            )  # fmt: skip
    with open_reader(path) as reader:
        np.testing.assert_array_equal(whole(reader), SLIDE)


@pytest.mark.parametrize("name", ["macro", "Label", "thumbnail", "overview image"])
@pytest.mark.parametrize("first", [True, False])
def test_images_that_ome_calls_macro_or_label_are_not_the_slide(
    tmp_path: Path, name: str, *, first: bool
) -> None:
    path = tmp_path / "named.ome.tif"
    images = [(SLIDE, "Image", {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})]
    images.insert(0 if first else 1, (photograph(), name, {}))
    with tifffile.TiffWriter(path, ome=True) as tif:
        for pixels, called, sizes in images:
            tif.write(
                pixels, tile=(64, 64), photometric="rgb",
                metadata={"axes": "YXS", "Name": called, **sizes},
            )  # fmt: skip
    with open_reader(path) as reader:
        np.testing.assert_array_equal(whole(reader), SLIDE)
        assert resolve_mpp(path, reader.mpp_candidates)[0] == pytest.approx(0.5)


def test_a_subifd_that_shows_something_else_is_no_level(tmp_path: Path) -> None:
    path = tmp_path / "wrong.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(SLIDE, subifds=2, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS"})
        tif.write(photograph(150, 100), subfiletype=1, **TILED)
        tif.write(halved(halved(SLIDE)), subfiletype=1, **TILED)
    with open_reader(path) as reader:
        assert reader.level_sizes_wh == ((300, 200), (75, 50))


# --- level 0 damaged or missing ---


def set_tag(path: Path, code: int, value: int) -> None:
    """Change a tag of the first page."""
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages.first.tags[code]
    with path.open("r+b") as file:
        file.seek(tag.offset + 8)
        file.write(value.to_bytes(4, "little"))


WRITERS = {
    "svs": lambda path: write_svs(path, SLIDE),
    "flagged": lambda path: write_pages(path, 1),
    "unflagged": lambda path: write_pages(path, 0),
}


def write_pages(path: Path, flag: int) -> None:
    with tifffile.TiffWriter(path) as tif:
        tif.write(SLIDE, **TILED, **PER_CM)
        tif.write(halved(SLIDE), subfiletype=flag, **TILED, **PER_CM)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("tag", "value"),
    [(256, 1), (256, 0), (256, 2**31 - 1), (257, 1), (322, 2**31 - 1), (322, 0), (323, 1 << 20)],
)
@pytest.mark.parametrize("choice", list(ReaderName))
def test_a_damaged_base_page_is_an_error_with_every_reader(
    tmp_path: Path, writer: str, tag: int, value: int, choice: ReaderName
) -> None:
    path = tmp_path / "damaged.svs"
    WRITERS[writer](path)
    set_tag(path, tag, value)
    with pytest.raises(SlideError, match=r"damaged\.svs .*(copy it again|refuses it)"):
        open_reader(path, choice)


@pytest.mark.parametrize("writer", ["svs", "flagged"])
def test_a_file_that_begins_with_a_reduced_level_has_no_level_0(
    tmp_path: Path, writer: str
) -> None:
    path = tmp_path / "headless.tif"
    WRITERS[writer](path)
    with tifffile.TiffFile(path) as tif:
        second = tif.pages[2 if writer == "svs" else 1].offset
    with path.open("r+b") as file:
        file.seek(4)
        file.write(second.to_bytes(4, "little"))
    with pytest.raises(SlideReadError, match="no level 0"):
        open_reader(path)


def test_a_file_of_photographs_alone_is_no_slide(tmp_path: Path) -> None:
    path = tmp_path / "glass.svs"
    with tifffile.TiffWriter(path) as tif:
        tif.write(photograph(), description=APERIO.splitlines()[0] + "\r\nmacro 640x220", **TILED)
        tif.write(photograph(100, 100), subfiletype=9, **TILED)
    with pytest.raises(SlideReadError, match="holds no slide"):
        open_reader(path)


def test_a_copy_smaller_than_its_description_has_no_believable_scale(tmp_path: Path) -> None:
    path = tmp_path / "shrunk.svs"
    tifffile.imwrite(path, halved(SLIDE), description=aperio(300, 200), **TILED)
    with pytest.raises(SlideReadError, match="no level 0"):
        open_reader(path)


# --- missing tiles ---


@pytest.mark.parametrize("missing", [{5}, {0, 1, 2}, set(range(6))])
def test_tiles_missing_from_a_reduced_level_are_made_from_the_finer_one(
    tmp_path: Path, missing: set[int]
) -> None:
    slide = picture(384, 256)
    path = tmp_path / "holes.svs"
    with tifffile.TiffWriter(path) as tif:
        for level, pixels in enumerate((slide, halved(slide))):
            columns = pixels.shape[1] // 64
            tiles = (
                pixels[y : y + 64, x : x + 64].copy().tobytes()
                if not level or (y // 64 * columns + x // 64) not in missing
                else b""
                for y in range(0, pixels.shape[0], 64)
                for x in range(0, pixels.shape[1], 64)
            )
            tif.write(
                tiles, shape=pixels.shape, dtype=np.uint8, compression="none",
                description=aperio(*pixels.shape[1::-1]), **TILED,
            )  # fmt: skip
    with open_reader(path, ReaderName.TIFF) as reader:
        np.testing.assert_array_equal(whole(reader, 1), halved(slide))
        tile = reader.read(1, (64, 64), (64, 64))
        np.testing.assert_array_equal(tile, halved(slide)[64:128, 64:128])
        across = reader.read(1, (30, 20), (100, 90))
        np.testing.assert_array_equal(across, halved(slide)[20:110, 30:130])
    with open_reader(path, ReaderName.OPENSLIDE) as other:
        near = np.abs(whole(other, 1) - halved(slide))
        assert near.mean() < 4


def section(side: int = 512) -> RGB:
    """Draw a round section in the middle of a slide."""
    rgb = np.full((side, side, 3), 244, np.uint8)
    cv2.circle(rgb, (side // 2, side // 2), side // 3, (190, 120, 170), -1)
    rgb[::2, ::2] -= np.random.default_rng(3).integers(0, 20, rgb[::2, ::2].shape, np.uint8)
    return rgb


@pytest.mark.parametrize("flag", [0, 1], ids=["unflagged", "flagged as reduced"])
def test_a_label_that_is_dark_where_the_section_is_is_no_level(tmp_path: Path, flag: int) -> None:
    label = np.full((128, 128, 3), 230, np.uint8)
    label[:, :25], label[30:90, 30:100] = (250, 250, 180), (200, 120, 160)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(section(), **TILED, **PER_CM)
        tif.write(halved(section()), subfiletype=1, **TILED)
        tif.write(label, subfiletype=flag, **TILED)
    with open_reader(tmp_path / "a.tif") as reader:
        assert reader.level_sizes_wh == ((512, 512), (256, 256))


@pytest.mark.parametrize("first", ["photograph", "reduced copy"])
def test_openslide_that_takes_another_image_for_the_slide_is_refused(
    tmp_path: Path, first: str
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(photograph() if first == "photograph" else halved(SLIDE), **TILED)
        tif.write(SLIDE, **TILED, **PER_CM)
    with pytest.raises(SlideError, match="for level 0, but the slide in this file has 300 x 200"):
        open_reader(tmp_path / "a.tif", ReaderName.OPENSLIDE)
    with open_reader(tmp_path / "a.tif") as reader:
        assert reader.level_sizes_wh[0] == (300, 200)


def test_a_level_0_that_is_the_odd_one_out_is_refused(tmp_path: Path) -> None:
    pixels = section()
    with tifffile.TiffWriter(tmp_path / "a.tif") as tif:
        tif.write(photograph(512, 512), **TILED, **PER_CM)
        for _ in range(2):
            pixels = halved(pixels)
            tif.write(pixels, subfiletype=1, **TILED)
    with pytest.raises(SlideReadError, match="level 0 shows something else than its 2 other"):
        sound_levels(tmp_path / "a.tif")
