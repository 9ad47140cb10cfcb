"""Tissue on glass of any colour, under uneven light, stained faintly or strongly, and in brown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.drawn_slides import GLASS_RGB, INKS, SIZE, areas_of, disc, glass, on_glass, overlap
from wsi_pipeline.tissue.glass import NEUTRAL, even_glass
from wsi_pipeline.types import Area

DAB_VECTOR = np.array([0.27, 0.57, 0.78])
GLASSES = {
    "clean": GLASS_RGB,
    "grey": (200, 200, 200),
    "warm": (232, 227, 215),
    "yellow": (238, 230, 206),
    "blue": (218, 226, 238),
    "pink": (240, 230, 236),
    "green": (230, 238, 228),
}


def on_other_glass(
    picture: NDArray[np.uint8], colour: tuple[int, int, int] | NDArray[np.float64]
) -> NDArray[np.uint8]:
    """The picture as it would be if its glass had a colour, or one per pixel."""
    return np.asarray(np.rint(picture * (np.asarray(colour) / GLASS_RGB)).clip(0, 255), np.uint8)


def denser(picture: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """The picture with the optical density of all that lies on its glass multiplied."""
    share = np.minimum(picture / np.array(GLASS_RGB), 1.0)
    changed = np.rint(np.array(GLASS_RGB) * share**strength).astype(np.uint8)
    return np.where(picture < np.array(GLASS_RGB), changed, picture).astype(np.uint8)


def follicles() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Stroma with follicles of packed nuclei on glass, and where the tissue is."""
    body = disc(130)
    dense = disc(35, (100.0, 100.0)) | disc(35, (200.0, 190.0)) | disc(35, (100.0, 200.0))
    noise = np.random.default_rng(3).uniform(0, 0.05, (2, SIZE, SIZE))
    h, e = np.where(dense, 0.95, 0.22) + noise[0], np.where(dense, 0.10, 0.28) + noise[1]
    density = h[..., None] * [0.59, 0.73, 0.33] + e[..., None] * [0.15, 0.74, 0.64]
    picture = glass()
    picture[body] = np.rint(np.array(GLASS_RGB) * 10**-density)[body]
    return picture, body


@pytest.mark.parametrize("colour", GLASSES.values(), ids=GLASSES.keys())
@pytest.mark.parametrize("strength", [0.12, 0.5, 1.0, 2.5])
def test_tissue_is_found_on_glass_of_any_colour(
    colour: tuple[int, int, int], strength: float
) -> None:
    truth = disc(90)
    picture = on_other_glass(denser(on_glass(truth), strength), colour)

    areas = areas_of(picture)

    assert overlap(areas == Area.TISSUE, truth) > 0.97
    assert set(np.unique(areas)) == {Area.GLASS, Area.TISSUE}


@settings(max_examples=25, deadline=None)
@given(red=st.integers(195, 250), blue=st.integers(195, 250), green=st.integers(-6, 6))
def test_bare_glass_of_any_colour_holds_nothing(red: int, blue: int, green: int) -> None:
    # yellow to blue at will; pink, as stains are, but a little
    areas = areas_of(on_other_glass(glass(), (red, (red + blue) // 2 + green, blue)))
    assert (areas == Area.GLASS).all()


@pytest.mark.parametrize("falls", [(0.1, 0.1, 0.1), (0.04, 0.08, 0.14), (0.14, 0.08, 0.04)])
@pytest.mark.parametrize("shape", ["corner", "vignette"])
def test_uneven_light_is_taken_away(falls: tuple[float, float, float], shape: str) -> None:
    y, x = np.indices((SIZE, SIZE)) / SIZE
    away = (x + y) / 2 if shape == "corner" else 2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    light = np.array(GLASS_RGB) * (1 - away[..., None] * np.array(falls))
    truth = disc(90)

    picture = on_other_glass(on_glass(truth), light)

    assert overlap(areas_of(picture) == Area.TISSUE, truth) > 0.97
    evened = even_glass(picture)[~disc(95)].astype(np.float64)
    assert np.abs(evened.mean(axis=0) - NEUTRAL).max() < 1
    assert evened.std(axis=0).max() < 2


def test_glass_beside_what_was_never_scanned_is_glass() -> None:
    truth = disc(90)
    picture = on_other_glass(on_glass(truth), GLASSES["warm"])
    picture[:, :50] = 255  # about as scanners pad
    found = areas_of(picture)
    assert overlap(found == Area.TISSUE, truth) > 0.95
    assert (found[:, :50] == Area.GLASS).all()


@pytest.mark.parametrize("strength", [1.0, 1.5, 2.0, 2.5])
def test_a_strongly_stained_section_keeps_its_tissue(strength: float) -> None:
    picture, truth = follicles()
    areas = areas_of(denser(picture, strength))
    assert not (areas == Area.PEN).any()
    assert overlap(areas == Area.TISSUE, truth) > 0.97


@pytest.mark.parametrize("ink", ["green", "blue", "red"])
@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_ink_is_found_on_a_strongly_stained_section_too(ink: str, strength: float) -> None:
    picture = denser(on_glass(disc(90)), strength)
    stroke = np.zeros((SIZE, SIZE), dtype=np.bool_)
    stroke[60:85, 20:280] = True
    picture[stroke] = np.rint(picture[stroke] * (np.array(INKS[ink]) / 255))
    areas = areas_of(picture)
    assert (areas[stroke] == Area.PEN).mean() > 0.9
    assert (areas[disc(90) & ~stroke] == Area.TISSUE).mean() > 0.9


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_packed_brown_nuclei_are_tissue(strength: float) -> None:
    picture = on_glass(disc(90), depth=0.5)
    picture[disc(40)] = np.rint(np.array(GLASS_RGB) * 10 ** -(strength * 0.95 * DAB_VECTOR))
    areas = areas_of(picture)
    assert (areas[disc(90)] == Area.TISSUE).mean() > 0.98


@pytest.mark.parametrize("side", [12, 16, 32, 64])
def test_a_field_smaller_than_the_smallest_piece_is_tissue(side: int) -> None:
    # 16 px of 8 um: 16,384 um2, less than min_tissue_um2
    field = on_glass(np.ones((side, side), dtype=np.bool_))
    assert (areas_of(field) == Area.TISSUE).all()


def test_specks_on_a_field_are_not_tissue() -> None:
    speck = np.zeros((40, 40), dtype=np.bool_)
    speck[20:22, 20:22] = True  # 256 um2 of 102,400
    assert not (areas_of(on_glass(speck)) == Area.TISSUE).any()
