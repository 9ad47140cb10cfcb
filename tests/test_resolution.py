"""What containers say about micrometres per pixel, and which of it is believed."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.errors import AnisotropicMppError, MissingMppError
from wsi_pipeline.slide.readers.ome import from_ome
from wsi_pipeline.slide.readers.resolution import (
    MppCandidate,
    aperio_fields,
    from_objective,
    from_tiff_tags,
    positive,
    resolve_mpp,
)
from wsi_pipeline.types import MppSource

SLIDE = Path("case-12.svs")
VENDOR = MppCandidate(MppSource.VENDOR, 0.25, 0.25)
OME = MppCandidate(MppSource.OME, 0.26, 0.26)
TIFF = MppCandidate(MppSource.TIFF, 0.27, 0.27)
OBJECTIVE = MppCandidate(MppSource.OBJECTIVE, 0.5, 0.5)
SCREEN = MppCandidate(MppSource.TIFF, 352.8, 352.8)


def ome(pixels: str, before: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f"{before}<Image><Pixels {pixels}/></Image></OME>"
    )


@pytest.mark.parametrize("order", list(permutations([VENDOR, OME, TIFF, OBJECTIVE])))
def test_the_best_source_wins_in_whatever_order(order: tuple[MppCandidate, ...]) -> None:
    assert resolve_mpp(SLIDE, order) == (0.25, MppSource.VENDOR)


def test_the_chain_goes_down_source_by_source() -> None:
    chain = [VENDOR, OME, TIFF, OBJECTIVE]
    for left, expected in enumerate(chain):
        assert resolve_mpp(SLIDE, chain[left:]) == (expected.x, expected.source)


def test_people_are_believed_before_files() -> None:
    assert resolve_mpp(SLIDE, [VENDOR], flag=1.0, table=2.0) == (1.0, MppSource.FLAG)
    assert resolve_mpp(SLIDE, [VENDOR], table=2.0) == (2.0, MppSource.TABLE)
    assert resolve_mpp(SLIDE, [], flag=100.0) == (100.0, MppSource.FLAG)


def test_the_resolution_of_a_screen_is_passed_over() -> None:
    assert resolve_mpp(SLIDE, [SCREEN, OBJECTIVE]) == (0.5, MppSource.OBJECTIVE)


def test_nothing_stated_names_every_way_out() -> None:
    with pytest.raises(MissingMppError) as caught:
        resolve_mpp(SLIDE, [])
    for part in ("case-12.svs", "--slide-mpp", "CSV slide table", "does not state any"):
        assert part in str(caught.value)
    assert caught.value.path == SLIDE


def test_what_was_not_believed_is_told() -> None:
    with pytest.raises(MissingMppError, match=r"only 352\.8 x 352\.8 um/px \(tiff\)"):
        resolve_mpp(SLIDE, [SCREEN])


@given(x=st.floats(0.06, 30), ratio=st.floats(0.9, 1.1))
def test_pixels_must_be_square_within_1_5_percent(x: float, ratio: float) -> None:
    y = x * ratio
    difference = abs(x - y) / min(x, y)
    stated = [MppCandidate(MppSource.VENDOR, x, y)]
    if difference > 0.0151:
        with pytest.raises(AnisotropicMppError, match=r"case-12\.svs.*--slide-mpp"):
            resolve_mpp(SLIDE, stated)
    elif difference < 0.0149:
        assert resolve_mpp(SLIDE, stated)[0] == pytest.approx((x + y) / 2)


def test_anisotropy_can_be_overruled() -> None:
    stated = [MppCandidate(MppSource.VENDOR, 0.25, 0.5)]
    assert resolve_mpp(SLIDE, stated, flag=0.25) == (0.25, MppSource.FLAG)


@pytest.mark.parametrize(
    ("mpp", "plausible"),
    [(0.049, False), (0.05, True), (0.25, True), (40.0, True), (84.7, False), (352.8, False)],
)
def test_plausible_range(mpp: float, plausible: bool) -> None:
    assert MppCandidate(MppSource.TIFF, mpp, mpp).is_plausible() is plausible
    assert MppCandidate(MppSource.TIFF, 0.5, mpp).is_plausible() is plausible


@given(mpp=st.floats(0.05, 40))
def test_tiff_tags_in_both_units(mpp: float) -> None:
    for unit, um in ((2, 25_400), (3, 10_000)):
        (stated,) = from_tiff_tags(um / mpp, um / mpp, unit)
        assert (stated.x, stated.y) == pytest.approx((mpp, mpp))
        assert stated.source is MppSource.TIFF


@pytest.mark.parametrize(
    ("x", "y", "unit"), [(20000.0, 20000.0, 1), (None, 1.0, 3), (1.0, 0.0, 3), (1.0, 1.0, 99)]
)
def test_tags_that_state_nothing(x: float | None, y: float | None, unit: int) -> None:
    assert from_tiff_tags(x, y, unit) == ()


@pytest.mark.parametrize(("power", "mpp"), [(40.0, 0.25), (20.0, 0.5), (10.0, 1.0)])
def test_objective_estimate(power: float, mpp: float) -> None:
    assert from_objective(power) == (MppCandidate(MppSource.OBJECTIVE, mpp, mpp),)
    assert from_objective(None) == ()


def test_aperio_description() -> None:
    text = (
        "Aperio Image Library v11.2.1 \r\n46000x32914 [42673,5576 2220x2967] (240x240) JPEG/RGB "
        "Q=30;Aperio Image Library v10.0.51\r\n46920x33014 -> 46000x32914 - |AppMag = 20|"
        "StripeWidth = 2040|Filename = CMU-1|MPP = 0.4990|Left = 25.691574"
    )
    fields = aperio_fields(text)
    assert (fields["MPP"], fields["AppMag"], fields["Filename"]) == ("0.4990", "20", "CMU-1")


@pytest.mark.parametrize(
    ("unit", "value"),
    [("µm", 0.5), ("um", 0.5), ("nm", 500), ("mm", 0.0005), ("cm", 5e-5), ("m", 5e-7), (None, 0.5)],
)
def test_ome_units(unit: str | None, value: float) -> None:
    stated = " ".join(
        f'Size{axis}="{size}" PhysicalSize{axis}="{value}"'
        + ("" if unit is None else f' PhysicalSize{axis}Unit="{unit}"')
        for axis, size in (("X", 30), ("Y", 20))
    )
    ((candidate,), power) = from_ome(ome(stated), (30, 20))
    assert (candidate.x, candidate.y) == pytest.approx((0.5, 0.5))
    assert candidate.source is MppSource.OME
    assert power is None


def test_ome_takes_the_image_of_the_slide_and_its_magnification() -> None:
    label = '<Image><Pixels SizeX="9" SizeY="9" PhysicalSizeX="7" PhysicalSizeY="7"/></Image>'
    objective = '<Instrument><Objective NominalMagnification="20.0"/></Instrument>'
    slide = 'SizeX="30" SizeY="20" PhysicalSizeX="0.5" PhysicalSizeY="0.5"'
    ((candidate,), power) = from_ome(ome(slide, objective + label), (30, 20))
    assert (candidate.x, power) == (0.5, 20.0)


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "no xml",
        "<OME><Image>",
        ome('SizeX="30" SizeY="20"'),
        ome('SizeX="30" SizeY="20" PhysicalSizeX="0.5"'),
        ome('SizeX="3" SizeY="2" PhysicalSizeX="0.5" PhysicalSizeY="0.5"'),
        ome('SizeX="30" SizeY="20" PhysicalSizeX="-1" PhysicalSizeY="nan"'),
        ome(
            'SizeX="30" SizeY="20" PhysicalSizeX="1" PhysicalSizeY="1" '
            'PhysicalSizeXUnit="pixel" PhysicalSizeYUnit="pixel"'
        ),
        '<!DOCTYPE a [<!ENTITY b "c">]><OME>&b;</OME>',
    ],
    ids=["empty", "text", "cut", "none", "x only", "other image", "absurd", "pixel", "entity"],
)
def test_ome_that_states_nothing_is_no_error(xml: str) -> None:
    assert from_ome(xml, (30, 20)) == ((), None)


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.5", 0.5), (" 20 ", 20.0), ("0", None), ("-1", None), ("inf", None), ("nan", None),
     ("", None), ("40x", None), (None, None)],
)  # fmt: skip
def test_positive_numbers(text: str | None, number: float | None) -> None:
    assert positive(text) == number
