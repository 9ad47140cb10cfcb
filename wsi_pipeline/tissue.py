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
    from numpy.typing import NDArray

    from wsi_pipeline.config import TissueConfig


STAINED_RANGE = (0.03, 0.05)
"""Where the threshold between glass and stain may lie, optical density.

Otsu's threshold splits whatever it is given, so on a field of nothing but glass it would cut the
noise and on one of nothing but tissue it would cut hematoxylin from eosin. Clean glass stays below
the first value; the palest stained tissue of the slides at hand exceeds the second."""

MIN_INK_UM2 = 1_500.0
"""Smallest sure spot of ink, um^2: below it are clumps of pigment and strongly stained nuclei."""

HALO_UM = 300.0
"""How far an out-of-focus stroke bleeds over glass, um."""

MARGIN_UM = 24.0
"""Added around ink, so that the last row of faintly tinted pixels goes with it, um."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Absorption:
    """What the specimen absorbs per pixel; each plane (h, w) float32, log10 optical density.

    Hematoxylin and eosin both absorb green most (methods: mean vectors (0.59, 0.73, 0.33) and
    (0.15, 0.74, 0.64)), so ``red`` = green - red is positive in any mix of them. Green and blue
    ink turn it negative, red ink drives it far beyond eosin. ``warm`` = blue - 2 red is negative
    in all but the purest eosin.
    """

    total: NDArray[np.float32]
    spread: NDArray[np.float32]
    red: NDArray[np.float32]
    warm: NDArray[np.float32]


def detect_tissue(
    rgb: NDArray[np.uint8],
    mpp: float,
    downsample: tuple[float, float],
    config: TissueConfig,
) -> TissueMask:
    light = _absorption(_soften(rgb, mpp))
    areas = np.full(rgb.shape[:2], Area.GLASS, dtype=np.uint8)
    ink = _find_ink(light, mpp)
    neutral = _find_neutral(light, ink, mpp)
    if config.reject_edges:
        for area in (Area.BLACK, Area.EDGE):
            areas[neutral == area] = area
    if config.reject_pen:
        areas[_halo(light, ink | (neutral == Area.PEN), mpp)] = Area.PEN
    free = areas == Area.GLASS
    areas[_find_stained(light.spread, free, mpp, config)] = Area.TISSUE
    return TissueMask(areas=areas, downsample=downsample)


def require_brightfield(rgb: NDArray[np.uint8], slide_id: str) -> None:
    """Refuse overviews that are not brightfield."""
    dark = rgb.max(axis=2) < 50
    if dark.mean() < 0.5:
        return
    lit = rgb[~dark]
    if lit.size and np.median(lit.mean(axis=1)) >= 110:
        return
    raise UnsupportedSlideError(f"{slide_id} is not a brightfield slide: {dark.mean():.0%} is black")


def sharpness(rgb_patch: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian."""
    grey = cv2.cvtColor(rgb_patch, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _soften(rgb, mpp):
    sigma = 6.4 / mpp
    return cv2.GaussianBlur(rgb, (0, 0), sigma) if sigma >= 0.4 else rgb


def _absorption(rgb):
    table = np.log10(255.0 / np.maximum(np.arange(256), 5)).astype(np.float32)
    red, green, blue = (cv2.LUT(plane, table) for plane in cv2.split(rgb))
    most = cv2.max(cv2.max(red, green), blue)
    least = cv2.min(cv2.min(red, green), blue)
    return _Absorption(total=red + green + blue, spread=most - least, red=green - red, warm=blue - 2 * red)


def _find_ink(light, mpp):
    total, red, warm = light.total, light.red, light.warm
    step = max(1, int(np.sqrt(total.size / 250_000)))
    t_, r_, s_, w_ = (x[::step, ::step] for x in (total, red, light.spread, warm))
    plain = (s_ > 0.05) & (r_ > 0) & (r_ < 0.35) & (t_ < 1.6)
    usual_red = min(float(np.median(r_[plain])), .25) if plain.any() else 0.15
    usual_total = min(float(np.median(t_[plain])), .95) if plain.any() else 0.6
    usual_warm = float(np.median(w_[plain] / t_[plain])) if plain.any() else -.1
    r0 = (total - red - warm) / 4
    brownless = warm + 2 * r0 <= 1.15 * (red + r0)
    kinds = (
        ((red < -0.12) & (red < -0.10 * total), (red < -0.04) & (red < -0.04 * total)),
        (
            (red > max(0.35, 2.2 * usual_red)) & (warm > 0.05 * total) & brownless,
            ((red > max(.18,1.7 * usual_red)) & (warm > -0.10 * total)) | ((red > 0.10) & (warm > 0.10 * total)),
        ),
        ((total > 2.1) & (light.spread > 0.12 * total), total > max(1.0, 1.6 * usual_total)),
    )
    ink = np.zeros(total.shape, bool)
    for sure, likely in kinds:
        if _solid(sure, 24, mpp).any():
            ink |= _reach(_drop_small(sure, MIN_INK_UM2, mpp), likely)
    return ink

def _halo(light, ink, mpp):
    if not ink.any(): return ink
    near = _within(ink, HALO_UM, mpp)
    t = light.total
    k = 2 * max(1, round(16 / mpp)) + 1
    rough = cv2.blur(cv2.absdiff(t, cv2.blur(t, (k, k))), (k, k))
    smooth = (rough < 0.02) & (light.spread > .015) & near
    if mpp <= 16: ink = _reach(ink, _solid(smooth, 48, mpp))
    return _within(ink, max(MARGIN_UM, mpp), mpp)

def _solid(region, um, mpp):
    px = max(1, round(um / mpp))
    return cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2*px+1,2*px+1))) > 0


def _find_neutral(light, ink, mpp):
    sure = (light.spread < 0.08 * light.total) & (light.total > 1.0)
    likely = (light.spread < 0.12 * light.total) & (light.total > 0.45)
    grey = _drop_small(_reach(sure, likely), MIN_INK_UM2, mpp)
    count, label, stats, _ = cv2.connectedComponentsWithStats(grey.astype(np.uint8))
    border = np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]])
    touching = np.bincount(border, minlength=count) / border.size
    length = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) * mpp
    width = stats[:, cv2.CC_STAT_AREA] * mpp**2 / length
    code = np.full(count, Area.PEN, dtype=np.uint8)
    code[(width < 600) & (length > 10 * width)] = Area.EDGE
    code[touching > 0.05] = Area.BLACK
    code[np.unique(label[ink])] = Area.PEN
    code[0] = Area.GLASS
    return code[label]


def _find_stained(spread, free, mpp, config):
    sample = spread[free]
    if not sample.size:
        return free
    sample = sample[:: max(1, sample.size // 200_000)]
    least, most = STAINED_RANGE
    sure = float(np.clip(threshold_otsu(sample.clip(0, 0.5)), least, most)) if sample.max() > sample.min() else most
    found = _reach((spread > sure) & free, (spread > sure / 2) & free)
    closed = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, _disc(16, mpp)) > 0
    found = closed & free
    found |= _holes(found, free, config.max_hole_um2, mpp)
    return _drop_small(found, config.min_tissue_um2, mpp)


def _holes(found, free, most_um2, mpp):
    count, label, stats, _ = cv2.connectedComponentsWithStats((free & ~found).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] * mpp**2 <= most_um2
    small[0] = False
    return small[label]


def _disc(radius_um, mpp):
    px = round(radius_um / mpp)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1, 2 * px + 1))


def _within(region, distance_um, mpp):
    away = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
    return away * mpp <= distance_um


def _drop_small(region, least_um2, mpp):
    count, label, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] * mpp**2 >= least_um2
    keep[0] = False
    return keep[label]


def _reach(sure, likely):
    count, label = cv2.connectedComponents((sure | likely).astype(np.uint8), connectivity=8)
    hit = np.zeros(count, bool)
    hit[label[sure]] = True
    return hit[label]
