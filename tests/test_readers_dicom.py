"""DICOM series: folders, files and levels that cannot be trusted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.contracts.reading import whole
from tests.contracts.slide_files import halved, picture, write_pyramid
from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.dicom import series_files, series_uid
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
