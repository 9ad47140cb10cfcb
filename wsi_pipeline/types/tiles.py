"""The tiles of a slide: those asked for, and each candidate with why it was kept or dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


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
    REMAINDER = 10
    FOLD = 11
    BUBBLE = 12
    DAMAGED = 13


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
    limit_wh : tuple of int or None
        Size of ``level``, px, where the last column and row of the lattice are shifted inwards to
        end with it; None where they end before it.
    remainder : int
        Tiles beyond the last row and column that are no candidates for want of a few pixels, but
        would be kept if they were shifted inwards.
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
    limit_wh: tuple[int, int] | None = None
    remainder: int = 0

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
        return self.level_xy_of(self.rc)

    @cached_property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners of the kept tiles in level-0 px, shape (N, 2)."""
        return np.asarray(np.rint(self.level_xy * self.downsample), dtype=np.int64)

    def level_xy_of(self, rc: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the top-left corners of candidates, given by lattice index, px of ``level``.

        Parameters
        ----------
        rc : ndarray of shape (M, 2), int
            Rows and columns.

        Returns
        -------
        ndarray of shape (M, 2), int64
        """
        if self.corners is not None:
            return np.asarray(self.corners[tuple(rc.T)])
        xy = rc[:, ::-1].astype(np.int64) * self.step_px
        if self.limit_wh is None:
            return xy
        return np.minimum(xy, np.subtract(self.limit_wh, self.read_px))

    def funnel(self) -> dict[str, int]:
        """Count the candidates by reason, ``kept`` first; reasons without tiles are left out.

        ``remainder`` is the one reason of tiles that are no candidates.
        """
        counts = np.bincount(self.reasons.ravel(), minlength=len(TileReason))
        counts[TileReason.REMAINDER] = self.remainder
        return {
            reason.name.lower(): int(counts[reason])
            for reason in TileReason
            if counts[reason] or reason is TileReason.KEPT
        }


class OnGrid(ABC):
    """What anything that has tiles on a grid says of those that were kept."""

    @property
    @abstractmethod
    def grid(self) -> TileGrid:
        """The candidates, and which of them were kept."""

    def __len__(self) -> int:
        return len(self.grid)

    @property
    def patch_px(self) -> int:
        """Side of a patch, px."""
        return self.grid.patch_px

    @property
    def mpp(self) -> float:
        """Resolution the patches really have, um/px."""
        return self.grid.mpp

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""
        return self.grid.extent

    @property
    def pitch(self) -> float:
        """Distance between neighbouring tiles, level-0 px."""
        return self.grid.pitch

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""
        return self.grid.shape

    def funnel(self) -> dict[str, int]:
        """Count the candidate tiles by reason, ``kept`` first."""
        return self.grid.funnel()
