"""Resolution and magnification as OpenSlide, Bio-Formats and tifffile read them.

The rows of the table in docs/resolution.md, one by one.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tests.contracts.reading import sources
from tests.contracts.slide_files import picture
from wsi_pipeline.config import ReaderName
from wsi_pipeline.errors import SlideError, UnsupportedSlideError
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.ome import from_ome, ome_images
from wsi_pipeline.types import MppSource

DOCS = Path(__file__).parents[1] / "docs" / "resolution.md"
SLIDE = picture()
OPTIONS: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
ABOUT = "Aperio Image Library v11.2.1 \r\n300x200 [0,0 300x200] (64x64) JPEG/RGB Q=70"


def test_every_row_of_the_table_names_a_test_that_exists() -> None:
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if "`test_" in line]
    here = Path(__file__).parent
    text = "\n".join(file.read_text(encoding="utf-8") for file in here.glob("test_*.py"))
    assert len(rows) >= 15
    for row in rows:
        name = row.split("`test_")[1].split("`")[0]
        assert f"def test_{name}(" in text, row


# --- Aperio ---


@pytest.mark.parametrize(
    "fields",
    [
        "|AppMag = 20|MPP = 0,4000", "|MPP = 0,4000", "|AppMag = 40,0|MPP = 0,2500", "|MPP=0.25",
        "|MPP = .25", "|MPP = 2.5e-1", "|MPP = 0.25|MPP = 0.5", "|mpp = 0.25", "|MPP = 0.25um",
        "|MPP = nan", "|MPP = +0.25", "|MPP = 1_0", "|MPP = 0.25|AppMag = 40x", "|MPP == 0.25",
        "|MPP = 0.2500\r\n|AppMag = 40", "|Filename = a=b|MPP = 0.25", " MPP = 0.25",
        "|MPP = 0.25\0\0", "|MPP = 0.25;|AppMag=20", "|Title = M\xfcller \xb5|MPP = 0.25",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_aperio_fields_are_those_of_openslide(tmp_path: Path, fields: str, encoding: str) -> None:
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, SLIDE, description=(ABOUT + fields).encode(encoding), **OPTIONS)
    with openslide.OpenSlide(path) as other:
        theirs = dict(other.properties)
    with open_reader(path, ReaderName.TIFF) as reader:
        mpp = sources(reader).get(MppSource.VENDOR)
        power = reader.objective_power
    expected = theirs.get("openslide.mpp-x")
    assert mpp == (None if expected is None else (float(expected), float(expected)))
    stated = theirs.get("openslide.objective-power")
    assert power == (None if stated is None else float(stated))


@pytest.mark.parametrize("value", ["0", "-1", "inf", "-0.25"])
def test_impossible_values_state_nothing(tmp_path: Path, value: str) -> None:
    tifffile.imwrite(tmp_path / "a.svs", SLIDE, description=f"{ABOUT}|MPP = {value}", **OPTIONS)
    for choice in (ReaderName.TIFF, ReaderName.OPENSLIDE):
        with open_reader(tmp_path / "a.svs", choice) as reader:
            assert MppSource.VENDOR not in sources(reader)


# --- TIFF tags ---


@pytest.mark.parametrize(
    ("resolution", "unit"),
    [
        ((20_000, 20_000), "CENTIMETER"), ((50_800, 50_800), "INCH"), ((20_000, 20_000), "NONE"),
        ((20_000, 10_000), "CENTIMETER"), ((0, 0), "CENTIMETER"), ((72, 72), "INCH"),
        ((101_600.5, 101_600.5), "INCH"),
    ],
)  # fmt: skip
def test_tiff_tags_are_those_of_openslide(tmp_path: Path, resolution: Any, unit: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SLIDE, resolution=resolution, resolutionunit=unit, **OPTIONS)
    with openslide.OpenSlide(path) as other:
        theirs = [other.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    with open_reader(path, ReaderName.TIFF) as reader:
        mpp = sources(reader).get(MppSource.TIFF)
    expected = None if None in theirs else tuple(round(float(str(v)), 6) for v in theirs)
    assert mpp == expected


@pytest.mark.parametrize(("per_unit", "unit"), [(2_000, "MILLIMETER"), (2, "MICROMETER")])
def test_units_of_length_beyond_the_standard_are_read(
    tmp_path: Path, per_unit: int, unit: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SLIDE, resolution=(per_unit, per_unit), resolutionunit=unit, **OPTIONS)
    with open_slide(path) as slide:
        assert slide.info.mpp == pytest.approx(0.5)


def test_tiff_tags_of_other_types_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SLIDE, resolution=(1, 1), resolutionunit="CENTIMETER", **OPTIONS)
    with tifffile.TiffFile(path) as tif:
        tags = [tag for tag in tif.pages.first.tags if tag.code in (282, 283)]
    data = bytearray(path.read_bytes())
    for tag in tags:
        struct.pack_into("<HIf", data, tag.offset + 2, 11, 1, 20_000.0)
    path.write_bytes(data)
    with open_reader(path, ReaderName.TIFF) as reader:
        assert sources(reader) == {MppSource.TIFF: (0.5, 0.5)}


def test_a_missing_unit_is_the_inch(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SLIDE, resolution=(50_800, 50_800), resolutionunit="INCH", **OPTIONS)
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages.first.tags[296].offset
    with path.open("r+b") as file:
        file.seek(offset)
        file.write((65_000).to_bytes(2, "little"))
    with open_reader(path, ReaderName.TIFF) as reader:
        assert sources(reader) == {MppSource.TIFF: (0.5, 0.5)}


# --- ImageJ ---


@pytest.mark.parametrize(
    ("unit", "per_unit"),
    [
        ("um", 2.0), ("micron", 2.0), ("\\u00B5m", 2.0), ("microns", 2.0), ("mm", 2_000.0),
        ("nm", 0.002), ("cm", 20_000.0), ("inch", 50_800.0),
    ],
)  # fmt: skip
def test_imagej_units(tmp_path: Path, unit: str, per_unit: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, SLIDE, photometric="rgb", metadata=None, resolutionunit="NONE",
        resolution=(per_unit, per_unit), description=f"ImageJ=1.53c\nunit={unit}\nmin=0\n",
    )  # fmt: skip
    with tifffile.TiffFile(path) as tif:
        assert tif.is_imagej
    with open_reader(path, ReaderName.TIFF) as reader:
        assert sources(reader)[MppSource.TIFF] == pytest.approx((0.5, 0.5), rel=1e-4)
        assert reader.vendor == "imagej"


@pytest.mark.parametrize("unit", ["pixel", "", "parsec"])
def test_imagej_without_a_length_states_nothing(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, SLIDE, photometric="rgb", metadata=None, resolution=(2, 2), resolutionunit="NONE",
        description=f"ImageJ=1.53c\nunit={unit}\n",
    )  # fmt: skip
    with open_reader(path, ReaderName.TIFF) as reader:
        assert reader.mpp_candidates == ()


# --- OME ---


def ome(pixels: str, inside: str = "", before: str = "") -> str:
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'{before}<Image>{inside}<Pixels SizeX="30" SizeY="20" {pixels}/></Image></OME>'
    )


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("µm", "0.5"), ("μm", "0.5"), ("nm", "500"), ("pm", "500000"), ("Å", "5000"),
        ("mm", "5e-4"), ("cm", "5E-5"), ("dm", "5e-6"), ("m", "5e-7"), ("km", "5e-10"),
        ("in", str(0.5 / 25_400)), ("thou", str(0.5 / 25.4)), ("ft", str(0.5 / 304_800)),
        ("µm", "0,5"), (" µm ", " 0.5 "),
    ],
)  # fmt: skip
def test_ome_lengths_in_every_unit(unit: str, value: str) -> None:
    sizes = " ".join(
        f'PhysicalSize{axis}="{value}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY"
    )
    ((candidate,), _) = from_ome(ome(sizes), (30, 20))
    assert (candidate.x, candidate.y) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "furlong"])
def test_ome_units_that_are_no_lengths_state_nothing(unit: str) -> None:
    sizes = " ".join(f'PhysicalSize{a}="1" PhysicalSize{a}Unit="{unit}"' for a in "XY")
    assert from_ome(ome(sizes), (30, 20))[0] == ()


def test_ome_magnification_is_that_of_the_objective_referred_to() -> None:
    objectives = (
        '<Instrument ID="I:0"><Objective ID="O:0" NominalMagnification="2.0"/>'
        '<Objective ID="O:1" NominalMagnification="40"/></Instrument>'
    )
    referred = '<ObjectiveSettings ID="O:1"/>'
    assert from_ome(ome("", referred, objectives), (30, 20))[1] == 40
    assert from_ome(ome("", "", objectives), (30, 20))[1] is None


def test_ome_pages_follow_one_another_where_no_place_is_stated() -> None:
    image = '<Image Name="{0}"><Pixels SizeX="3" SizeY="2" SizeC="{1}"/></Image>'
    xml = f"<OME>{image.format('a', 3)}{image.format('b', 1)}</OME>"
    assert [found.pages for found in ome_images(xml)] == [(0,), (3,)]


# --- what OpenSlide states ---


@pytest.mark.data
def test_ndpi_and_dicom_states(data_dir: Path) -> None:
    slides = data_dir / "slides"
    with open_reader(slides / "hamamatsu_fluorescence_DAPI.ndpi") as reader:
        assert sources(reader)[MppSource.TIFF] == pytest.approx((0.2282, 0.2282), abs=1e-4)
        assert reader.objective_power == 40
    with open_reader(slides / "CMU-1-Small-Region_dicom") as reader:
        assert sources(reader)[MppSource.VENDOR] == pytest.approx((0.499, 0.499))


def test_a_mirax_file_without_its_folder_is_not_its_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "case.mrxs"
    Image.fromarray(SLIDE).save(path, "JPEG")
    with pytest.raises(UnsupportedSlideError, match="the folder 'case' with the slide's data"):
        open_reader(path)
    (tmp_path / "case").mkdir()
    with pytest.raises(SlideError, match="case"):
        open_reader(path)


@pytest.mark.parametrize("text", ["0.5", " 20 ", "0,25", "1e-1", ".5", "5."])
def test_numbers_that_are_read(text: str) -> None:
    from wsi_pipeline.slide.readers.resolution import positive

    assert positive(text) == float(text.replace(",", "."))
    assert np.isfinite(positive(text) or np.nan)
