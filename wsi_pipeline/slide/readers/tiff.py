"""Tiled TIFF, SVS and OME-TIFF files -> RGB levels, by decoding their tiles straight from the file.

Finds the pages that form the pyramid and pastes decoded tiles together. Formats whose tiles need
vendor logic (overlaps, restart markers, gaps) are refused, for OpenSlide to read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tifffile

from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers.base import WHITE, Reader, SlideHeader
from wsi_pipeline.slide.readers.resolution import (
    MppCandidate,
    aperio_fields,
    from_objective,
    from_ome,
    from_tiff_tags,
    positive,
)
from wsi_pipeline.slide.readers.tiff_tiles import (
    TileCache,
    TiledPage,
    TileKey,
    require_brightfield,
    tiled_page,
)
from wsi_pipeline.types import MppSource

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CACHE_BYTES = 1 << 27
"""Decoded tiles kept per slide: a row of 256-px tiles of a slide 170,000 px wide."""

_MALFORMED = (
    ValueError, ArithmeticError, LookupError, TypeError, AttributeError, struct.error,
)  # fmt: skip
"""What tifffile raises on broken structure (its own error is a ValueError)."""

_UNDECODABLE = (RuntimeError, ValueError, IndexError, TypeError, struct.error)
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
        self._cache = TileCache(CACHE_BYTES)
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._bytes = os.fstat(self._file).st_size

    def _fill(self, level: int, xy: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        tile_width, tile_height = self._levels[level].tile_wh
        (x, y), right, bottom = xy, xy[0] + width, xy[1] + height
        if (width, height) == (tile_width, tile_height) and not (x % width or y % height):
            # one whole tile: no neighbour will ask for it again, so it displaces no other
            self._decode_into((level, x // width, y // height), pixels)
            return
        # right to left: threads that read neighbouring patches in reading order then begin with
        # tiles of their own, and find the shared ones on their left already decoded
        for column in reversed(range(x // tile_width, -(-right // tile_width))):
            for row in range(y // tile_height, -(-bottom // tile_height)):
                tile = self._cache.get((level, column, row), self._decode)
                left, top = column * tile_width, row * tile_height
                x0, x1 = max(left, x), min(left + tile_width, right)
                y0, y1 = max(top, y), min(top + tile_height, bottom)
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = (
                    WHITE if tile is None else tile[y0 - top : y1 - top, x0 - left : x1 - left]
                )

    def _decode(self, key: TileKey) -> NDArray[np.uint8] | None:
        level, column, row = key
        with self._naming(key):
            return self._levels[level].decode(column, row, self._read_at)

    def _decode_into(self, key: TileKey, pixels: NDArray[np.uint8]) -> None:
        level, column, row = key
        with self._naming(key):
            self._levels[level].decode_into(column, row, self._read_at, pixels)

    @contextmanager
    def _naming(self, key: TileKey) -> Iterator[None]:
        """Name the tile that cannot be decoded."""
        level, column, row = key
        try:
            yield
        except _UNDECODABLE as error:
            raise SlideReadError(
                f"{self.path} has a damaged tile at level {level}, column {column}, row {row} "
                f"({error}); copy the file again",
                path=self.path,
            ) from error

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
        If it holds no 8-bit colour image.
    """
    if path.is_dir():
        raise UnsupportedSlideError("a folder is no TIFF file", path=path)
    try:
        with tifffile.TiffFile(path) as tif:
            pages = _pages(tif)
            base = _base_page(pages, path)
            levels = tuple(tiled_page(page) for page in _pyramid(base, pages))
            header = _header(base, levels)
    except _MALFORMED as error:
        raise UnsupportedSlideError(f"not a readable TIFF file ({error})", path=path) from error
    return TiffReader(path, header, levels)


def _pages(tif: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    """List the pages; tifffile itself follows a chain that a damaged file closes to a ring."""
    pages: dict[int, tifffile.TiffPage] = {}
    for page in tif.pages:
        if page.offset in pages:
            raise UnsupportedSlideError("its pages form a ring; the file is damaged")
        if isinstance(page, tifffile.TiffPage):
            pages[page.offset] = page
    return list(pages.values())


def _base_page(pages: list[tifffile.TiffPage], path: Path) -> tifffile.TiffPage:
    """Find the page of level 0: the largest image, which labels and overviews never are."""
    if not pages:
        raise UnsupportedSlideError("the file holds no image")
    base = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    vendor = _vendor_with_own_logic(pages[0])
    if vendor:
        raise UnsupportedSlideError(f"{vendor} files are left to OpenSlide")
    require_brightfield(base, path)
    return base


def _vendor_with_own_logic(page: tifffile.TiffPage) -> str:
    """Name the vendor whose tiles overlap, leave gaps or are cut by restart markers, if any."""
    if page.is_ndpi:
        return "Hamamatsu NDPI"
    if page.is_scn:
        return "Leica SCN"
    if page.is_philips:
        return "Philips"
    if page.is_bif or b"<iScan" in _xmp(page):
        return "Ventana BIF"
    return "Trestle" if page.software.startswith("MedScan") else ""


def _xmp(page: tifffile.TiffPage) -> bytes:
    value = page.tags.valueof("XMP", b"")
    return value if isinstance(value, bytes) else str(value).encode()


def _pyramid(
    base: tifffile.TiffPage, pages: list[tifffile.TiffPage]
) -> Iterator[tifffile.TiffPage]:
    """Yield the pages of the pyramid, finest first; one page per size."""
    yield base
    smallest = base.imagewidth
    for page in sorted(_reduced(base, pages), key=lambda page: page.imagewidth, reverse=True):
        if page.imagewidth < smallest and _is_level_of(page, base):
            smallest = page.imagewidth
            yield page


def _reduced(base: tifffile.TiffPage, pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """List the pages that may be levels: SubIFDs of the base, or the other pages of the file."""
    if base.subifds:
        return [page for page in base.pages or () if isinstance(page, tifffile.TiffPage)]
    # pages of an OME-TIFF without SubIFDs are other images, planes or scenes
    return [] if base.is_ome else [page for page in pages if page is not base]


def _is_level_of(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    """Whether a page shows what the base shows, smaller: tiled, coloured and of its proportions.

    Labels, overviews and the thumbnail of SVS files fail at least one.
    """
    width, height = page.imagewidth, page.imagelength
    same_kind = (page.samplesperpixel, page.dtype) == (base.samplesperpixel, base.dtype)
    if page.is_mask or page.is_tiled != base.is_tiled or not same_kind:
        return False
    by_width = base.imagelength * width / base.imagewidth
    by_height = base.imagewidth * height / base.imagelength
    off = min(abs(by_width - height) / height, abs(by_height - width) / width)
    # repeated halving with truncation moves a side by up to one pixel
    return off <= 0.01 or min(abs(by_width - height), abs(by_height - width)) <= 1


def _header(base: tifffile.TiffPage, levels: tuple[TiledPage, ...]) -> SlideHeader:
    vendor, stated, power = _stated(base)
    tags = from_tiff_tags(
        _ratio(base, "XResolution"),
        _ratio(base, "YResolution"),
        int(base.tags.valueof("ResolutionUnit", 2)),
    )
    return SlideHeader(
        vendor=vendor,
        level_sizes_wh=tuple(level.size_wh for level in levels),
        objective_power=power,
        mpp_candidates=(*stated, *tags, *from_objective(power)),
    )


def _stated(base: tifffile.TiffPage) -> tuple[str, tuple[MppCandidate, ...], float | None]:
    """Read the container, and the resolution and magnification in its own terms."""
    if base.is_svs:
        fields = aperio_fields(base.description)
        mpp = positive(fields.get("MPP"))
        vendor = () if mpp is None else (MppCandidate(MppSource.VENDOR, mpp, mpp),)
        return "aperio", vendor, positive(fields.get("AppMag"))
    if base.is_ome:
        stated, power = from_ome(base.description, (base.imagewidth, base.imagelength))
        return "ome-tiff", stated, power
    return "generic-tiff", (), None


def _ratio(page: tifffile.TiffPage, tag: str) -> float | None:
    """Read a rational tag; 0 in it, as some writers leave, states nothing."""
    numerator, denominator = page.tags.valueof(tag, (0, 0))
    return numerator / denominator if numerator and denominator else None
