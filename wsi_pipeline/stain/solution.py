"""A sample of tissue pixels -> two stain vectors and maxima, whatever they are worth (Macenko).

What may be believed of them is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.stain.gate import gate_planes
from wsi_pipeline.stain.separate import density_planes

BETA = 0.15
"""Optical density under which a pixel is too faint to have a direction (Macenko's beta)."""

TAIL = 0.01
"""Share of pixels left beyond each stain vector, and above each maximum (Macenko's alpha)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """What the pixels say about the stains, before anyone believes it; NaN where they are mute.

    ``absorbing_share`` is that of all pixels, ``artefact_share`` that of the absorbing ones which
    the gate drops, ``stained_share`` that of the gated ones which hold stain; ``plane`` holds the
    two leading eigenvectors (2, 3) of the optical density's covariance, ``density`` the optical
    density (3, N) of the gated pixels.
    """

    pixel_count: int
    absorbing_share: float
    artefact_share: float
    stained_share: float
    mean_od: NDArray[np.float64]
    plane: NDArray[np.float64]
    theta_deg: tuple[float, float]
    vectors: NDArray[np.float64]
    max_concentration: NDArray[np.float64]
    density: NDArray[np.float64]

    @property
    def angle_deg(self) -> float:
        """Angle between the vectors."""
        return self.theta_deg[1] - self.theta_deg[0]

    @property
    def condition(self) -> float:
        """Condition number of the vectors."""
        # of two unit vectors: the ratio of the singular values of their matrix
        cosine = float(self.vectors[0] @ self.vectors[1])
        return float(np.sqrt((1 + cosine) / max(1 - cosine, np.finfo(float).tiny)))


def no_solution(absorbing_share: float = 0.0, artefact_share: float = 0.0) -> Solution:
    """Return what no stained pixel says."""
    nan = float("nan")
    return Solution(
        pixel_count=0,
        absorbing_share=absorbing_share,
        artefact_share=artefact_share,
        stained_share=0.0,
        mean_od=np.full(3, nan),
        plane=np.full((2, 3), nan),
        theta_deg=(nan, nan),
        vectors=np.full((2, 3), nan),
        max_concentration=np.full(2, nan),
        density=np.empty((3, 0)),
    )


def solve(pixels: NDArray[np.uint8]) -> Solution:
    """Fit stain vectors and maxima to the gated pixels, whatever they are worth."""
    rgb = np.ascontiguousarray(pixels.T)
    all_od = density_planes(rgb)
    gate = gate_planes(rgb, all_od)
    absorbing = _squared_length(all_od) >= BETA**2
    absorbing_share = absorbing.sum() / max(1, len(pixels))
    artefact_share = (absorbing & ~gate).sum() / max(1, absorbing.sum())
    od = all_od[:, gate]
    if od.shape[1] == 0:
        return no_solution(absorbing_share, artefact_share)
    mean = od.mean(axis=1)
    plane = _stain_plane(od, mean)
    in_plane = product(plane, od)
    stained = in_plane[:, _squared_length(in_plane) >= BETA**2]
    count = stained.shape[1]
    if count == 0:
        return no_solution(absorbing_share, artefact_share)
    theta = _extreme_angles(np.arctan2(stained[1], stained[0]))
    vectors = np.stack([np.cos(theta), np.sin(theta)], axis=1) @ plane
    return Solution(
        pixel_count=count,
        absorbing_share=absorbing_share,
        artefact_share=artefact_share,
        stained_share=count / od.shape[1],
        mean_od=mean,
        plane=plane,
        theta_deg=(float(np.degrees(theta[0])), float(np.degrees(theta[1]))),
        vectors=vectors,
        max_concentration=maxima_of(product(np.linalg.pinv(vectors).T, od)),
        density=od,
    )


def product(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.float64]:
    """Multiply matrices without BLAS, whose threads go on spinning on cores that tiles need."""
    return np.asarray(np.einsum("ij,jk->ik", left, right))


def _squared_length(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.einsum("ij,ij->j", columns, columns))


def _stain_plane(od: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leading eigenvectors of the covariance as rows, signed so that eosin's angle is positive.

    Hematoxylin absorbs relatively more red, so a second axis that points away from red puts it at
    negative angles.
    """
    covariance = product(od, od.T) / od.shape[1] - np.outer(mean, mean)
    _, columns = np.linalg.eigh(covariance)
    first, second = columns[:, 2], columns[:, 1]
    return np.stack(
        [first if first[0] >= 0 else -first, second if second[0] <= 0 else -second], axis=0
    )


def _extreme_angles(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles that leave 1 % of the pixels, to the nearest whole one, on either side."""
    outside = round(TAIL * len(angles))
    ranks = [outside, len(angles) - 1 - outside]
    return np.asarray(np.partition(angles, ranks)[ranks])


def maxima_of(concentrations: NDArray[np.float64]) -> NDArray[np.float64]:
    """99th percentile per row of the values of at least beta; 0 where there is none."""
    maxima = np.zeros(2)
    for stain, all_values in enumerate(concentrations):
        values = all_values[all_values >= BETA]
        if len(values):
            rank = int((1 - TAIL) * len(values))
            maxima[stain] = np.partition(values, rank)[rank]
    return maxima
