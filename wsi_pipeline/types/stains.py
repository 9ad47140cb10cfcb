"""The stain matrix of a slide and how far it may be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

STAIN_CONVENTION = "macenko-log10-he-v1"
"""How H/E patches are made: log10 optical density, background 255 unless stored otherwise, rows
H then E, uint8 value v = round(255 * clip(c / (2 * max_concentration), 0, 1))."""


class StainPair(StrEnum):
    """Which two stains a slide has."""

    HE = "he"
    H_DAB = "h-dab"


STAIN_NAMES = {
    StainPair.HE: ("hematoxylin", "eosin"),
    StainPair.H_DAB: ("hematoxylin", "DAB"),
}
"""What the two stains of a pair are called."""

CONVENTIONS = {
    StainPair.HE: STAIN_CONVENTION,
    StainPair.H_DAB: "macenko-log10-h-dab-v1",
}
"""How the patches of a pair are made: as those of H/E, with the second stain in place of eosin."""

BROWN_STAIN = "brown like DAB"
"""Stands in the reasons of an estimate one of whose stains is brown."""

BLUE_STAIN = "blue like the aniline or methyl blue of a trichrome"
"""Stands in the reasons of an estimate whose first stain is a blue that hematoxylin is not."""


class StainVerdict(StrEnum):
    """How far a stain estimate may be trusted."""

    OK = "ok"
    FLAGGED = "flagged"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class StainMatrix:
    """The two stain vectors of one slide.

    Attributes
    ----------
    vectors : ndarray of shape (2, 3), float64
        Unit rows, hematoxylin first, in log10 optical density of (R, G, B).
    max_concentration : ndarray of shape (2,), float64
        99th percentile of each stain's concentration over tissue.
    background : ndarray of shape (3,), float64
        Incident light I0, 255 unless measured.
    """

    vectors: NDArray[np.float64]
    max_concentration: NDArray[np.float64]
    background: NDArray[np.float64] = field(default_factory=lambda: np.full(3, 255.0))

    def __post_init__(self) -> None:
        if self.vectors.shape != (2, 3):
            raise ValueError(f"vectors must have shape (2, 3), got {self.vectors.shape}")
        if not np.allclose(np.linalg.norm(self.vectors, axis=1), 1.0, atol=1e-6):
            raise ValueError("stain vectors must have unit length")
        if self.max_concentration.shape != (2,) or not (self.max_concentration > 0).all():
            raise ValueError(
                f"max_concentration must be two positive values, got {self.max_concentration}"
            )

    def angle_deg(self) -> float:
        """Angle between the two stain vectors, degrees."""
        return float(np.degrees(np.arccos(np.clip(self.vectors[0] @ self.vectors[1], -1.0, 1.0))))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, for JSON."""
        return {
            "vectors": self.vectors.tolist(),
            "max_concentration": self.max_concentration.tolist(),
            "background": self.background.tolist(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StainMatrix:
        """Rebuild a matrix from :meth:`to_dict`."""
        return cls(
            vectors=np.asarray(values["vectors"], dtype=np.float64),
            max_concentration=np.asarray(values["max_concentration"], dtype=np.float64),
            background=np.asarray(values["background"], dtype=np.float64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StainEstimate:
    """A stain matrix with the evidence for it.

    Attributes
    ----------
    matrix : StainMatrix
        The matrix to use: estimated, or the documented fallback.
    verdict : StainVerdict
        ``OK``, ``FLAGGED`` (used, outside the acceptance ranges) or ``FALLBACK``. Pixels that
        support no matrix are refused by :class:`~wsi_pipeline.errors.StainEstimationError`.
    reasons : tuple of str
        Why the verdict is not ``OK``; empty when it is.
    pixel_count : int
        Gated tissue pixels the estimate rests on.
    angle_deg : float
        Angle between the estimated vectors; NaN where none could be estimated.
    condition : float
        Condition number of the estimated vectors; NaN where none could be estimated.
    theta_deg : tuple of float
        Angles of H and E in the plane of the two leading eigenvectors; NaN if not estimated.
    pair : StainPair
        Which stains.
    nucleus_um2 : float or None
        How large the nuclei are in the plane of hematoxylin; half of their area belongs to larger
        ones. None where they were not measured, or too few are seen.
    """

    matrix: StainMatrix
    verdict: StainVerdict
    reasons: tuple[str, ...]
    pixel_count: int
    angle_deg: float
    condition: float
    theta_deg: tuple[float, float]
    pair: StainPair = StainPair.HE
    nucleus_um2: float | None = None

    @property
    def convention(self) -> str:
        """How patches that are unmixed with the matrix are made; of :data:`CONVENTIONS`."""
        return CONVENTIONS[self.pair]

    @property
    def names(self) -> tuple[str, str]:
        """What the two stains are called."""
        return STAIN_NAMES[self.pair]

    @property
    def is_brown(self) -> bool:
        """Whether one of the stains is brown, as the chromogen of immunohistochemistry is."""
        return any(BROWN_STAIN in reason for reason in self.reasons)

    @property
    def is_blue(self) -> bool:
        """Whether the first stain is bluer than hematoxylin, as in a trichrome."""
        return any(BLUE_STAIN in reason for reason in self.reasons)
