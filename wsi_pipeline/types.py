"""The values that flow through the pipeline: frozen, validated, legal for N = 0.

Places on a slide are ``(x, y)`` in level-0 pixels and their names end in ``_xy`` (sizes in
``_wh``); arrays are indexed ``[row, col]`` and index names end in ``_rc``. Nothing here reads
or writes files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

STAIN_CONVENTION = "macenko-log10-he-v1"
"""How H/E patches are made: log10 optical density, background 255 unless stored otherwise, rows
H then E, uint8 value v = round(255 * clip(c / (2 * max_concentration), 0, 1))."""

PatchInput = Literal["he", "rgb"]
"""What a model sees of a patch: its two stains, or its colours."""


class MppSource(StrEnum):
    """Where the resolution of a slide was found, best first."""

    FLAG = "flag"
    TABLE = "table"
    VENDOR = "vendor"
    OME = "ome"
    TIFF = "tiff"
    OBJECTIVE = "objective"


class Area(IntEnum):
    """What a pixel of the tissue mask shows."""

    GLASS = 0
    TISSUE = 1
    PEN = 2
    BLACK = 3
    EDGE = 4


class TileReason(IntEnum):
    """Why a candidate tile was kept or dropped."""

    KEPT = 0
    GLASS = 1
    LITTLE_TISSUE = 2
    PEN = 3
    BLACK = 4
    EDGE = 5
    OUTSIDE_ROI = 6
    BLUR = 7
    UNLABELLED = 8
    ANNOTATED = 9


class StainVerdict(StrEnum):
    """How far a stain estimate may be trusted."""

    OK = "ok"
    FLAGGED = "flagged"
    FALLBACK = "fallback"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideInfo:
    """What is known of a slide before a pixel is read.

    Attributes
    ----------
    slide_id : str
        File stem; names the folder of the slide's results.
    size_wh : tuple of int
        Width and height at level 0, px.
    mpp : float
        Micrometres per level-0 pixel, isotropic.
    mpp_source : MppSource
        Which source stated ``mpp``; ``OBJECTIVE`` marks an estimate.
    level_sizes_wh : tuple of (width, height)
        Size of every level, finest first.
    level_downsamples : tuple of float
        Level-0 px per px of each level, ascending from 1.
    reader : str
        Name of the reader that opened the slide.
    vendor : str
        Scanner vendor or container as the reader names it.
    objective_power : float or None
        Nominal magnification, for display only.
    """

    slide_id: str
    size_wh: tuple[int, int]
    mpp: float
    mpp_source: MppSource
    level_sizes_wh: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    reader: str
    vendor: str
    objective_power: float | None = None

    def __post_init__(self) -> None:
        if not self.mpp > 0:
            raise ValueError(f"mpp must be positive, got {self.mpp}")
        if len(self.level_sizes_wh) != len(self.level_downsamples) or not self.level_sizes_wh:
            raise ValueError(
                f"{len(self.level_sizes_wh)} level sizes do not match "
                f"{len(self.level_downsamples)} downsamples"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TissueMask:
    """Tissue and artefacts of a whole slide at low resolution.

    Attributes
    ----------
    areas : ndarray of shape (h, w), uint8
        One :class:`Area` code per mask pixel, ``areas[row, col]``.
    downsample : tuple of float
        Level-0 px per mask px, in x and y (they differ by rounding of the mask's size).
    """

    areas: NDArray[np.uint8]
    downsample: tuple[float, float]

    def __post_init__(self) -> None:
        if self.areas.ndim != 2 or self.areas.dtype != np.uint8:
            raise ValueError(
                f"areas must be (h, w) uint8, got {self.areas.shape} {self.areas.dtype}"
            )

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """Boolean mask of shape (h, w), True on tissue."""
        return np.asarray(self.areas == Area.TISSUE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSpec:
    """The tiles asked for, in target pixels.

    Attributes
    ----------
    mpp : float
        Resolution of the patches, um/px.
    patch_px : int
        Side of a patch, px at ``mpp``.
    stride_px : int
        Distance between neighbouring tiles, px at ``mpp``.
    """

    mpp: float
    patch_px: int
    stride_px: int

    def __post_init__(self) -> None:
        if not self.mpp > 0:
            raise ValueError(f"mpp must be positive, got {self.mpp}")
        if self.patch_px < 1 or self.stride_px < 1:
            raise ValueError(
                f"patch_px and stride_px must be >= 1, got {self.patch_px} and {self.stride_px}"
            )


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """The candidate tiles of one slide and why each was kept or dropped.

    They form a lattice that is laid in whole pixels of one pyramid level, so neighbouring tiles
    share no pixel and leave no seam, whatever the ratio of resolutions; or, where ``corners`` is
    given, they lie anywhere, and rows and columns only number them.

    Attributes
    ----------
    level : int
        Pyramid level that patches are read from.
    downsample : float
        Level-0 px per px of ``level``.
    read_px : int
        Side of a tile, px of ``level``; resampled to ``patch_px`` where they differ.
    step_px : int
        Distance between neighbouring tiles, px of ``level``.
    patch_px : int
        Side of a patch, px.
    mpp : float
        Resolution the patches really have, um/px (the request snapped to whole pixels).
    reasons : ndarray of shape (rows, cols), uint8
        One :class:`TileReason` per candidate.
    tissue_fraction : ndarray of shape (rows, cols), float32
        Share of each candidate that is tissue.
    corners : ndarray of shape (rows, cols, 2), int64, or None
        Top-left corner (x, y) of each candidate in px of ``level``, where they form no lattice.
    """

    level: int
    downsample: float
    read_px: int
    step_px: int
    patch_px: int
    mpp: float
    reasons: NDArray[np.uint8]
    tissue_fraction: NDArray[np.float32]
    corners: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.reasons.ndim != 2 or self.reasons.shape != self.tissue_fraction.shape:
            raise ValueError(
                f"reasons {self.reasons.shape} and tissue_fraction "
                f"{self.tissue_fraction.shape} must be lattices of one shape"
            )
        if self.corners is not None and self.corners.shape != (*self.reasons.shape, 2):
            raise ValueError(
                f"corners {self.corners.shape} must be one (x, y) per candidate of "
                f"{self.reasons.shape}"
            )

    def __len__(self) -> int:
        return len(self.rc)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""
        rows, cols = self.reasons.shape
        return rows, cols

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""
        return self.read_px * self.downsample

    @property
    def pitch(self) -> float:
        """Distance between neighbouring tiles, level-0 px."""
        return self.step_px * self.downsample

    @cached_property
    def rc(self) -> NDArray[np.int32]:
        """Lattice indices of the kept tiles, shape (N, 2), row-major order."""
        return np.argwhere(self.reasons == TileReason.KEPT).astype(np.int32)

    @cached_property
    def level_xy(self) -> NDArray[np.int64]:
        """Top-left corners of the kept tiles in px of ``level``, shape (N, 2)."""
        if self.corners is not None:
            return np.asarray(self.corners[tuple(self.rc.T)])
        return self.rc[:, ::-1].astype(np.int64) * self.step_px

    @cached_property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners of the kept tiles in level-0 px, shape (N, 2)."""
        return np.asarray(np.rint(self.level_xy * self.downsample), dtype=np.int64)

    def funnel(self) -> dict[str, int]:
        """Count the candidates by reason, ``kept`` first; reasons without tiles are left out."""
        counts = np.bincount(self.reasons.ravel(), minlength=len(TileReason))
        return {
            reason.name.lower(): int(counts[reason])
            for reason in TileReason
            if counts[reason] or reason is TileReason.KEPT
        }


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
        ``OK``, ``FLAGGED`` (used, outside the acceptance ranges) or ``FALLBACK``. ``REFUSED``
        never carries a matrix: it is raised as :class:`~wsi_pipeline.errors.StainEstimationError`.
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
    """

    matrix: StainMatrix
    verdict: StainVerdict
    reasons: tuple[str, ...]
    pixel_count: int
    angle_deg: float
    condition: float
    theta_deg: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a trained model expects and gives, as the pipeline needs to know it.

    Attributes
    ----------
    name : str
        Names the folder of the predictions.
    class_names : tuple of str
        One per output, in order.
    class_colors : tuple of str
        ``#rrggbb`` per class.
    mpp : float
        Resolution of the patches it was trained on, um/px.
    patch_px : int
        Side of its input, px.
    mean, std : tuple of float
        Normalisation of each channel after scaling to [0, 1].
    input : {"he", "rgb"}
        Whether it takes the two stains of a patch, (B, 2, P, P), or its colours, (B, 3, P, P).
    stain_convention : str
        Must equal :data:`STAIN_CONVENTION` of the store.
    """

    name: str
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
    mpp: float
    patch_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: PatchInput = "he"
    stain_convention: str = STAIN_CONVENTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Class probabilities of the patches of one slide.

    Attributes
    ----------
    prob : ndarray of shape (N, K), float32
        Rows sum to 1.
    xy : ndarray of shape (N, 2), int64
        Top-left corners, level-0 px.
    rc : ndarray of shape (N, 2), int32
        Lattice indices.
    shape : tuple of int
        Rows and columns of the lattice.
    extent, pitch : float
        Side of a tile and distance between tiles, level-0 px.
    class_names, class_colors : tuple of str
        One per column of ``prob``.
    """

    prob: NDArray[np.float32]
    xy: NDArray[np.int64]
    rc: NDArray[np.int32]
    shape: tuple[int, int]
    extent: float
    pitch: float
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]

    def __post_init__(self) -> None:
        n, k = self.prob.shape
        if k != len(self.class_names) or k != len(self.class_colors):
            raise ValueError(f"prob has {k} columns for {len(self.class_names)} classes")
        if self.xy.shape != (n, 2) or self.rc.shape != (n, 2):
            raise ValueError(f"xy {self.xy.shape} and rc {self.rc.shape} do not match {n} patches")

    def __len__(self) -> int:
        return len(self.prob)

    @property
    def label(self) -> NDArray[np.int64]:
        """Index of the most probable class, shape (N,)."""
        return np.asarray(self.prob.argmax(axis=1), dtype=np.int64)

    @property
    def entropy(self) -> NDArray[np.float32]:
        """Shannon entropy of each row in nats, shape (N,)."""
        p = self.prob.astype(np.float64)
        logs = np.log(p, out=np.zeros_like(p), where=p > 0)
        return np.asarray(-(p * logs).sum(axis=1), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Class probabilities painted on the slide.

    Attributes
    ----------
    values : ndarray of shape (rows, cols, K), float32
        Mean probability of the tiles covering each cell; NaN where there is none.
    cell_px : float
        Side of a cell, level-0 px; the top-left cell starts at (0, 0).
    class_names, class_colors : tuple of str
        One per class.
    """

    values: NDArray[np.float32]
    cell_px: float
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]


class SlideRecords(Protocol):
    """What is known of a slide and its tiles beside their pixels, as pictures and reports need it.

    :class:`~wsi_pipeline.store.PatchStore` is one.
    """

    def __len__(self) -> int:
        """Count the patches."""

    @property
    def slide(self) -> SlideInfo:
        """The slide."""

    @property
    def stain(self) -> StainEstimate:
        """Its stain matrix and the evidence for it."""

    @property
    def mask(self) -> TissueMask:
        """Tissue and artefacts."""

    @property
    def areas(self) -> NDArray[np.uint8]:
        """:class:`Area` of each mask pixel, shape (h, w)."""

    @property
    def thumbnail(self) -> NDArray[np.uint8]:
        """The whole slide, RGB, shape (h, w, 3)."""

    @property
    def patch_px(self) -> int:
        """Side of a patch, px."""

    @property
    def mpp(self) -> float:
        """Resolution of the patches, um/px."""

    @property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners, level-0 px, shape (N, 2)."""

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""

    def funnel(self) -> dict[str, int]:
        """Count the candidate tiles by reason, ``kept`` first."""


class Progress(Protocol):
    """Told how far a long piece of work is; the command line draws it."""

    def start(self, what: str, total: int) -> None:
        """Announce ``total`` steps of ``what``."""

    def advance(self, steps: int = 1) -> None:
        """Report that ``steps`` more are done."""


class NoProgress:
    """Says nothing: the default of every function that takes a :class:`Progress`."""

    def start(self, what: str, total: int) -> None:
        """Ignore the announcement."""

    def advance(self, steps: int = 1) -> None:
        """Ignore the step."""
