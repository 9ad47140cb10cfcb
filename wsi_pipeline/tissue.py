"""Low-resolution RGB of a slide to its areas: tissue, glass, pen ink, black border, glass edge.

Works on optical density, where absorbed light adds up and every hematoxylin-eosin mix lies in a
narrow cone. It does not read slides, cut tiles or judge the stain itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from skimage.filters import threshold_otsu

from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.types import Area, TissueMask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from wsi_pipeline.config import TissueConfig

STAINED_RANGE = (0.03, 0.05)
"""Where the threshold between glass and stain may lie, spread of optical density.

Otsu's threshold splits whatever it is given: on a field of nothing but glass it would cut the
noise, on one of nothing but tissue it would cut hematoxylin from eosin. Clean glass stays below
the first value; stained tissue of pale slides exceeds the second."""

MAX_PIXELS = 8_000_000
"""Larger overviews are judged at fewer pixels; outlines are then true to the coarser pixel.

Bounds time and memory: at 8 um/px this holds a section of 22 x 22 mm, and one of 40 x 40 mm is
judged at 14 um/px."""

ARTEFACT_MPP = 16.0
"""Resolution that ink, borders and edges are looked for at, um/px; strokes are far wider."""

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

SEAM_UM = 48.0
"""Half the gap within a mark that is closed, um."""

MARGIN_UM = 24.0
"""Added around ink, so that the last faintly tinted pixels go with it, um."""

LINE_UM = 600.0
"""Mean width up to which a long neutral mark is a glass edge rather than a pen stroke, um."""

DARK_LEVEL = 50
"""Pixels with no channel at or above this carry no light of a brightfield lamp."""

LIT_LEVEL = 110
"""Mean grey level that the lit half of a brightfield slide exceeds."""

_DENSITY = np.log10(255.0 / np.maximum(np.arange(256), 5)).astype(np.float32)
# Below 5 the colour of a pixel is noise of the camera and the codec.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Absorption:
    """What the specimen absorbs, planes of shape (h, w) float32, log10 optical density.

    ``total`` is the sum over the channels, ``spread`` the strongest less the weakest.
    Hematoxylin absorbs about (0.59, 0.73, 0.33) of R, G and B, eosin (0.15, 0.74, 0.64). So
    ``redness`` = G - R is positive in every mix of them: green and blue ink turn it negative, red
    ink drives it beyond eosin. ``warmth`` = B - 2 R is negative unless eosin is nearly pure, and
    ``brownness`` = B - G is always negative.
    """

    total: NDArray[np.float32]
    spread: NDArray[np.float32]
    redness: NDArray[np.float32]
    warmth: NDArray[np.float32]
    brownness: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usual:
    """Medians over the stained pixels of a slide; ``warmth`` as a share of the total."""

    total: float
    redness: float
    warmth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ink:
    """Pixels of one kind of ink.

    A solid spot of ``proof`` shows that the slide bears the ink; then ``sure`` pixels belong to
    it, ``likely`` ones where they connect to those, and ``possible`` ones close by.
    """

    proof: NDArray[np.bool_]
    sure: NDArray[np.bool_]
    likely: NDArray[np.bool_]
    possible: NDArray[np.bool_]


def detect_tissue(
    rgb: NDArray[np.uint8],
    mpp: float,
    downsample: tuple[float, float],
    config: TissueConfig,
) -> TissueMask:
    """Tell tissue from glass, pen ink, black borders and glass edges.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide at about ``config.mask_mpp``.
    mpp : float
        Resolution of ``rgb``, um/px.
    downsample : tuple of float
        Level-0 px per px of ``rgb`` in x and y; passed on to the mask.
    config : TissueConfig
        Size limits, and which artefacts are told from tissue.

    Returns
    -------
    TissueMask
        One :class:`~wsi_pipeline.types.Area` per pixel of ``rgb``.

    Notes
    -----
    *Tissue* is what absorbs the colours unequally: Otsu's threshold on the spread of optical
    density, kept within :data:`STAINED_RANGE`, with hysteresis down to half of it; then gaps are
    closed, holes filled and small pieces dropped.

    *Ink* is what no hematoxylin-eosin mix gives: green and blue absorb red more than green, red
    goes far beyond the slide's own eosin, and black or violet is darker than dense nuclei are at
    this resolution. A mark must be solid somewhere (:data:`STROKE_UM`); from there it is followed
    as far as its weaker parts connect, and its smooth out-of-focus rim goes with it. Tissue under
    ink counts as ink. Brown dye on surgical margins is left to be tissue, as is brown chromogen.

    *Neutral* dark marks are black borders where they line the picture's border, glass edges where
    they are long and thin, and black pen otherwise.
    """
    shrink = max(1.0, (rgb[..., 0].size / MAX_PIXELS) ** 0.5)
    small = _shrink(rgb, shrink)
    areas = _find_artefacts(small, mpp * shrink, config)
    areas[_find_tissue(small, areas == Area.GLASS, mpp * shrink, config)] = Area.TISSUE
    return TissueMask(areas=_enlarge(areas, rgb), downsample=downsample)


def require_brightfield(rgb: NDArray[np.uint8], slide_id: str) -> None:
    """Refuse a slide that was not taken in transmitted light.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide at low resolution.
    slide_id : str
        Names the slide in the message.

    Raises
    ------
    UnsupportedSlideError
        If most of the picture is black and what is not black is dim or of one colour, as in
        fluorescence. Black borders around a bright field pass, as does a field of dense tissue.
    """
    dark = rgb.max(axis=2) < DARK_LEVEL
    share = float(dark.mean())
    if share < 0.5:
        return
    lit = rgb[~dark].mean(axis=1)
    if lit.size and np.median(lit) >= LIT_LEVEL:
        return
    raise UnsupportedSlideError(
        f"{slide_id} is not a brightfield slide: {share:.0%} of its overview is black and the rest "
        "is dim, as in fluorescence; leave it out, only H&E in transmitted light can be processed"
    )


def sharpness(rgb_patch: NDArray[np.uint8]) -> float:
    """Measure how sharp a patch is.

    Parameters
    ----------
    rgb_patch : ndarray of shape (h, w, 3), uint8
        The patch.

    Returns
    -------
    float
        Variance of the Laplacian of its grey levels, 0 for a flat patch. It grows with contrast
        too, so a limit holds for one stain, scanner and resolution.
    """
    grey = cv2.cvtColor(rgb_patch, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _find_tissue(
    rgb: NDArray[np.uint8], free: NDArray[np.bool_], mpp: float, config: TissueConfig
) -> NDArray[np.bool_]:
    """Find stained pixels among the ``free`` ones."""
    red, green, blue = cv2.split(_soften(rgb, mpp))
    strongest = np.maximum(cv2.max(cv2.max(red, green), blue), 5)
    weakest = np.maximum(cv2.min(cv2.min(red, green), blue), 5)
    limit = _stain_limit(strongest, weakest, free)
    # A spread above s means weakest < strongest * 10^-s: bytes only, however large the slide.
    grey = np.arange(256)
    sure, likely = (
        (weakest < cv2.LUT(strongest, np.ceil(grey * 10.0**-s).astype(np.uint8))) & free
        for s in (limit, limit / 2)
    )
    found = _connected(sure, likely)
    found = _morph(found, cv2.MORPH_CLOSE, round(16 / mpp)) & free
    found |= _keep_by_area(free & ~found, mpp, most_um2=config.max_hole_um2, connectivity=4)
    return _keep_by_area(found, mpp, least_um2=config.min_tissue_um2)


def _stain_limit(
    strongest: NDArray[np.uint8], weakest: NDArray[np.uint8], free: NDArray[np.bool_]
) -> float:
    """Choose the spread of density that parts glass from stain, from a sample of the pixels."""
    lowest, highest = STAINED_RANGE
    sample = _sample(free.size)
    spread = (_DENSITY[weakest[sample]] - _DENSITY[strongest[sample]])[free[sample]]
    if not spread.size or spread.min() == spread.max():
        return lowest
    # Beyond 0.5 all is stain; dark outliers would stretch the bins.
    return float(np.clip(threshold_otsu(spread.clip(0, 0.5)), lowest, highest))  # type: ignore[no-untyped-call]


def _find_artefacts(rgb: NDArray[np.uint8], mpp: float, config: TissueConfig) -> NDArray[np.uint8]:
    """Find the areas that are not tissue whatever their colour; all else is ``GLASS``."""
    shrink = max(1.0, ARTEFACT_MPP / mpp)
    light = _absorption(_shrink(rgb, shrink))
    mpp *= shrink
    usual = _usual(light)
    areas = np.full(light.total.shape, Area.GLASS, dtype=np.uint8)
    ink = _find_ink(light, usual, mpp)
    neutral = _find_neutral(light, ink, mpp)
    if config.reject_edges:
        for area in (Area.BLACK, Area.EDGE):
            areas[neutral == area] = area
    ink |= neutral == Area.PEN
    if config.reject_pen and ink.any():
        areas[_complete(ink, light, mpp)] = Area.PEN
        areas[_scraps(areas, light, usual, mpp)] = Area.PEN
    return _enlarge(areas, rgb)


def _shrink(rgb: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Average pixels so that each side shrinks by ``factor``."""
    height, width = rgb.shape[:2]
    size = (max(1, round(width / factor)), max(1, round(height / factor)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _enlarge(areas: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the areas to cover every pixel of ``rgb``."""
    size = (rgb.shape[1], rgb.shape[0])
    return np.asarray(cv2.resize(areas, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _soften(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
    """Take away single-pixel noise where pixels are finer than cells."""
    sigma = 6.4 / mpp
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma)) if sigma >= 0.4 else rgb


def _absorption(rgb: NDArray[np.uint8]) -> _Absorption:
    red, green, blue = (cv2.LUT(plane, _DENSITY) for plane in cv2.split(rgb))
    strongest = cv2.max(cv2.max(red, green), blue)
    weakest = cv2.min(cv2.min(red, green), blue)
    return _Absorption(
        total=red + green + blue,
        spread=strongest - weakest,
        redness=green - red,
        warmth=blue - 2 * red,
        brownness=blue - green,
    )


def _usual(light: _Absorption) -> _Usual:
    """Take the medians of plainly stained pixels; ink must not move what ink is measured by."""
    sample = _sample(light.total.size)
    total, spread, redness, warmth = (
        plane[sample] for plane in (light.total, light.spread, light.redness, light.warmth)
    )
    plain = (spread > 0.05) & (redness > 0) & (redness < 0.35) & (total < 1.6)
    if not plain.any():
        return _Usual(total=0.6, redness=0.15, warmth=-0.1)
    return _Usual(
        total=min(float(np.median(total[plain])), 0.95),
        redness=min(float(np.median(redness[plain])), 0.25),
        warmth=float(np.median(warmth[plain] / total[plain])),
    )


def _sample(size: int) -> tuple[slice, slice]:
    """Choose rows and columns that hold about 250,000 of ``size`` pixels: enough for statistics."""
    step = slice(None, None, max(1, int((size / 250_000) ** 0.5)))
    return step, step


def _find_ink(light: _Absorption, usual: _Usual, mpp: float) -> NDArray[np.bool_]:
    """Find coloured and dark violet ink, without its rim."""
    found = np.zeros(light.total.shape, dtype=np.bool_)
    for ink in _inks(light, usual):
        solid = _morph(ink.proof, cv2.MORPH_OPEN, max(1, int(STROKE_UM / 2 / mpp)))
        if not solid.any():
            continue
        marks = _keep_by_area(ink.sure, mpp, least_um2=SPECK_UM2)
        stroke = _connected(marks, ink.likely)
        found |= stroke | (ink.possible & _within(stroke, NEAR_INK_UM, mpp))
    return found


def _inks(light: _Absorption, usual: _Usual) -> Iterator[_Ink]:
    """Yield green and blue, red, and dark ink; limits stand where no tissue at hand reached."""
    total, redness, warmth = light.total, light.redness, light.warmth
    cool = redness < np.minimum(-0.12, -0.10 * total)
    yield _Ink(
        proof=cool,
        sure=cool,
        likely=redness < np.minimum(-0.04, -0.04 * total),
        possible=redness < -0.015,
    )
    pure = (warmth > 0.05 * total) & (light.brownness < 0.07 * total)
    yield _Ink(
        proof=pure & (redness > max(0.42, 2.2 * usual.redness)),
        sure=pure & (redness > max(0.35, 2.0 * usual.redness)),
        likely=(redness > max(0.18, 1.7 * usual.redness)) & (warmth > -0.10 * total)
        | (redness > 0.10) & (warmth > 0.10 * total),
        possible=(redness > 0.04) & (warmth > (usual.warmth + 0.20) * total),
    )
    violet = light.spread > 0.12 * total
    yield _Ink(
        proof=violet & (total > 2.4),
        sure=violet & (total > 2.1),
        likely=total > max(1.0, 1.6 * usual.total),
        possible=np.zeros_like(violet),
    )


def _find_neutral(light: _Absorption, ink: NDArray[np.bool_], mpp: float) -> NDArray[np.uint8]:
    """Find marks without colour and name each ``BLACK``, ``EDGE`` or ``PEN``; (h, w) areas."""
    sure = (light.spread < 0.08 * light.total) & (light.total > 1.0)
    likely = (light.spread < 0.12 * light.total) & (light.total > 0.45)
    marks = _keep_by_area(_connected(sure, likely), mpp, least_um2=SPECK_UM2)
    count, label, stats, _ = cv2.connectedComponentsWithStats(marks.astype(np.uint8))
    border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    lining = np.bincount(border, minlength=count) / border.size
    length_um = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * mpp
    width_um = stats[:, cv2.CC_STAT_AREA] * mpp**2 / length_um
    area = np.full(count, Area.PEN, dtype=np.uint8)
    area[(width_um < LINE_UM) & (length_um > 10 * width_um)] = Area.EDGE
    area[lining > 0.05] = Area.BLACK
    area[np.unique(label[ink])] = Area.PEN
    area[0] = Area.GLASS
    return np.asarray(area[label])


def _complete(ink: NDArray[np.bool_], light: _Absorption, mpp: float) -> NDArray[np.bool_]:
    """Close the gaps of ink and add its out-of-focus rim and a margin."""
    ink = _morph(ink, cv2.MORPH_CLOSE, round(SEAM_UM / mpp))
    if mpp <= ARTEFACT_MPP:  # coarser pixels do not resolve the rim
        side = 2 * max(1, round(16 / mpp)) + 1
        unevenness = cv2.absdiff(light.total, cv2.blur(light.total, (side, side)))
        smooth = (cv2.blur(unevenness, (side, side)) < 0.02) & (light.spread > 0.015)
        rim = smooth & _within(ink, NEAR_INK_UM, mpp)
        ink = _connected(ink, _morph(rim, cv2.MORPH_OPEN, round(SEAM_UM / mpp)))
    return _within(ink, max(MARGIN_UM, mpp), mpp)


def _scraps(
    areas: NDArray[np.uint8], light: _Absorption, usual: _Usual, mpp: float
) -> NDArray[np.bool_]:
    """Find small pieces beside ink that are warmer than tissue: the ends of a dry red stroke."""
    stained = (light.spread > STAINED_RANGE[0]) & (areas == Area.GLASS)
    count, label, stats, _ = cv2.connectedComponentsWithStats(stained.astype(np.uint8))
    near = np.bincount(label[_within(areas == Area.PEN, SCRAP_UM, mpp)], minlength=count)
    size = stats[:, cv2.CC_STAT_AREA]
    warmth, total = (
        np.bincount(label.ravel(), plane.ravel(), minlength=count)
        for plane in (light.warmth, light.total)
    )
    scrap = (size * mpp**2 < SCRAP_UM2) & (near > 0.5 * size)
    scrap &= warmth > (usual.warmth + 0.17) * total
    scrap[0] = False
    return np.asarray(scrap[label])


def _morph(region: NDArray[np.bool_], operation: int, radius_px: int) -> NDArray[np.bool_]:
    """Open or close a region with a disc."""
    side = 2 * radius_px + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.morphologyEx(region.view(np.uint8), operation, disc).view(np.bool_))


def _within(region: NDArray[np.bool_], distance_um: float, mpp: float) -> NDArray[np.bool_]:
    """Grow a region by a distance."""
    away_px = cv2.distanceTransform((~region).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
    return np.asarray(away_px * mpp <= distance_um)


def _connected(sure: NDArray[np.bool_], likely: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the components of ``sure | likely`` that hold a sure pixel."""
    count, label = cv2.connectedComponents((sure | likely).view(np.uint8))
    keep = np.zeros(count, dtype=np.bool_)
    keep[label[sure]] = True
    return np.asarray(keep[label])


def _keep_by_area(
    region: NDArray[np.bool_],
    mpp: float,
    *,
    least_um2: float = 0.0,
    most_um2: float = np.inf,
    connectivity: int = 8,
) -> NDArray[np.bool_]:
    """Keep the components of a region whose area lies between the limits."""
    _, label, stats, _ = cv2.connectedComponentsWithStats(
        region.view(np.uint8), connectivity=connectivity
    )
    area_um2 = stats[:, cv2.CC_STAT_AREA] * mpp**2
    keep = (area_um2 >= least_um2) & (area_um2 <= most_um2)
    keep[0] = False
    return np.asarray(keep[label])
