"""Tiled TIFF, SVS and OME-TIFF files -> RGB levels, by decoding their tiles straight from the file.

Pastes decoded tiles together. Formats whose tiles need vendor logic (overlaps, restart markers,
gaps) are refused, for OpenSlide to read.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile

from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers.agreement import SPREAD, Picture, difference
from wsi_pipeline.slide.readers.base import WHITE, NotBrightfieldError, Reader, SlideHeader
from wsi_pipeline.slide.readers.registry import SlideFormat
from wsi_pipeline.slide.readers.tiff_metadata import describe, vendor_with_own_logic
from wsi_pipeline.slide.readers.tiff_pages import Pages, find_pyramid, significant_bits
from wsi_pipeline.slide.readers.tiff_tiles import (
    HOW_TO_CONVERT,
    TiledPage,
    require_brightfield,
    tiled_page,
)
from wsi_pipeline.slide.readers.tile_cache import TileCache, TileKey
from wsi_pipeline.slide.resampling import average_areas

if TYPE_CHECKING:
    from numpy.typing import NDArray

CACHE_BYTES = 1 << 27
"""Decoded tiles kept per slide: a row of 256-px tiles of a slide 170,000 px wide."""

_PIECES_KEPT = 2
"""Tiles or strips kept at least, however large: a row of patches touches so many strips."""

_BUSY_TILES = 2
"""Tiles looked at to compare two levels: the largest when compressed show most."""

_DARKEST_GLASS = 128
"""Brightest value, of 255, that a deep image must reach; less says that not all bits are used."""

_MALFORMED = (
    ValueError, ArithmeticError, LookupError, TypeError, AttributeError, MemoryError,
    RuntimeError, struct.error,
)  # fmt: skip
"""What tifffile raises on broken structure (its own error is a ValueError)."""

_UNDECODABLE = (RuntimeError, ValueError, IndexError, TypeError, MemoryError, struct.error)
"""What decoders raise on broken tiles (those of imagecodecs are RuntimeErrors)."""


class TiffReader(Reader):
    """A tiled TIFF whose tiles are decoded directly.

    Parameters
    ----------
    path : Path
        The file.
    header : SlideHeader
        What it states.
    levels : tuple of TiledPage
        The pages of the pyramid, finest first.
    """

    name = "tiff"

    def __init__(self, path: Path, header: SlideHeader, levels: tuple[TiledPage, ...]) -> None:
        super().__init__(path, header)
        self._levels = levels
        largest = max(level.tile_bytes for level in levels)
        self._cache = TileCache(max(CACHE_BYTES, _PIECES_KEPT * largest))
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._bytes = os.fstat(self._file).st_size

    def tile_wh(self, level: int) -> tuple[int, int]:
        """Return width and height of the tiles or strips of a level, px."""
        return self._levels[level].tile_wh

    def _fill(self, level: int, xy: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        tile_width, tile_height = self._levels[level].tile_wh
        (x, y), right, bottom = xy, xy[0] + width, xy[1] + height
        if (width, height) == (tile_width, tile_height) and not (x % width or y % height):
            # one whole tile: no neighbour will ask for it again, so it displaces no other
            if not self._decode_into((level, x // width, y // height), pixels):
                self._fill_missing(level, xy, pixels)
            return
        # right to left: threads that read neighbouring patches in reading order then begin with
        # tiles of their own, and find the shared ones on their left already decoded
        for column in reversed(range(x // tile_width, -(-right // tile_width))):
            for row in range(y // tile_height, -(-bottom // tile_height)):
                tile = self._cache.get((level, column, row), self._decode)
                left, top = column * tile_width, row * tile_height
                x0, x1 = max(left, x), min(left + tile_width, right)
                y0, y1 = max(top, y), min(top + tile_height, bottom)
                part = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
                if tile is None:
                    self._fill_missing(level, (x0, y0), part)
                else:
                    part[...] = tile[y0 - top : y1 - top, x0 - left : x1 - left]

    def _fill_missing(self, level: int, xy: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        """Make what a level leaves out from the finer one; what level 0 leaves out is glass."""
        if level == 0:
            pixels[...] = WHITE
            return
        sizes = self.level_sizes_wh[level - 1], self.level_sizes_wh[level]
        (x_scale, y_scale) = (sizes[0][axis] / sizes[1][axis] for axis in (0, 1))
        x_edges = x_scale * (xy[0] + np.arange(pixels.shape[1] + 1, dtype=np.float64))
        y_edges = y_scale * (xy[1] + np.arange(pixels.shape[0] + 1, dtype=np.float64))
        left, top = int(x_edges[0]), int(y_edges[0])
        size_wh = int(np.ceil(x_edges[-1])) - left, int(np.ceil(y_edges[-1])) - top
        finer = self.read(level - 1, (left, top), size_wh)
        pixels[...] = average_areas(finer, y_edges - top, x_edges - left)

    def _decode(self, key: TileKey) -> NDArray[np.uint8] | None:
        level, column, row = key
        try:
            return self._levels[level].decode(column, row, self._read_at)
        except _UNDECODABLE as error:
            raise self._damage(key, error) from error

    def _decode_into(self, key: TileKey, pixels: NDArray[np.uint8]) -> bool:
        level, column, row = key
        try:
            return self._levels[level].decode_into(column, row, self._read_at, pixels)
        except _UNDECODABLE as error:
            raise self._damage(key, error) from error

    def _damage(self, key: TileKey, error: Exception) -> SlideReadError:
        """Name the tile that cannot be decoded."""
        level, column, row = key
        return SlideReadError(
            f"{self.path} has a damaged tile at level {level}, column {column}, row {row} "
            f"({error}); copy the file again, or leave such tiles out by --damaged-tiles drop",
            path=self.path,
        )

    def _read_at(self, offset: int, count: int) -> bytes:
        """Read without moving a shared file position, so that threads need no lock."""
        if offset + count > self._bytes:
            raise SlideReadError(
                f"{self.path} ends at byte {self._bytes}, but a tile lies up to byte "
                f"{offset + count}: the file is truncated, copy it again",
                path=self.path,
            )
        return os.pread(self._file, count, offset)

    def _release(self) -> None:
        os.close(self._file)
        self._cache.clear()


def open_slide_file(path: Path) -> TiffReader:
    """Open a tiled TIFF, SVS or OME-TIFF.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    TiffReader
        The open slide.

    Raises
    ------
    UnsupportedSlideError
        If it is no TIFF, or one whose tiles are not decoded directly.
    NotBrightfieldError
        If it holds no colour image.
    SlideReadError
        If its structure contradicts itself, or level 0 is missing.
    """
    if path.is_dir():
        raise UnsupportedSlideError("a folder is no TIFF file", path=path)
    try:
        with tifffile.TiffFile(path) as tif:
            pages = _pages(tif)
            _require_no_vendor_logic(pages)
            found = find_pyramid(pages, path, _Comparison(path, pages))
            require_brightfield(found[0], path)
            bits = significant_bits(pages, found[0])
            levels = tuple(tiled_page(level, path, bits) for level in found)
            header = _header(found[0][0], pages[0], levels)
    except _MALFORMED as error:
        raise UnsupportedSlideError(f"not a readable TIFF file ({error})", path=path) from error
    reader = TiffReader(path, header, levels)
    with ExitStack() as on_error:
        on_error.enter_context(reader)
        _require_used_bits(reader, levels)
        on_error.pop_all()
    return reader


def slide_wh(path: Path) -> tuple[int, int] | None:
    """Find the size of level 0 of a TIFF file, whether or not its tiles can be decoded here.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    tuple of int or None
        Width and height, px; None where the file cannot be told to hold a slide.

    Raises
    ------
    SlideReadError
        If its structure contradicts itself, or it holds photographs and reduced copies alone.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            pages = _pages(tif)
            base = find_pyramid(pages, path, _Comparison(path, pages))[0][0]
    except UnsupportedSlideError:
        return None
    except _MALFORMED:
        return None
    return base.imagewidth, base.imagelength


class _Comparison:
    """Compares two images of a file by their pixels."""

    def __init__(self, path: Path, pages: list[tifffile.TiffPage]) -> None:
        self._path = path
        self._pages = pages

    def __call__(self, fine: Pages, coarse: Pages) -> str:
        try:
            levels = (
                tiled_page(fine, self._path, significant_bits(self._pages, fine)),
                tiled_page(coarse, self._path, significant_bits(self._pages, coarse)),
            )
        except UnsupportedSlideError as error:
            return str(error)
        header = SlideHeader(
            vendor="",
            level_sizes_wh=tuple(level.size_wh for level in levels),
            objective_power=None,
            mpp_candidates=(),
        )
        with TiffReader(self._path, header, levels) as reader:
            one, other = (_picture(reader, level) for level in (0, 1))
            return difference(one, other, _busy_places(levels))


def _picture(reader: TiffReader, level: int) -> Picture:
    return Picture(
        size_wh=reader.level_sizes_wh[level],
        read=lambda xy, size_wh: reader.read(level, xy, size_wh),
    )


def _busy_places(levels: tuple[TiledPage, TiledPage]) -> list[tuple[float, float]]:
    """Find where either level has something to show: its tiles of most bytes."""
    places = [SPREAD[-1]]
    for level in levels:
        columns, rows = level.grid_wh
        counts = np.asarray(level.byte_counts[: columns * rows])
        if len(set(counts.tolist())) == 1:
            places += SPREAD[:-1]
            continue
        for index in np.argsort(counts)[::-1][:_BUSY_TILES].tolist():
            places.append(((index % columns + 0.5) / columns, (index // columns + 0.5) / rows))
    return places


def _require_used_bits(reader: TiffReader, levels: tuple[TiledPage, ...]) -> None:
    """Refuse deep images that use few of their bits without saying so: they would all be dark."""
    if levels[0].bits == 8:
        return
    level = len(levels) - 1
    (width, height), (across, down) = levels[level].size_wh, levels[level].tile_wh
    box = min(width, across), min(height, down)
    corners = ((int(x * (width - box[0])), int(y * (height - box[1]))) for x, y in SPREAD)
    brightest = max(int(reader.read(level, corner, box).max()) for corner in corners)
    if brightest < _DARKEST_GLASS:
        raise NotBrightfieldError(
            f"{reader.path} is an image of type uint16 whose values end at {brightest / WHITE:.0%} "
            f"of what its {levels[0].bits} bits can hold: fluorescence, or bits that are not used; "
            f"if it is a stained slide, state SignificantBits in its OME-XML, or {HOW_TO_CONVERT}",
            path=reader.path,
        )


def _pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """List the pages; tifffile itself follows a chain that a damaged file closes to a ring."""
    pages: dict[int, tifffile.TiffPage] = {}
    for page in tif.pages:
        if page.offset in pages:
            raise UnsupportedSlideError("its pages form a ring; the file is damaged")
        if isinstance(page, tifffile.TiffPage):
            pages[page.offset] = page
    return list(pages.values())


def _require_no_vendor_logic(pages: list[tifffile.TiffPage]) -> None:
    vendor = vendor_with_own_logic(pages[0]) if pages else ""
    if vendor:
        raise UnsupportedSlideError(f"{vendor} files are left to OpenSlide")


def _header(
    base: tifffile.TiffPage, first: tifffile.TiffPage, levels: tuple[TiledPage, ...]
) -> SlideHeader:
    vendor, candidates, power = describe(base, first)
    return SlideHeader(
        vendor=vendor,
        level_sizes_wh=tuple(level.size_wh for level in levels),
        objective_power=power,
        mpp_candidates=candidates,
    )


FORMAT = SlideFormat(open_slide_file)
"""As the registry names it."""
