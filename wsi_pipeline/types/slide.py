"""A slide before its tiles: where its resolution is from, its levels, its tissue."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray


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
    FOLD = 5
    BLUR = 6
    BUBBLE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomImage:
    """What other DICOM objects refer to a slide by; it names no patient.

    Attributes
    ----------
    study, series, instance : str
        Identifiers of the study, of the series and of the finest level.
    frame_of_reference : str
        Identifier of the coordinates of the slide.
    origin_mm : tuple of float
        Where the centre of the first pixel is in them.
    orientation : tuple of float
        Directions of a row and of a column in them, as ``ImageOrientationSlide`` has them.
    """

    study: str
    series: str
    instance: str
    frame_of_reference: str
    origin_mm: tuple[float, float]
    orientation: tuple[float, float, float, float, float, float]


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
    bounds_xy : tuple of int
        Top-left corner of the scanned part, level-0 px, where the slide has room around it (MRXS,
        SCN, BIF); QuPath counts from there. (0, 0) for all others.
    dicom : DicomImage or None
        What DICOM knows the slide by; None if it is not DICOM, or its names are not to be said.
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
    bounds_xy: tuple[int, int] = (0, 0)
    dicom: DicomImage | None = None

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
