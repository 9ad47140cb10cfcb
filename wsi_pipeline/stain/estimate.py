"""A sample of a slide's tissue pixels to its stain matrix, with a verdict on how far to trust it.

It never guesses in silence: what is no estimate is called a fallback or refused, with the reason.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import StainConfig
from wsi_pipeline.errors import StainEstimationError
from wsi_pipeline.stain.chromogen import judge_chromogen
from wsi_pipeline.stain.gate import check_pixels
from wsi_pipeline.stain.separate import fixed_stain_matrix
from wsi_pipeline.stain.solution import Solution, no_solution, solve
from wsi_pipeline.types import (
    BLUE_STAIN,
    BROWN_STAIN,
    StainEstimate,
    StainMatrix,
    StainPair,
    StainVerdict,
)

ACCEPTED_RANGES = {
    "hematoxylin angle in the stain plane (degrees)": (-33.44, -1.96),
    "eosin angle in the stain plane (degrees)": (10.19, 30.14),
    "angle between the stains (degrees)": (21.04, 52.21),
    "blue component of the hematoxylin vector": (0.099, 0.474),
    "maximum hematoxylin concentration": (0.615, 1.804),
    "maximum eosin concentration": (0.357, 2.042),
}
"""Smallest and largest value among the 420 solutions published with CLASS-M, all H&E."""

ANGLE_LIMITS_DEG = (10.0, 70.0)
"""Angles between stains that can be used at all: below, noise around a single stain spans as much
(condition number 11); above, a pigment or an ink was taken for a stain."""

MIN_STAINED_SHARE = 0.05
"""Share of pixels that must hold stain, or the noise of glass decides how the plane lies."""

LOW_STAINED_SHARE = 0.2
"""Share of stained pixels below which an estimate is flagged."""

MAX_ARTEFACT_SHARE = 0.8
"""Share of the absorbing pixels that are ink, black or clipped above which a slide is refused."""

HIGH_ARTEFACT_SHARE = 0.2
"""Share of ink, black or clipped pixels above which an estimate is flagged."""

BROWN_RED = 0.45
"""Red over green density from which a stain that absorbs most in blue is called brown."""

ANILINE_RED, ANILINE_BLUE = 0.72, 0.25
"""Red component above and blue component below which a first stain is no hematoxylin but a blue of
trichromes; the largest published red is 0.711."""

MAGENTA_BLUE = 0.3
"""Blue component below which a second stain is magenta, as PAS is with 0.16; published eosins have
at least 0.446, those with phloxine less."""

_DEFAULTS = StainConfig()


def estimate_stain_matrix(
    pixels: NDArray[np.uint8], config: StainConfig = _DEFAULTS
) -> StainEstimate:
    """Estimate the stain vectors of a slide from a sample of its tissue pixels.

    Parameters
    ----------
    pixels : ndarray of shape (N, 3), uint8
        RGB of pixels of the slide's tissue tiles, in any order; glass between cells included.
    config : StainConfig
        ``stains``, ``adaptive``, ``min_pixels`` and ``allow_fallback`` apply. Other stains than H&E
        are judged by :func:`wsi_pipeline.stain.chromogen.judge_chromogen`.

    Returns
    -------
    StainEstimate
        ``OK``: inside every acceptance range. ``FLAGGED``: used, with each range it leaves.
        ``FALLBACK``: the published fixed matrix, with what forbids an estimate: too few stained
        pixels (fewer than ``min_pixels``, or under 5 %), a single stain (vectors less than 10
        degrees apart), vectors more than 70 degrees apart, or ones no H&E slide can have.

    Raises
    ------
    StainEstimationError
        If over 80 % of the absorbing pixels are ink, black or clipped (a pen mark, fluorescence),
        if an estimate is forbidden and ``allow_fallback`` is off, or if a stain is brown, or a blue
        other than hematoxylin, and ``strict_stain`` is on.

    Notes
    -----
    The plane is spanned by the two leading eigenvectors of the covariance of optical density over
    all gated pixels. Density is projected on it **without** subtracting the mean: angles are
    measured from the point without stain. Among pixels at least 0.15 from it, 1 % lie beyond
    either vector. Each maximum is the 99th percentile of the concentrations of at least 0.15.

    References
    ----------
    .. [1] M. Macenko et al., A method for normalizing histology slides for quantitative analysis,
       ISBI 2009.
    .. [2] B. Zhang et al., CLASS-M: Adaptive stain separation-based contrastive learning with
       pseudo-labeling for histopathological image classification, 2023.
    """
    check_pixels(pixels)
    if config.stains is not StainPair.HE:
        return judge_chromogen(solve(pixels), config)
    if not config.adaptive:
        return _fallback(no_solution(), ("asked for: adaptive = false",))
    estimate = _judge(solve(pixels), config)
    require_he(estimate, config)
    return estimate


def require_he(estimate: StainEstimate, config: StainConfig) -> None:
    """Refuse a slide that is not stained by H&E, if that is asked for.

    Parameters
    ----------
    estimate : StainEstimate
        What is known of its stains.
    config : StainConfig
        ``strict_stain`` applies.

    Raises
    ------
    StainEstimationError
        If one of the stains is brown, or a blue other than hematoxylin, and ``strict_stain`` is on.
    """
    others = [r for r in estimate.reasons if BROWN_STAIN in r or BLUE_STAIN in r]
    if config.strict_stain and others:
        raise StainEstimationError(
            f"this is not H&E: {'; '.join(others)}. Leave the slide out, or run without "
            "--strict-stain"
        )


def _judge(solution: Solution, config: StainConfig) -> StainEstimate:
    """Say how far a solution is believed."""
    _refuse_artefacts(solution)
    faults = _lack_of_support(solution, config) or _impossibilities(solution)
    if faults and not config.allow_fallback:
        raise StainEstimationError(
            f"no stain matrix can be estimated: {'; '.join(faults)}. Allow the published fixed "
            "matrix with allow_fallback = true, or leave the slide out."
        )
    if faults:
        return _fallback(solution, (*faults, *_brown(solution), *_blue(solution)))
    matrix = StainMatrix(vectors=solution.vectors, max_concentration=solution.max_concentration)
    doubts = _doubts(solution)
    verdict = StainVerdict.FLAGGED if doubts else StainVerdict.OK
    return _estimate(solution, matrix, verdict, doubts)


def _refuse_artefacts(solution: Solution) -> None:
    """Raise where what absorbs light is not tissue, so that no matrix is of any use."""
    few = solution.absorbing_share < MIN_STAINED_SHARE
    if solution.artefact_share > MAX_ARTEFACT_SHARE and not few:
        raise StainEstimationError(
            f"{solution.artefact_share:.0%} of the light-absorbing pixels are ink, black or "
            "clipped: this is not H&E tissue (a pen mark, a scan artefact or fluorescence). "
            "Leave the slide out, or choose its tissue by annotation."
        )


def _lack_of_support(solution: Solution, config: StainConfig) -> tuple[str, ...]:
    """Say why the pixels are too few to carry an estimate; empty where they are not."""
    if solution.pixel_count < config.min_pixels:
        return (
            f"{solution.pixel_count} pixels have a direction in the stain plane, fewer than "
            f"{config.min_pixels}",
        )
    if solution.stained_share < MIN_STAINED_SHARE:
        return (
            f"{solution.stained_share:.1%} of the pixels hold stain, less than "
            f"{MIN_STAINED_SHARE:.0%}",
        )
    return ()


def _impossibilities(solution: Solution) -> tuple[str, ...]:
    """Say what no two H&E stains can be."""
    faults: list[str] = []
    low, high = ANGLE_LIMITS_DEG
    if not low <= solution.angle_deg <= high:
        faults.append(
            f"vectors {solution.angle_deg:.1f} degrees apart (condition number "
            f"{solution.condition:.1f}), not within {low:g}-{high:g}"
        )
    if not (solution.plane[0] > 0).all():
        faults.append(f"main axis {_digits(solution.plane[0])} is no absorption of light")
    along = np.abs(solution.plane @ solution.mean_od)
    if along[0] <= along[1]:
        faults.append(f"mean density {_digits(along)} does not lie along the main axis")
    if solution.vectors.min() < -0.1:
        faults.append(f"a stain vector with component {solution.vectors.min():.2f}")
    if (solution.max_concentration == 0).any():
        faults.append("a stain that no pixel holds")
    return tuple(faults)


def _doubts(solution: Solution) -> tuple[str, ...]:
    """Say in what an estimate differs from those of known H&E slides."""
    blue = solution.vectors[0, 2]
    values = (*solution.theta_deg, solution.angle_deg, blue, *solution.max_concentration)
    doubts = [
        f"{name} {value:.2f}, outside {low:g} to {high:g}"
        for (name, (low, high)), value in zip(ACCEPTED_RANGES.items(), values, strict=True)
        if not low <= value <= high
    ]
    if solution.vectors.min() < 0:
        doubts.append(f"a stain vector with negative component {solution.vectors.min():.3f}")
    doubts += (*_brown(solution), *_blue(solution))
    if solution.vectors[1, 2] < MAGENTA_BLUE:
        doubts.append(
            f"blue component of the eosin vector {solution.vectors[1, 2]:.2f}, below "
            f"{MAGENTA_BLUE:g}: magenta, as PAS is and eosin with phloxine can be"
        )
    if solution.stained_share < LOW_STAINED_SHARE:
        doubts.append(f"only {solution.stained_share:.1%} of the pixels hold stain")
    if solution.artefact_share > HIGH_ARTEFACT_SHARE:
        doubts.append(
            f"{solution.artefact_share:.1%} of the absorbing pixels were ink, black or clipped"
        )
    return tuple(doubts)


def _brown(solution: Solution) -> tuple[str, ...]:
    """Say which stains are brown; either may be, for brown may absorb more red than blue does."""
    return tuple(
        f"{which} stain {_digits(vector)} is {BROWN_STAIN}, not {stain}"
        for which, vector, stain in zip(
            ("first", "second"), solution.vectors, ("hematoxylin", "eosin"), strict=True
        )
        if vector[0] > BROWN_RED * vector[1] and vector[2] > vector[1]
    )


def _blue(solution: Solution) -> tuple[str, ...]:
    """Say whether the first stain absorbs more red, and less blue, than hematoxylin does."""
    red, _, blue = solution.vectors[0]
    if not (red > ANILINE_RED and blue < ANILINE_BLUE):
        return ()
    return (f"first stain {_digits(solution.vectors[0])} is {BLUE_STAIN}, not hematoxylin",)


def _fallback(solution: Solution, reasons: tuple[str, ...]) -> StainEstimate:
    return _estimate(solution, fixed_stain_matrix(), StainVerdict.FALLBACK, reasons)


def _estimate(
    solution: Solution, matrix: StainMatrix, verdict: StainVerdict, reasons: tuple[str, ...]
) -> StainEstimate:
    return StainEstimate(
        matrix=matrix,
        verdict=verdict,
        reasons=reasons,
        pixel_count=solution.pixel_count,
        angle_deg=solution.angle_deg,
        condition=solution.condition,
        theta_deg=solution.theta_deg,
    )


def _digits(values: NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"
