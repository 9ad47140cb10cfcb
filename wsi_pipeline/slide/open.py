"""A slide file -> pixels at any place and any resolution, from the level that suits best.

Resampling is by area, so no pixel is skipped. What the pixels show is not looked at.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import ReadConfig
from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slide.geometry import level_for_mpp
from wsi_pipeline.slide.ids import slide_stem
from wsi_pipeline.slide.readers import Reader, open_reader, require_file
from wsi_pipeline.slide.readers.dicom import series_files
from wsi_pipeline.slide.readers.resolution import resolve_mpp
from wsi_pipeline.slide.resampling import average_areas, resize_square
from wsi_pipeline.slide.salvage import read_salvaged
from wsi_pipeline.types import SlideInfo

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from types import TracebackType

    from wsi_pipeline.slide.salvage import Box

BLOCK_PX = 1024
"""Side of the blocks, px of the level read, in which a whole level is shrunk."""

OVERSAMPLING = 4
"""How much finer the level is that an overview is averaged from.

Writers of pyramids shrink by filters of their own, some by skipping pixels; this far above the
stored level little is left of that, and containers of one scan give one mask."""

_BLOCK_BYTES = 1 << 16
_BLOCKS = 16


def open_slide(
    path: Path,
    config: ReadConfig | None = None,
    table_mpp: float | None = None,
    *,
    slide_id: str | None = None,
    named: bool = True,
) -> Slide:
    """Open a slide.

    Parameters
    ----------
    path : Path
        The file, or a folder holding one DICOM series.
    config : ReadConfig or None
        Which reader to use, and a resolution that overrides the file's; the defaults if None.
    table_mpp : float or None
        Resolution from a slide table, um/px; overrides the file's, not that of ``config``.
    slide_id : str or None
        Name of the slide; the file name without its suffix if None.
    named : bool
        Whether what is known of the slide has the identifiers of DICOM.

    Returns
    -------
    Slide
        The open slide, a context manager.

    Raises
    ------
    UnsupportedSlideError
        If no reader opens it.
    SlideReadError
        If the file is missing or unreadable.
    MissingMppError, AnisotropicMppError
        If its resolution is unknown, or differs between x and y.
    """
    config = config or ReadConfig()
    reader = open_reader(path, config.reader)
    return slide_of(reader, config, table_mpp, slide_id=slide_id, named=named)


def slide_of(
    reader: Reader,
    config: ReadConfig,
    table_mpp: float | None = None,
    *,
    slide_id: str | None = None,
    named: bool = True,
) -> Slide:
    """Make a slide of a reader, which is closed with it, or if it cannot be used.

    Parameters
    ----------
    reader : Reader
        Holds the file open.
    config, table_mpp, slide_id, named
        As in :func:`open_slide`.

    Raises
    ------
    MissingMppError, AnisotropicMppError
        If the resolution is unknown, or differs between x and y.
    """
    path = reader.path
    with ExitStack() as on_error:
        on_error.enter_context(reader)
        mpp, source = resolve_mpp(
            path, reader.mpp_candidates, flag=config.slide_mpp, table=table_mpp
        )
        on_error.pop_all()
    info = SlideInfo(
        slide_id=slide_id or slide_stem(path),
        size_wh=reader.level_sizes_wh[0],
        mpp=mpp,
        mpp_source=source,
        level_sizes_wh=reader.level_sizes_wh,
        level_downsamples=reader.level_downsamples,
        reader=reader.name,
        vendor=reader.vendor,
        objective_power=reader.objective_power,
        bounds_xy=reader.bounds_xy,
        dicom=reader.dicom if named else None,
    )
    return Slide(path, reader, info)


class Slide:
    """An open slide. Reading is thread-safe; close it when no thread reads any more.

    Parameters
    ----------
    path : Path
        The file or folder.
    reader : Reader
        Reads its levels; closed with the slide.
    info : SlideInfo
        What is known of it.
    """

    def __init__(self, path: Path, reader: Reader, info: SlideInfo) -> None:
        self.path = path
        self.info = info
        self._reader = reader

    def close(self) -> None:
        """Release the file; may be called more than once."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def fingerprint(self) -> str:
        """Identify the content of the slide's files.

        Returns
        -------
        str
            Hash of the size of each file and of blocks from its head, middle and tail: told in
            milliseconds for files of gigabytes, and the same wherever the slide lies.
        """
        digests = sorted(_digest(file) for file in slide_files(self.path))
        return hashlib.sha256(b"".join(digests)).hexdigest()[:32]

    def read_level(
        self,
        level: int,
        level_xy: tuple[int, int],
        size_wh: tuple[int, int],
        pixels: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Read a rectangle of one level as it is stored.

        Parameters
        ----------
        level : int
            Level, 0 is the finest.
        level_xy, size_wh : tuple of int
            Top-left corner, and width and height, px of that level.
        pixels : ndarray of shape (h, w, 3), uint8, or None
            Receives them; new memory if None.

        Returns
        -------
        ndarray of shape (h, w, 3), uint8
            RGB; white outside the slide.
        """
        return self._reader.read(level, level_xy, size_wh, pixels)

    def read_patch(
        self, level: int, level_xy: tuple[int, int], read_px: int, patch_px: int
    ) -> NDArray[np.uint8]:
        """Read a square patch as a :class:`~wsi_pipeline.slide.geometry.ReadPlan` lays it out.

        Parameters
        ----------
        level : int
            Level to read.
        level_xy : tuple of int
            Top-left corner, px of that level.
        read_px : int
            Side of the square read, px of that level.
        patch_px : int
            Side of the patch, px.

        Returns
        -------
        ndarray of shape (patch_px, patch_px, 3), uint8
            RGB.
        """
        return resize_square(self._reader.read(level, level_xy, (read_px, read_px)), patch_px)

    def read_region(
        self, xy: tuple[float, float], size_wh: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        """Read a rectangle at any resolution.

        Parameters
        ----------
        xy : tuple of float
            Top-left corner, level-0 px.
        size_wh : tuple of int
            Width and height of the result, px at ``mpp``.
        mpp : float
            Resolution of the result, um/px. Finer than the slide's, pixels are interpolated.

        Returns
        -------
        ndarray of shape (h, w, 3), uint8
            RGB. Each pixel is the mean of the level over the area it covers.
        """
        level = level_for_mpp(self.info, mpp)
        downsample = self.info.level_downsamples[level]
        step = mpp / (self.info.mpp * downsample)
        x_edges = xy[0] / downsample + step * np.arange(size_wh[0] + 1, dtype=np.float64)
        y_edges = xy[1] / downsample + step * np.arange(size_wh[1] + 1, dtype=np.float64)
        corner, hull_wh = _hull(x_edges, y_edges)
        read = self._reader.read(level, corner, hull_wh)
        if step >= 1:
            return average_areas(read, y_edges - corner[1], x_edges - corner[0])
        pixels = _interpolate_rows(read.astype(np.float64), y_edges - corner[1])
        pixels = _interpolate_rows(pixels.swapaxes(0, 1), x_edges - corner[0]).swapaxes(0, 1)
        return np.ascontiguousarray(np.rint(pixels), dtype=np.uint8)

    def overview(
        self,
        mpp: float,
        pool: Executor | None = None,
        *,
        oversampling: float = OVERSAMPLING,
        lost: list[Box] | None = None,
    ) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        """Read the whole slide at low resolution, in little memory.

        Parameters
        ----------
        mpp : float
            Resolution wanted, um/px. Never finer than the slide's own.
        pool : Executor or None
            Threads that share the work; the calling thread alone if None.
        oversampling : float
            How much finer the level is that is averaged; 1 is fastest.
        lost : list of Box or None
            Is given the parts that cannot be read, which are left white; None makes damage an
            error.

        Returns
        -------
        rgb : ndarray of shape (h, w, 3), uint8
            The slide.
        downsample : tuple of float
            Level-0 px per px of ``rgb``, in x and y.
        """
        level = level_for_mpp(self.info, mpp / oversampling)
        width, height = self.info.level_sizes_wh[level]
        # counted from level 0, so that containers with other levels give the same size
        out_width, out_height = (
            max(1, min(round(full * self.info.mpp / mpp), stored))
            for full, stored in zip(self.info.size_wh, (width, height), strict=True)
        )
        x_edges = np.linspace(0, width, out_width + 1)
        y_edges = np.linspace(0, height, out_height + 1)
        rgb = np.empty((out_height, out_width, 3), dtype=np.uint8)
        read = self._reader.read
        if lost is not None:
            read = partial(read_salvaged, self._reader, lost=lost)

        def shrink(block: tuple[slice, slice]) -> None:
            rows, columns = block
            y, x = y_edges[rows.start : rows.stop + 1], x_edges[columns.start : columns.stop + 1]
            left, top = math.floor(x[0]), math.floor(y[0])
            size_wh = math.ceil(x[-1]) - left, math.ceil(y[-1]) - top
            rgb[block] = average_areas(read(level, (left, top), size_wh), y - top, x - left)

        blocks = product(_cut(out_height, height), _cut(out_width, width))
        deque((map if pool is None else pool.map)(shrink, blocks), maxlen=0)
        size = self.info.size_wh
        return rgb, (size[0] / out_width, size[1] / out_height)


def slide_files(path: Path) -> tuple[Path, ...]:
    """List the files that hold a slide.

    Parameters
    ----------
    path : Path
        The file or folder that names it.

    Returns
    -------
    tuple of Path
        The DICOM series, the MIRAX file with its folder of the same name, or the file itself.

    Raises
    ------
    SlideReadError
        If there is no such file or folder.
    """
    require_file(path)
    if path.is_dir() or path.suffix.lower() == ".dcm":
        return series_files(path)
    if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir():
        inside = (entry for entry in path.with_suffix("").rglob("*") if entry.is_file())
        return (path, *sorted(inside))
    return (path,)


def _digest(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            for block in range(_BLOCKS):
                stream.seek(max(0, size - _BLOCK_BYTES) * block // (_BLOCKS - 1))
                digest.update(stream.read(_BLOCK_BYTES))
    except OSError as error:
        raise SlideReadError(f"{file} cannot be read: {error}", path=file) from error
    return digest.digest()


def _hull(
    x_edges: NDArray[np.float64], y_edges: NDArray[np.float64]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner and size of the whole pixels that hold the edges, and one around them."""
    left, top = math.floor(x_edges[0]) - 1, math.floor(y_edges[0]) - 1
    right, bottom = math.ceil(x_edges[-1]) + 1, math.ceil(y_edges[-1]) + 1
    return (left, top), (right - left, bottom - top)


def _cut(count: int, level_px: int) -> list[slice]:
    """Cut ``count`` output pixels into runs of about :data:`BLOCK_PX` px of the level read."""
    length = max(1, BLOCK_PX * count // level_px)
    return [slice(start, min(start + length, count)) for start in range(0, count, length)]


def _interpolate_rows(
    pixels: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Values at the centres between consecutive edges, linear between the centres of rows."""
    centres = (edges[:-1] + edges[1:]) / 2 - 0.5
    below = np.clip(centres.astype(np.int64), 0, len(pixels) - 2)
    part = (centres - below).reshape(-1, 1, 1)
    return (1 - part) * pixels[below] + part * pixels[below + 1]
