"""DICOM series: folders, files and levels that cannot be trusted."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile

from tests.contracts.reading import whole
from tests.contracts.slide_files import halved, picture, write_pyramid
from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.dicom import image_of, series_files, series_uid
from wsi_pipeline.slide.readers.openslide_levels import sound_levels

# --- DICOM ---


@pytest.mark.data
def test_a_dicom_slide_opens_by_its_folder_or_any_of_its_files(data_dir: Path) -> None:
    folder = data_dir / "slides" / "CMU-1-Small-Region_dicom"
    files = sorted(folder.glob("*.dcm"))
    with open_reader(folder) as reader:
        expected = whole(reader)
        assert reader.vendor == "dicom"
    for file in (files[0], files[-1]):
        with open_reader(file) as reader:
            np.testing.assert_array_equal(whole(reader), expected)
    assert series_files(folder) == series_files(files[3]) == tuple(files)


@pytest.mark.data
def test_a_dicom_slide_is_known_by_its_finest_level(data_dir: Path) -> None:
    folder = data_dir / "slides" / "CMU-1-Small-Region_dicom"
    heads = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.glob("*.dcm")]
    (finest,) = (head for head in heads if head.TotalPixelMatrixColumns == 2220)
    with open_slide(folder) as slide:
        known = slide.info.dicom
    assert known is not None
    assert (known.study, known.series) == (finest.StudyInstanceUID, finest.SeriesInstanceUID)
    assert known.instance == finest.SOPInstanceUID
    assert known.frame_of_reference == finest.FrameOfReferenceUID
    assert known.orientation == tuple(finest.ImageOrientationSlide)
    assert known.origin_mm == (25.0, 50.0)
    with open_slide(folder, named=False) as slide:
        assert slide.info.dicom is None


def test_a_header_without_all_identifiers_refers_to_nothing() -> None:
    whole = {
        **dict.fromkeys(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), "1.2"),
        "FrameOfReferenceUID": "1.3",
        **{f"ImageOrientationSlide[{i}]": str(i % 2) for i in range(6)},
        "TotalPixelMatrixOriginSequence[0].XOffsetInSlideCoordinateSystem": "2.5",
        "TotalPixelMatrixOriginSequence[0].YOffsetInSlideCoordinateSystem": "-1",
    }
    properties = {f"dicom.{key}": value for key, value in whole.items()}
    known = image_of(properties)
    assert known is not None
    assert known.origin_mm == (2.5, -1.0)
    for key in properties:
        assert image_of({name: properties[name] for name in properties if name != key}) is None
    assert image_of({**properties, "dicom.ImageOrientationSlide[0]": "left"}) is None


@pytest.mark.data
def test_a_folder_of_two_series_is_refused(data_dir: Path, tmp_path: Path) -> None:
    fixtures = data_dir / "slides" / "fixtures"
    for name in ("boxes_0.dcm", "highdicom_sm_image.dcm"):
        shutil.copy(fixtures / name, tmp_path)
    with pytest.raises(UnsupportedSlideError, match="2 DICOM series; name one file"):
        open_reader(tmp_path)
    assert series_files(tmp_path / "boxes_0.dcm") == (tmp_path / "boxes_0.dcm",)


def test_a_folder_without_slides_is_refused(tmp_path: Path) -> None:
    (tmp_path / "not.dcm").write_bytes(b"no DICOM")
    assert series_uid(tmp_path / "not.dcm") == ""
    with pytest.raises(UnsupportedSlideError, match="holds no DICOM slide"):
        open_reader(tmp_path)


@pytest.mark.data
def test_levels_in_other_colours_or_cut_short_are_left_out(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # levels 1 to 3 have short last frames, level 4 holds YCbCr declared as RGB
    folder = data_dir / "slides" / "CMU-1-Small-Region_dicom"
    with open_reader(folder) as reader:
        assert reader.level_sizes_wh == ((2220, 2967),)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 4
    assert all("Dimensional mismatch" in message for message in said[:3])
    assert "colours differ from those of the finer level" in said[3]


def test_levels_that_agree_are_kept(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "sound.tif", picture(640, 400))
    assert sound_levels(tmp_path / "sound.tif") == ((0, 1, 2), {})


def test_a_level_of_other_colours_is_found(tmp_path: Path) -> None:
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as tif:
        pixels = picture(640, 400)
        tif.write(pixels, **options)
        for level in (1, 2, 3):
            pixels = halved(pixels)
            shown = np.roll(pixels, 1, axis=-1) // 2 if level == 2 else pixels
            tif.write(shown, subfiletype=1, **options)
    levels, left_out = sound_levels(tmp_path / "mixed.tif")
    assert levels == (0, 1, 3)
    assert "colours differ" in left_out[2]


# --- folders and globs of instances ---


def element(group: int, tag: int, representation: bytes, value: bytes) -> bytes:
    value += (b"\0" if representation == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, tag, representation, len(value)) + value


def write_instance(path: Path, series: str, number: int = 0, of: str = "") -> None:
    """Write enough of a DICOM file to be counted: preamble, and what names its series."""
    stated = element(2, 2, b"UI", of.encode()) if of else b""
    meta = stated + element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        bytes(128)
        + b"DICM"
        + element(2, 0, b"UL", struct.pack("<I", len(meta)))
        + meta
        + element(0x20, 0x0D, b"UI", b"1.2.3")
        + element(0x20, 0x0E, b"UI", series.encode())
        + element(0x20, 0x13, b"IS", str(number).encode())
    )


def write_series(folder: Path, series: str = "1.2.3.4", count: int = 4) -> list[Path]:
    files = [folder / f"{series}-{number}.dcm" for number in range(count)]
    for number, file in enumerate(files):
        write_instance(file, series, number)
    return files


def named(*inputs: Path | str) -> list[Path]:
    return [job.path for job in find_slides([str(name) for name in inputs])]


@pytest.mark.parametrize(
    "foreign", [".DS_Store", "DICOMDIR", "LICENSE", "._1.2.3.4-0.dcm", "notes.txt", "Thumbs.db"]
)
def test_a_foreign_file_makes_no_slides_of_instances(tmp_path: Path, foreign: str) -> None:
    write_series(tmp_path / "scan")
    (tmp_path / "scan" / foreign).write_bytes(b"x")
    assert named(tmp_path / "scan") == named(tmp_path) == [tmp_path / "scan"]


def test_dicom_that_says_it_is_no_slide_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path)
    write_instance(tmp_path / "annotations.dcm", "9.9", of="1.2.840.10008.5.1.4.1.1.91.1")
    write_instance(tmp_path / "scan.dcm", "1.2.3.4", of="1.2.840.10008.5.1.4.1.1.77.1.6")
    assert named(tmp_path) == named(tmp_path / "*.dcm") == [tmp_path]
    assert named(tmp_path / "annotations.dcm") == [tmp_path / "annotations.dcm"]
    assert len(series_files(tmp_path)) == 5


def test_an_index_of_dicom_is_no_instance(tmp_path: Path) -> None:
    files = write_series(tmp_path / "scan")
    write_instance(tmp_path / "scan" / "DICOMDIR", "9.9")
    assert named(tmp_path) == [tmp_path / "scan"]
    assert series_files(tmp_path / "scan") == tuple(files)


def test_instances_of_two_slides_in_one_folder_are_two_slides(tmp_path: Path) -> None:
    one, other = write_series(tmp_path, "1.1"), write_series(tmp_path, "2.2")
    assert named(tmp_path) == [one[0], other[0]]
    assert len({job.slide_id for job in find_slides([str(tmp_path)])}) == 2


def test_a_series_beside_other_slides_is_named_by_an_instance(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    write_pyramid(tmp_path / "a.tif", picture())
    assert sorted(named(tmp_path)) == sorted([files[0], tmp_path / "a.tif"])


@pytest.mark.parametrize("pattern", ["*.dcm", "1.2.3.4-[12].dcm"])
def test_a_glob_of_instances_is_one_slide_per_series(tmp_path: Path, pattern: str) -> None:
    write_series(tmp_path / "one")
    write_series(tmp_path / "two", "1.2.3.4")
    assert named(tmp_path / "*" / pattern) == [tmp_path / "one", tmp_path / "two"]
    assert named(tmp_path / "one" / pattern) == [tmp_path / "one"]


def test_instances_that_a_shell_lists_are_one_slide_per_series(tmp_path: Path) -> None:
    one, other = write_series(tmp_path / "a", "1.1"), write_series(tmp_path / "a", "2.2")
    third = write_series(tmp_path / "b", "3.3")
    assert named(*one, *other, *third) == [one[0], other[0], tmp_path / "b"]
    assert named(one[2]) == [one[2]]


def test_instances_without_ending_are_found(tmp_path: Path) -> None:
    for number in range(3):
        write_instance(tmp_path / "scan" / f"0000000{number}", "1.2", number)
    (tmp_path / "scan" / "README").write_text("no slide")
    assert named(tmp_path) == [tmp_path / "scan"]
    assert len(series_files(tmp_path / "scan")) == 3


@pytest.mark.parametrize("suffix", [".czi", ".avs", ".CZI"])
def test_every_format_of_openslide_is_found_in_folders(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"slide{suffix}").write_bytes(b"x")
    assert named(tmp_path) == [tmp_path / f"slide{suffix}"]
