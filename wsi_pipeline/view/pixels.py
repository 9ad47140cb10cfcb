"""Open slides -> the tiles of a deep zoom, in colours or stain by stain, as JPEG.

Nothing is written: tiles are cut from the slide when they are asked for, and the latest of them
are kept in bounded memory.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_files.cores import usable_cores
from wsi_pipeline.slide.geometry import level_for_mpp
from wsi_pipeline.stain import HeEncoder
from wsi_pipeline.stain.separate import HEADROOM
from wsi_pipeline.view.folder import NotInResults

if TYPE_CHECKING:
    from wsi_pipeline.slide.open import Slide
    from wsi_pipeline.types import SlideInfo, StainMatrix

TILE_PX = 512
"""Side of a tile; larger ones take fewer requests, smaller ones appear sooner."""

READ_PX = 2048
"""Side of the largest square read at once, px of the level: bounds memory on slides whose
pyramid has gaps."""

QUALITY = 85
"""JPEG quality of what is shown; analyses never see these pixels."""

VIEWS = ("rgb", "hematoxylin", "eosin")
"""What a tile can show."""

OPEN_SLIDES = 8
"""Slides held open at once."""

CACHE_BYTES = 1 << 26
"""Encoded tiles kept: about two thousand."""


class OpenSlides:
    """Holds slides open for as long as they are looked at, a bounded number of them.

    Parameters
    ----------
    open_one : callable
        Opens a slide by its id.
    most : int
        Slides open at once that nobody reads; those being read are never closed.
    """

    def __init__(self, open_one: Callable[[str], Slide], most: int = OPEN_SLIDES) -> None:
        self._open_one = open_one
        self._most = most
        self._open: OrderedDict[str, _Lent] = OrderedDict()
        self._lock = Lock()

    @contextmanager
    def lend(self, slide_id: str) -> Iterator[Slide]:
        """Lend an open slide for the length of the block."""
        with self._lock:
            if slide_id not in self._open:
                self._open[slide_id] = _Lent(self._open_one(slide_id))
            lent = self._open[slide_id]
            lent.readers += 1
            self._open.move_to_end(slide_id)
        try:
            yield lent.slide
        finally:
            with self._lock:
                lent.readers -= 1
                self._close_idle(self._most)

    def close(self) -> None:
        """Close every slide that nobody reads."""
        with self._lock:
            self._close_idle(0)

    def _close_idle(self, most: int) -> None:
        idle = [name for name, lent in self._open.items() if not lent.readers]
        for name in idle[: max(0, len(self._open) - most)]:
            self._open.pop(name).slide.close()


@dataclass(slots=True)
class _Lent:
    slide: Slide
    readers: int = 0


class TileServer:
    """Cuts and encodes tiles, a few at a time, and keeps the latest.

    Parameters
    ----------
    slides : OpenSlides
        Where pixels come from.
    stains : callable
        Gives the stain matrix of a slide by its id.
    """

    def __init__(self, slides: OpenSlides, stains: Callable[[str], StainMatrix]) -> None:
        self._slides = slides
        self._stains = stains
        self._at_work = BoundedSemaphore(2 * usable_cores())
        self._kept: OrderedDict[tuple[str, str, int, int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def tile(self, slide_id: str, view: str, level: int, column: int, row: int) -> bytes:
        """Return one tile as JPEG.

        Parameters
        ----------
        slide_id : str
            The slide.
        view : str
            One of :data:`VIEWS`.
        level : int
            Level of the deep zoom: 0 is one pixel, each further one twice as fine, the last the
            slide's own pixels.
        column, row : int
            Which tile of the level.

        Returns
        -------
        bytes
            The picture; at the right and lower edge it is smaller than :data:`TILE_PX`.

        Raises
        ------
        NotInResults
            If there is no such tile.
        SlideError
            If the slide cannot be read.
        """
        key = (slide_id, view, level, column, row)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with self._at_work, self._slides.lend(slide_id) as slide:
            rgb = read_tile(slide, level, column, row)
            if view != "rgb":
                rgb = show_stain(rgb, self._stains(slide_id), VIEWS.index(view) - 1)
        encoded = encode_jpeg(rgb)
        self._keep(key, encoded)
        return encoded

    def _keep(self, key: tuple[str, str, int, int, int], encoded: bytes) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = encoded
            self._bytes += len(encoded)
            while self._bytes > CACHE_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])


def last_level(info: SlideInfo) -> int:
    """Return the number of the finest level of the deep zoom of a slide."""
    return math.ceil(math.log2(max(info.size_wh)))


def read_tile(slide: Slide, level: int, column: int, row: int) -> NDArray[np.uint8]:
    """Read one tile of the deep zoom of a slide.

    Parameters
    ----------
    slide : Slide
        The slide, open.
    level, column, row : int
        As in :meth:`TileServer.tile`.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        RGB, at most :data:`TILE_PX` px a side.

    Raises
    ------
    NotInResults
        If there is no such tile.
    """
    step = 2 ** (last_level(slide.info) - level) if 0 <= level <= last_level(slide.info) else 0
    left, top = column * TILE_PX, row * TILE_PX
    width, height = (math.ceil(side / step) if step else 0 for side in slide.info.size_wh)
    if not (0 <= left < width and 0 <= top < height):
        raise NotInResults(f"no tile {level}/{column}/{row} of {slide.info.slide_id!r}")
    size_wh = min(TILE_PX, width - left), min(TILE_PX, height - top)
    mpp = slide.info.mpp * step
    side = _block_side(slide.info, mpp)
    rgb = np.empty((size_wh[1], size_wh[0], 3), dtype=np.uint8)
    for y in range(0, size_wh[1], side):
        for x in range(0, size_wh[0], side):
            block_wh = min(side, size_wh[0] - x), min(side, size_wh[1] - y)
            corner = ((left + x) * step, (top + y) * step)
            rgb[y : y + side, x : x + side] = slide.read_region(corner, block_wh, mpp)
    return rgb


def _block_side(info: SlideInfo, mpp: float) -> int:
    """Return the side of the blocks in which a tile is read, px of the tile."""
    downsample = info.level_downsamples[level_for_mpp(info, mpp)]
    return max(1, min(TILE_PX, int(READ_PX * info.mpp * downsample / mpp)))


def show_stain(rgb: NDArray[np.uint8], stains: StainMatrix, stain: int) -> NDArray[np.uint8]:
    """Picture one stain of some pixels, in its own colour.

    Parameters
    ----------
    rgb : ndarray of shape (h, w, 3), uint8
        Pixels of a slide.
    stains : StainMatrix
        Its stain matrix.
    stain : int
        0 is hematoxylin, 1 eosin.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        What the slide would look like with this stain alone.
    """
    planes = np.empty((2, *rgb.shape[:2]), dtype=np.uint8)
    HeEncoder(stains).encode(np.ascontiguousarray(rgb), planes)
    concentration = np.arange(256) / 255 * HEADROOM * stains.max_concentration[stain]
    density = concentration[:, None] * stains.vectors[stain]
    colours = np.rint(255 * 10**-density).clip(0, 255).astype(np.uint8)
    return np.asarray(colours[planes[stain]])


def encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Encode RGB pixels as JPEG."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def encode_png(values: NDArray[np.uint8]) -> bytes:
    """Encode one channel of values as PNG, which keeps them exactly."""
    return cv2.imencode(".png", values)[1].tobytes()
