"""What pixels say about hematoxylin and a chromogen -> a stain matrix, with a verdict.

A chromogen is in few cells or in most, and scatters light besides absorbing it, so what pixels say
is believed only near the published vectors; those are used otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StainEstimationError
from wsi_pipeline.stain.solution import Solution, maxima_of, product
from wsi_pipeline.types import STAIN_NAMES, StainEstimate, StainMatrix, StainPair, StainVerdict

if TYPE_CHECKING:
    from wsi_pipeline.config import StainConfig

PUBLISHED = {
    StainPair.H_DAB: np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776]]),
}
"""Hematoxylin and the chromogen, in optical density of (R, G, B) [1]_."""

SURE_DEG = 5.0
"""Angle to the published vector up to which an estimate is beyond doubt."""

FARTHEST_DEG = 12.0
"""Angle beyond which it is another stain, or none: the mean of the published eosins is 13.6."""


def judge_chromogen(solution: Solution, config: StainConfig) -> StainEstimate:
    """Say which vectors hematoxylin and a chromogen have.

    Parameters
    ----------
    solution : Solution
        What the pixels say.
    config : StainConfig
        ``stains`` names the pair; ``adaptive``, ``min_pixels`` and ``allow_fallback`` apply.

    Returns
    -------
    StainEstimate
        ``OK``: both vectors within 5 degrees of the published ones. ``FLAGGED``: within 12, with
        the angles. ``FALLBACK``: the published vectors, with what forbids an estimate; maxima are
        still the slide's own where it has enough stained pixels.

    Raises
    ------
    StainEstimationError
        If an estimate is forbidden and ``allow_fallback`` is off.

    References
    ----------
    .. [1] A. Ruifrok, D. Johnston, Quantification of histochemical staining by color
       deconvolution, Analytical and Quantitative Cytology and Histology 23 (2001).
    """
    names = STAIN_NAMES[config.stains]
    published = PUBLISHED[config.stains]
    published = published / np.linalg.norm(published, axis=1, keepdims=True)
    if not config.adaptive:
        return _published(solution, published, config, ("asked for: adaptive = false",))
    if solution.pixel_count < config.min_pixels:
        few = f"{solution.pixel_count} pixels hold stain, fewer than {config.min_pixels}"
        return _published(solution, published, config, (few,))
    vectors = _ordered(solution.vectors, published)
    angles = [_angle_deg(a, b) for a, b in zip(vectors, published, strict=True)]
    reasons = tuple(
        f"{name} {angle:.1f} degrees from the published vector"
        for name, angle in zip(names, angles, strict=True)
        if angle > SURE_DEG
    )
    if max(angles) > FARTHEST_DEG:
        return _published(solution, published, config, reasons)
    matrix = StainMatrix(vectors=vectors, max_concentration=_maxima(solution, vectors))
    verdict = StainVerdict.FLAGGED if reasons else StainVerdict.OK
    return _estimate(solution, matrix, config.stains, verdict, reasons)


def _published(
    solution: Solution,
    published: NDArray[np.float64],
    config: StainConfig,
    reasons: tuple[str, ...],
) -> StainEstimate:
    if not config.allow_fallback:
        raise StainEstimationError(
            f"no stain matrix of {' and '.join(STAIN_NAMES[config.stains])} can be estimated: "
            f"{'; '.join(reasons)}. Allow the published vectors with allow_fallback = true, or "
            "leave the slide out."
        )
    matrix = StainMatrix(vectors=published, max_concentration=_maxima(solution, published))
    return _estimate(solution, matrix, config.stains, StainVerdict.FALLBACK, reasons)


def _ordered(vectors: NDArray[np.float64], published: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put first what is more like hematoxylin, where the chromogen lies on either side of it."""
    cosines = vectors @ published.T
    straight, crossed = cosines[0, 0] + cosines[1, 1], cosines[0, 1] + cosines[1, 0]
    return vectors if straight >= crossed else vectors[::-1]


def _maxima(solution: Solution, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the maxima of the slide for given vectors; 1 for a stain that no pixel holds."""
    found = maxima_of(product(np.linalg.pinv(vectors).T, solution.density))
    return np.where(found > 0, found, 1.0)


def _angle_deg(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


def _estimate(
    solution: Solution,
    matrix: StainMatrix,
    pair: StainPair,
    verdict: StainVerdict,
    reasons: tuple[str, ...],
) -> StainEstimate:
    return StainEstimate(
        matrix=matrix,
        verdict=verdict,
        reasons=reasons,
        pixel_count=solution.pixel_count,
        angle_deg=solution.angle_deg,
        condition=solution.condition,
        theta_deg=solution.theta_deg,
        pair=pair,
    )
