"""Absorption to what is no tissue whatever its colour: ink, black borders, glass edges.

Rules on optical density with limits seen on real slides, brought to usual strength of stain before;
nothing is learned, and brown dye on surgical margins, folds and blur are not looked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsi_pipeline.tissue.absorption import Absorption, Usual, usual_absorption
from wsi_pipeline.tissue.regions import (
    Region,
    closed,
    connected_to,
    keep_by_area,
    opened,
    within,
)
from wsi_pipeline.types import Area

if TYPE_CHECKING:
    from numpy.typing import NDArray

STROKE_UM = 48.0
"""Width of a mark that proves a pen; vessels full of blood and clumps of pigment are thinner."""

SPECK_UM2 = 1_500.0
"""Ink and neutral spots below this are left alone, um^2."""

NEAR_INK_UM = 300.0
"""How far from a stroke its faint or out-of-focus parts are looked for, um."""

SCRAP_UM = 1_000.0
"""How far from ink a scrap of its colour may lie to be taken for a part of the mark, um."""

SCRAP_UM2 = 500_000.0
"""Largest such scrap, um^2."""

STREAK_UM = 200.0
"""Width up to which a streak of such a scrap is told from the tissue it touches, um."""

SEAM_UM = 48.0
"""Half the gap within a mark that is closed, um."""

MARGIN_UM = 24.0
"""Added around ink, so that the last faintly tinted pixels go with it, um."""

RIM_MPP = 16.0
"""Coarser pixels than this do not resolve the rim of a stroke that is out of focus, um/px."""

LINE_UM = 600.0
"""Mean width up to which a long neutral mark is a glass edge rather than a pen stroke, um."""

BORDER_SHARE = 0.05
"""Share of the picture's border that a neutral mark lines if it is the border of the scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ink:
    """Pixels of one kind of ink.

    A solid spot of ``proof`` shows that the slide bears the ink; then ``sure`` pixels belong to
    it, ``likely`` ones where they connect to those, and ``possible`` ones close by.
    """

    proof: Region
    sure: Region
    likely: Region
    possible: Region


def find_artefacts(light: Absorption, mpp: float, *, pen: bool, edges: bool) -> NDArray[np.uint8]:
    """Find ink, black borders and glass edges.

    Parameters
    ----------
    light : Absorption
        The whole slide, planes of shape (h, w).
    mpp : float
        Its resolution, um/px.
    pen, edges : bool
        Whether ink, and whether borders and edges, are marked.

    Returns
    -------
    ndarray of shape (h, w), uint8
        ``PEN``, ``BLACK`` or ``EDGE``; ``GLASS`` everywhere else, tissue included.
    """
    usual = usual_absorption(light)
    areas = np.full(light.total.shape, Area.GLASS, dtype=np.uint8)
    red = _follow(_red_ink(light, usual), mpp)
    ink = red | _follow(_cool_ink(light), mpp) | _follow(_dark_ink(light, usual), mpp)
    neutral = _find_neutral(light, ink, mpp)
    if edges:
        for area in (Area.BLACK, Area.EDGE):
            areas[neutral == area] = area
    ink |= neutral == Area.PEN
    if pen and ink.any():
        areas[_complete(ink, light, mpp)] = Area.PEN
    if pen and red.any():
        areas[_find_scraps(areas == Area.GLASS, red, light, usual, mpp)] = Area.PEN
    return areas


def _follow(ink: _Ink, mpp: float) -> Region:
    """Follow the strokes of one ink as far as they reach, without their rim."""
    if not _solid(ink.proof, mpp).any():
        return np.zeros_like(ink.proof)
    marks = keep_by_area(ink.sure, mpp, least_um2=SPECK_UM2)
    stroke = connected_to(marks, ink.likely)
    return stroke | (ink.possible & within(stroke, NEAR_INK_UM, mpp))


def _solid(region: Region, mpp: float) -> Region:
    """Keep what is as wide as a stroke."""
    return opened(region, max(1, int(STROKE_UM / 2 / mpp)))


# The limits of proofs stand where no tissue of the slides at hand reached in a solid spot; the
# others follow the slide's own stain, so that pale and strong slides are judged alike.


def _cool_ink(light: Absorption) -> _Ink:
    """Green and blue: absorbs red more than green."""
    cool = light.redness < np.minimum(-0.12, -0.10 * light.total)
    return _Ink(
        proof=cool,
        sure=cool,
        likely=light.redness < np.minimum(-0.04, -0.04 * light.total),
        possible=light.redness < -0.015,
    )


def _red_ink(light: Absorption, usual: Usual) -> _Ink:
    """Red: absorbs green and blue alike, and far more than the slide's eosin does."""
    total, redness, warmth = light.total, light.redness, light.warmth
    pure = (warmth > 0.05 * total) & (light.brownness < 0.07 * total)
    beyond_eosin = (redness > max(0.18, 1.7 * usual.redness)) & (warmth > -0.10 * total)
    return _Ink(
        proof=pure & (redness > max(0.42, 2.2 * usual.redness)),
        sure=pure & (redness > max(0.35, 2.0 * usual.redness)),
        likely=beyond_eosin | (redness > 0.10) & (warmth > 0.10 * total),
        possible=(redness > 0.04) & (warmth > (usual.warmth + 0.20) * total),
    )


def _dark_ink(light: Absorption, usual: Usual) -> _Ink:
    """Dark violet: lets less light through than packed nuclei do."""
    # what absorbs blue as much as green is chromogen, which knows no limit
    coloured = (light.spread > 0.12 * light.total) & (light.brownness < -0.01 * light.total)
    return _Ink(
        proof=coloured & (light.total > 2.4),
        sure=coloured & (light.total > 2.1),
        likely=light.total > max(1.0, 1.6 * usual.total),
        possible=np.zeros_like(coloured),
    )


def _find_neutral(light: Absorption, ink: Region, mpp: float) -> NDArray[np.uint8]:
    """Find dark marks without colour and name each ``BLACK``, ``EDGE`` or ``PEN``."""
    sure = (light.spread < 0.08 * light.total) & (light.total > 1.0)
    likely = (light.spread < 0.12 * light.total) & (light.total > 0.45)
    marks = keep_by_area(connected_to(sure, likely), mpp, least_um2=SPECK_UM2)
    count, label, stats, _ = cv2.connectedComponentsWithStats(marks.view(np.uint8))
    border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    lining = np.bincount(border, minlength=count) / border.size
    length_um = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * mpp
    width_um = stats[:, cv2.CC_STAT_AREA] * mpp**2 / length_um
    area = np.full(count, Area.GLASS, dtype=np.uint8)
    area[np.unique(label[_solid(sure, mpp)])] = Area.PEN
    area[(width_um < LINE_UM) & (length_um > 10 * width_um)] = Area.EDGE
    area[lining > BORDER_SHARE] = Area.BLACK
    area[np.unique(label[ink])] = Area.PEN
    area[0] = Area.GLASS
    return np.asarray(area[label])


def _complete(ink: Region, light: Absorption, mpp: float) -> Region:
    """Close the gaps of ink and add its out-of-focus rim and a margin."""
    ink = closed(ink, round(SEAM_UM / mpp))
    if mpp <= RIM_MPP:
        side = 2 * max(1, round(16 / mpp)) + 1
        unevenness = cv2.absdiff(light.total, cv2.blur(light.total, (side, side)))
        smooth = (cv2.blur(unevenness, (side, side)) < 0.02) & (light.spread > 0.015)
        rim = smooth & within(ink, NEAR_INK_UM, mpp)
        ink = connected_to(ink, opened(rim, round(SEAM_UM / mpp)))
    return within(ink, max(MARGIN_UM, mpp), mpp)


def _find_scraps(free: Region, red: Region, light: Absorption, usual: Usual, mpp: float) -> Region:
    """Find the ends of a dry red stroke: ``free`` small pieces on glass, warmer than tissue.

    Looked for among whole pieces, and among what is left of them where a disc does not fit in:
    the streaks that a brush drags from the ink to the tissue.
    """
    clear = light.spread <= 0.03
    stained = free & ~clear
    side = 2 * round(NEAR_INK_UM / mpp) + 1
    glass = cv2.blur((free & clear).astype(np.float32), (side, side))
    near = within(red, SCRAP_UM, mpp)
    warm = light.warmth - np.float32(usual.warmth + 0.10) * light.total
    found = np.zeros_like(stained)
    for pieces in (stained, stained & ~opened(stained, round(STREAK_UM / 2 / mpp))):
        count, label, stats, _ = cv2.connectedComponentsWithStats(pieces.view(np.uint8))
        nearness, glassiness, warmth = (
            np.bincount(label.ravel(), plane.ravel(), minlength=count)
            for plane in (near, glass, warm)
        )
        size = stats[:, cv2.CC_STAT_AREA]
        scrap = (size * mpp**2 < SCRAP_UM2) & (nearness > 0.5 * size)
        scrap &= (glassiness > 0.15 * size) & (warmth > 0)
        scrap[0] = False
        found |= scrap[label]
    return found
