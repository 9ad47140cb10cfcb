"""What is known of a prepared slide -> what of it a person should look at before trusting it.

Judged from records alone, so that stores made earlier are judged as new ones are. What is certainly
wrong is refused elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.slide.geometry import contradicts_objective, is_upsampled
from wsi_pipeline.tissue.glass import glass_share
from wsi_pipeline.types import BLUE_STAIN, Area, StainPair, StainVerdict, TileReason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.types import SlideRecords

MUCH_PEN = 0.5
"""Share of all that is coloured above which so much ink is doubted."""

SOME = 0.01
"""Share of a slide below which ink or tissue is not worth a word."""

GLASS_TAKEN = 0.25
"""Share of a slide that looks like glass but is tissue in the mask from which the mask is doubted.

Fat, air in lungs and lumina look like glass within tissue."""

PLAINLY_STAINED = 0.15
"""Density beyond that of glass, mean over the channels, of what is plainly stained."""

LOST = 0.05
"""Share of a slide that is plainly stained, but nothing in the mask, from which it is doubted."""


SMALLEST_NUCLEI_UM2 = {True: 12.0, False: 9.0}
"""Smallest size of nuclei, um2, by whether the stain is beyond doubt: texture of a poor separation
passes for small nuclei."""

LARGEST_NUCLEI_UM2 = 85.0
"""Largest size of nuclei, um2. On 62 slides and fields of known resolution sizes are 7 to 78, half
of them 29 to 41; declared twice as coarse, 90 % exceed this."""


def find_doubts(records: SlideRecords) -> tuple[str, ...]:
    """Say what is odd about a slide and its tiles.

    Parameters
    ----------
    records : SlideRecords
        What is known of the slide, its patch store for instance.

    Returns
    -------
    tuple of str
        One sentence each: what is seen, and what to do; empty for most slides.
    """
    return (
        *_of_damage(records),
        *_of_scale(records),
        *_of_nuclei(records),
        *_of_stain(records),
        *_of_mask(records),
    )


def _of_damage(records: SlideRecords) -> list[str]:
    damaged = records.funnel().get(TileReason.DAMAGED.name.lower(), 0)
    if not damaged:
        return []
    return [
        f"tiles that cannot be read are left out, {damaged} of them: the file is damaged or "
        "incomplete; copy it again"
    ]


def _of_scale(records: SlideRecords) -> list[str]:
    slide, doubts = records.slide, []
    contradiction = contradicts_objective(slide)
    if contradiction is not None:
        doubts.append(contradiction)
    if is_upsampled(slide, records.mpp):
        doubts.append(
            f"patches of {records.mpp:.3g} um/px are enlarged {slide.mpp / records.mpp:.2g} times "
            f"from a slide of {slide.mpp:.3g} um/px, which is coarser; models see a blur"
        )
    return doubts


def _of_nuclei(records: SlideRecords) -> list[str]:
    """Hold the resolution against the size of nuclei."""
    stain, slide = records.stain, records.slide
    if stain.nucleus_um2 is None or stain.pair is not StainPair.HE:
        return []
    smallest = SMALLEST_NUCLEI_UM2[stain.verdict is StainVerdict.OK]
    if stain.nucleus_um2 < smallest:
        size, limit = "smaller", smallest
    elif stain.nucleus_um2 > LARGEST_NUCLEI_UM2:
        size, limit = "larger", LARGEST_NUCLEI_UM2
    else:
        return []
    return [
        f"nuclei measure {stain.nucleus_um2:.0f} um2, {size} than the {limit:g} of H&E: "
        f"{slide.mpp:.3g} um/px ({slide.mpp_source}) may be wrong, and with it the size of "
        "everything; compare with a scale bar, and give the right one with --slide-mpp"
    ]


def _of_stain(records: SlideRecords) -> list[str]:
    doubts = []
    if records.stain.is_brown:
        doubts.append(
            "a stain is brown like DAB: this is IHC, not H&E, and its two planes are not those of "
            "hematoxylin and eosin; --strict-stain refuses such slides"
        )
    if records.stain.is_blue:
        doubts.append(
            f"a stain is {BLUE_STAIN}: this is not H&E, and its two planes are not those of "
            "hematoxylin and eosin; --strict-stain refuses such slides"
        )
    return doubts


def _of_mask(records: SlideRecords) -> list[str]:
    areas = records.areas
    if not areas.size:
        return []
    tissue, pen = (float((areas == area).mean()) for area in (Area.TISSUE, Area.PEN))
    doubts = []
    if pen > SOME and pen > MUCH_PEN * (pen + tissue):
        doubts.append(
            f"{pen / (pen + tissue):.0%} of what is coloured is taken for pen: look at qc.png, and "
            "pass --no-reject-pen if it is tissue"
        )
    glass = glass_share(records.thumbnail)
    if glass + tissue > 1 + GLASS_TAKEN:
        doubts.append(
            f"tissue covers {tissue:.0%} of the slide, of which {glass:.0%} looks like glass: look "
            "at qc.png"
        )
    lost = _lost_share(records.thumbnail, areas)
    if lost > LOST and lost > tissue:
        doubts.append(
            f"{lost:.0%} of the slide is plainly stained, but no tissue in the mask ({tissue:.0%} "
            "is): look at qc.png"
        )
    return doubts


def _lost_share(thumbnail: NDArray[np.uint8], areas: NDArray[np.uint8]) -> float:
    """Return the share of a slide that is stained, but glass in the mask."""
    size = (thumbnail.shape[1], thumbnail.shape[0])
    areas = np.asarray(cv2.resize(areas, size, interpolation=cv2.INTER_NEAREST))
    grey = np.maximum(thumbnail, 1).astype(np.float32)
    density = -np.log10(grey / 255).mean(axis=2)
    bright = np.percentile(density, 2)  # glass, or what comes nearest to it
    return float(((density > bright + PLAINLY_STAINED) & (areas == Area.GLASS)).mean())
