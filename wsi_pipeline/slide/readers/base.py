"""The contract of every slide reader: RGB pixels of a pyramid level, white where there is nothing.

Readers know files and levels. They do not resample, do not choose a level and do not decide which
stated resolution to believe; :mod:`wsi_pipeline.slide.open` does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.slide.memory import room_for

if TYPE_CHECKING:
    from types import TracebackType

    from wsi_pipeline.slide.readers.resolution import MppCandidate
    from wsi_pipeline.types import DicomImage

WHITE = 255
"""Value of background: what lies outside the slide or was never scanned is glass, not tissue."""

SMALL_PX = 64
"""Side of the pieces that a slide is cut into where it is not known how it is stored."""


class NotBrightfieldError(UnsupportedSlideError):
    """The file is sound, but holds no 8-bit colour image; no other reader can change that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideHeader:
    """What a file states about its slide.

    Attributes
    ----------
    vendor : str
        Scanner vendor or container.
    level_sizes_wh : tuple of (width, height)
        Size of every level, finest first.
    objective_power : float or None
        Nominal magnification.
    mpp_candidates : tuple of MppCandidate
        Every resolution the file states, believable or not.
    bounds_xy : tuple of int
        Top-left corner of the scanned part, level-0 px.
    dicom : DicomImage or None
        What DICOM knows the slide by; None of files that are not DICOM.
    """

    vendor: str
    level_sizes_wh: tuple[tuple[int, int], ...]
    objective_power: float | None = None
    mpp_candidates: tuple[MppCandidate, ...] = ()
    bounds_xy: tuple[int, int] = (0, 0)
    dicom: DicomImage | None = None


class Reader(ABC):
    """An open slide file.

    Reading is thread-safe. Closing is not: close when no thread reads any more.

    Parameters
    ----------
    path : Path
        The file.
    header : SlideHeader
        What it states.

    Attributes
    ----------
    name : str
        Name of the reader, as :class:`~wsi_pipeline.config.ReaderName` spells it.
    level_downsamples : tuple of float
        Level-0 px per px of each level, ascending from 1; the mean of both axes.
    """

    name: str

    def __init__(self, path: Path, header: SlideHeader) -> None:
        self.path = path
        self.vendor = header.vendor
        self.level_sizes_wh = header.level_sizes_wh
        self.level_downsamples = _downsamples(header.level_sizes_wh)
        self.objective_power = header.objective_power
        self.mpp_candidates = header.mpp_candidates
        self.bounds_xy = header.bounds_xy
        self.dicom = header.dicom
        self._closed = False

    def read(
        self,
        level: int,
        xy: tuple[int, int],
        size_wh: tuple[int, int],
        pixels: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read a rectangle of one level.

        Parameters
        ----------
        level : int
            Level, 0 is the finest.
        xy : tuple of int
            Top-left corner, px of that level; may lie outside the slide.
        size_wh : tuple of int
            Width and height, px of that level.
        pixels : ndarray of shape (h, w, 3), uint8, or None
            Receives them; new memory if None.

        Returns
        -------
        ndarray of shape (h, w, 3), uint8
            RGB, ``pixels`` if given, and owned by the caller. White where the slide has no
            pixels: outside of it, where it is transparent, and where the scanner left tiles out.

        Raises
        ------
        ValueError
            If there is no such level, the size is negative or the reader is closed.
        SlideReadError
            If the file is damaged there.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed; open it again to read from it")
        if not 0 <= level < len(self.level_sizes_wh):
            raise ValueError(
                f"{self.path.name} has levels 0 to {len(self.level_sizes_wh) - 1}, got {level}"
            )
        (x, y), (width, height) = xy, size_wh
        if width < 0 or height < 0:
            raise ValueError(f"size_wh must not be negative, got {size_wh}")
        if pixels is None:
            pixels = room_for((height, width, 3))
        elif pixels.shape != (height, width, 3):
            raise ValueError(f"pixels must be {(height, width, 3)}, got {pixels.shape}")
        level_width, level_height = self.level_sizes_wh[level]
        left, right = max(x, 0), min(x + width, level_width)
        top, bottom = max(y, 0), min(y + height, level_height)
        if (right - left, bottom - top) != (width, height):
            pixels.fill(WHITE)
        if left < right and top < bottom:
            self._fill(level, (left, top), pixels[top - y : bottom - y, left - x : right - x])
        return pixels

    def tile_wh(self, _level: int) -> tuple[int, int]:
        """Return width and height of the pieces that a level is stored in, px.

        Where a reader does not know them, small ones that waste little beside a damaged place.
        """
        return SMALL_PX, SMALL_PX

    @abstractmethod
    def _fill(self, level: int, xy: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        """Write all ``pixels`` (h, w, 3) of the rectangle at ``xy``, which lies in the level."""

    def close(self) -> None:
        """Release the file; may be called more than once."""
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _release(self) -> None:
        """Release what the reader holds; called once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def composite_on_white(rgba: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
    """Lay straight-alpha RGBA over white.

    Parameters
    ----------
    rgba : ndarray of shape (h, w, 4), uint8
        Colour not multiplied by alpha; its value does not matter where alpha is 0.
    pixels : ndarray of shape (h, w, 3), uint8
        Receives the result.
    """
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min(initial=WHITE) == WHITE:
        pixels[...] = rgb
        return
    # integer form of rgb * a + 255 * (1 - a), a = alpha / 255, rounded to nearest
    blended = rgb.astype(np.uint32) * alpha + WHITE * (WHITE - alpha.astype(np.uint32))
    pixels[...] = (blended + WHITE // 2) // WHITE


def _downsamples(sizes_wh: tuple[tuple[int, int], ...]) -> tuple[float, ...]:
    width, height = sizes_wh[0]
    return tuple((width / w + height / h) / 2 for w, h in sizes_wh)
