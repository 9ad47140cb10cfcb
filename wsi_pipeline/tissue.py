"""Low-resolution RGB of a slide to its areas: tissue, glass, pen ink, black border, glass edge.

Works on optical density, where light absorbed adds up and hematoxylin-eosin mixes lie in a narrow
cone. It does not read slides, cut tiles or judge the stain itself.
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

    Plane = NDArray[np.float32]
    Region = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Density:
    cool: Plane
    warm: Plane
    total: Plane
    spread: Plane


def detect_tissue(
    rgb: NDArray[np.uint8],
    mpp: float,
    downsample: tuple[float, float],
    config: TissueConfig,
) -> TissueMask:
    """Tell tissue from glass and artefacts."""
    smooth = cv2.GaussianBlur(rgb, (0, 0), 0.8) if mpp < 16 else rgb
    d = _measure(smooth)
    areas = np.zeros(rgb.shape[:2], np.uint8)
    dark = np.zeros(areas.shape, bool)
    if config.reject_edges or config.reject_pen:
        dark = None
    areas_ = _ink(d, mpp)
    black = _neutral(d, mpp)
    blocked = (areas_ > 0) | (black > 0)
    tissue = _tissue(d, blocked, mpp, config)
    areas[tissue] = Area.TISSUE
    areas[black > 0] = black[black > 0]
    areas[areas_ > 0] = Area.PEN
    return TissueMask(areas=areas, downsample=downsample)


def _measure(rgb):
    lut = np.log10(255.0 / np.maximum(np.arange(256), 5)).astype(np.float32)
    r, g, b = (cv2.LUT(c, lut) for c in cv2.split(rgb))
    hi = cv2.max(cv2.max(r, g), b); lo = cv2.min(cv2.min(r, g), b)
    return _Density(cool=r - g, warm=b - 2 * r, total=r + g + b, spread=hi - lo)


def _disc(um, mpp):
    k = max(0, round(um / mpp))
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * k + 1, 2 * k + 1))


def _big(mask, min_um2, mpp):
    n, lab, st, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = st[:, cv2.CC_STAT_AREA] * mpp * mpp >= min_um2
    keep[0] = False
    return keep[lab]


def _grow(seed, weak, reach_um, mpp):
    near = cv2.dilate(seed.astype(np.uint8), _disc(reach_um, mpp)) > 0
    room = (weak & near) | seed
    n, lab = cv2.connectedComponents(room.astype(np.uint8), connectivity=8)
    hit = np.zeros(n, bool); hit[lab[seed]] = True; hit[0] = False
    return hit[lab]


def _ink(d, mpp):
    t = d.total
    cool = _grow(_big((d.cool > .12) & (d.cool > .10 * t), 5000, mpp), (d.cool > .04) & (d.cool > .05 * t), 500, mpp)
    warm = _grow(_big((d.warm > .25) | ((d.warm > .20 * t) & (t > .45)), 5000, mpp), (d.warm > .10 * t) & (t > .12), 500, mpp)
    mid = float(np.median(t[(d.spread > .07) & ~cool & ~warm])) if ((d.spread > .07)&~cool&~warm).any() else .6
    dark = _grow(_big(t > max(2.1,2.2*mid), 5000, mpp), t > max(1.0, 1.6 * mid), 300, mpp)
    ink = cool | warm | dark
    return cv2.dilate(ink.astype(np.uint8), _disc(20, mpp))


def _neutral(d, mpp):
    t = d.total
    seed = (d.spread < .12 * t) & (t > 1.0)
    weak = (d.spread < .15 * t) & (t > .35)
    m = _big(_grow(seed, weak, 300, mpp), 5000, mpp)
    n, lab, st, _ = cv2.connectedComponentsWithStats(m.astype(np.uint8), connectivity=8)
    per = np.concatenate([lab[0], lab[-1], lab[:, 0], lab[:, -1]])
    touch = np.bincount(per, minlength=n) / per.size
    diag = np.hypot(st[:, 2], st[:, 3]) * mpp
    width = st[:, 4] * mpp * mpp / diag
    code = np.full(n, Area.PEN, np.uint8)
    code[(width < 600) & (diag > 10 * width)] = Area.EDGE
    code[touch > .05] = Area.BLACK
    code[0] = 0
    return code[lab]


def _tissue(d, blocked, mpp, config):
    free = d.spread[~blocked]
    t = .05
    if free.size:
        t = float(np.clip(threshold_otsu(np.clip(free[:: max(1, free.size // 200000)], 0, .5)), .03, .06))
    weak = (d.spread > t / 2) & ~blocked
    n, lab = cv2.connectedComponents(weak.astype(np.uint8), connectivity=8)
    hit = np.zeros(n, bool); hit[lab[(d.spread > t) & ~blocked]] = True; hit[0] = False
    m = hit[lab]
    m = cv2.morphologyEx(m.astype(np.uint8), cv2.MORPH_CLOSE, _disc(16, mpp)) > 0
    m &= ~blocked
    n, lab, st, _ = cv2.connectedComponentsWithStats((~m & ~blocked).astype(np.uint8), connectivity=4)
    fill = st[:, 4] * mpp * mpp <= config.max_hole_um2
    fill[0] = False
    m |= fill[lab]
    return _big(m, config.min_tissue_um2, mpp)


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
