"""Compressed tiles of a TIFF page -> RGB tiles, read at their place in the file.

Knows one page: where its tiles lie and how to decode them. Neither levels nor regions are known
here, and no state is shared between threads but the cache, which locks.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile.tifffile import jpeg_decode_colorspace

from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.slide.readers.base import WHITE, NotBrightfieldError, composite_on_white

MAX_TILE_BYTES = 1 << 28
"""Largest decoded tile or strip, bytes; images in larger pieces cannot be read in little memory."""

_DECODING_LOCKS = 64
"""More than threads that read one slide, so that two of them seldom wait for different tiles."""

_COMPRESSIONS = frozenset(
    {
        tifffile.COMPRESSION.NONE,
        tifffile.COMPRESSION.LZW,
        tifffile.COMPRESSION.JPEG,
        tifffile.COMPRESSION.ADOBE_DEFLATE,
        tifffile.COMPRESSION.DEFLATE,
        tifffile.COMPRESSION.PACKBITS,
        tifffile.COMPRESSION.APERIO_JP2000_RGB,
        tifffile.COMPRESSION.JPEG2000,
        tifffile.COMPRESSION.ZSTD,
        tifffile.COMPRESSION.WEBP,
        tifffile.COMPRESSION.LZMA,
    }
)
"""Compressions decoded here. Aperio's 33003 is left out: its chroma may be subsampled, which the
JPEG 2000 codec at hand does not undo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledPage:
    """The tiles of one page. A strip counts as a tile as wide as the page.

    Attributes
    ----------
    size_wh, tile_wh : tuple of int
        Size of the page and of its tiles, px.
    planes : int
        1 where a tile holds all colours, else the number of colour planes stored apart.
    offsets, byte_counts : tuple of int
        Place of each tile in the file, row-major, plane by plane; a count of 0 is a missing tile.
    decoder : callable
        Decodes the bytes of the tile with a given index.
    jpeg : callable or None
        Decodes the bytes of a JPEG tile of RGB into the array given as ``out``.
    tables : bytes or None
        JPEG tables common to the tiles.
    premultiplied : bool
        Whether colours are stored multiplied by alpha.
    """

    size_wh: tuple[int, int]
    tile_wh: tuple[int, int]
    planes: int
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    decoder: Callable[..., Any]
    jpeg: Callable[..., Any] | None
    tables: bytes | None
    premultiplied: bool

    @property
    def grid_wh(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        (width, height), (tile_width, tile_height) = self.size_wh, self.tile_wh
        return -(-width // tile_width), -(-height // tile_height)

    def decode(
        self, column: int, row: int, read_at: Callable[[int, int], bytes]
    ) -> NDArray[np.uint8] | None:
        """Decode a tile.

        Parameters
        ----------
        column, row : int
            Place of the tile in the grid.
        read_at : callable
            Returns the bytes at an offset, given their count.

        Returns
        -------
        ndarray of shape (h, w, 3), uint8, or None
            RGB, at least as large as the part of the tile that lies in the page; None where the
            tile is missing.
        """
        columns, rows = self.grid_wh
        first = row * columns + column
        planes = [
            self._decode_segment(first + plane * columns * rows, read_at)
            for plane in range(self.planes)
        ]
        present = [plane for plane in planes if plane is not None]
        if len(present) < len(planes):
            return None
        tile = present[0] if len(present) == 1 else np.concatenate(present, axis=-1)
        return tile if tile.shape[-1] == 3 else self._flatten(tile)

    def decode_into(
        self,
        column: int,
        row: int,
        read_at: Callable[[int, int], bytes],
        pixels: NDArray[np.uint8],
    ) -> None:
        """Decode a whole tile to where it is wanted.

        Parameters
        ----------
        column, row, read_at
            As :meth:`decode` takes them.
        pixels : ndarray of the shape of a tile, uint8
            Receives RGB, white where the tile is missing.
        """
        index = row * self.grid_wh[0] + column
        count = self.byte_counts[index]
        if self.jpeg is not None and pixels.flags.c_contiguous and count:
            self.jpeg(read_at(self.offsets[index], count), out=pixels)
            return
        tile = self.decode(column, row, read_at)
        pixels[...] = WHITE if tile is None else tile[: len(pixels), : pixels.shape[1]]

    def _decode_segment(
        self, index: int, read_at: Callable[[int, int], bytes]
    ) -> NDArray[np.uint8] | None:
        offset, count = self.offsets[index], self.byte_counts[index]
        if not offset or not count:
            return None
        segment, _, _ = self.decoder(read_at(offset, count), index, jpegtables=self.tables)
        return np.asarray(segment[0], dtype=np.uint8)

    def _flatten(self, rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.premultiplied:
            # what alpha holds back is white: c + (255 - a), without a division
            lifted = rgba[..., :3] + (255 - rgba[..., 3:].astype(np.uint16))
            return np.asarray(np.minimum(lifted, 255), dtype=np.uint8)
        pixels = np.empty((*rgba.shape[:2], 3), dtype=np.uint8)
        composite_on_white(rgba, pixels)
        return pixels


TileKey = tuple[int, int, int]
"""Level, column and row of a tile."""


class TileCache:
    """The decoded tiles used last, within a limit of bytes; safe to share between threads.

    Patches rarely align with stored tiles, so neighbours need the same ones, often at the same
    moment: a tile that one thread decodes is waited for by the others, not decoded again.

    Parameters
    ----------
    max_bytes : int
        Most bytes kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: OrderedDict[TileKey, NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = tuple(threading.Lock() for _ in range(_DECODING_LOCKS))

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return self._bytes

    def get(
        self, key: TileKey, decode: Callable[[TileKey], NDArray[np.uint8] | None]
    ) -> NDArray[np.uint8] | None:
        """Return a tile, decoding it if it is not kept.

        Parameters
        ----------
        key : tuple of int
            Level, column and row.
        decode : callable
            Returns the tile of a key, or None where it is missing.

        Returns
        -------
        ndarray of shape (h, w, 3), uint8, or None
            The tile, shared with others: not to be written to.
        """
        tile = self._find(key)
        if tile is not None:
            return tile
        with self._decoding[hash(key) % _DECODING_LOCKS]:
            tile = self._find(key)
            if tile is None:
                tile = decode(key)
                if tile is not None:
                    self._keep(key, tile)
        return tile

    def clear(self) -> None:
        """Drop every tile."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0

    def _find(self, key: TileKey) -> NDArray[np.uint8] | None:
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def _keep(self, key: TileKey, tile: NDArray[np.uint8]) -> None:
        if tile.nbytes > self._max_bytes:
            return
        with self._lock:
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._max_bytes:
                _, dropped = self._tiles.popitem(last=False)
                self._bytes -= dropped.nbytes


def require_brightfield(page: tifffile.TiffPage, path: Path) -> None:
    """Refuse a page that is not 8-bit colour.

    Raises
    ------
    NotBrightfieldError
        If it is grey, deeper than 8 bit or of other than 3 channels (4 with alpha).
    """
    found = _not_colour(page)
    if found:
        raise NotBrightfieldError(
            f"{path} is {found}, not 8-bit RGB: it looks like fluorescence, a "
            f"mask or a map, which cannot be separated into stains; leave it out",
            path=path,
        )


def tiled_page(page: tifffile.TiffPage) -> TiledPage:
    """Prepare the tiles of a page for reading.

    Parameters
    ----------
    page : tifffile.TiffPage
        A page of 8-bit colour; its file may be closed afterwards.

    Returns
    -------
    TiledPage
        The tiles.

    Raises
    ------
    UnsupportedSlideError
        If it is compressed or laid out in a way that cannot be decoded here.
    """
    _require_decodable(page)
    tile_wh = (
        (page.tilewidth, page.tilelength)
        if page.is_tiled
        else (page.imagewidth, min(page.rowsperstrip, page.imagelength))
    )
    is_planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    tiles = TiledPage(
        size_wh=(page.imagewidth, page.imagelength),
        tile_wh=tile_wh,
        planes=page.samplesperpixel if is_planar else 1,
        offsets=tuple(page.dataoffsets),
        byte_counts=tuple(page.databytecounts),
        decoder=page.decode,
        jpeg=_jpeg_decoder(page),
        tables=page.jpegtables,
        premultiplied=page.extrasamples == (tifffile.EXTRASAMPLE.ASSOCALPHA,),
    )
    _require_small_tiles(tiles)
    _require_all_tiles_listed(tiles)
    return tiles


def _jpeg_decoder(page: tifffile.TiffPage) -> Callable[..., Any] | None:
    """Return what decodes whole tiles of JPEG without a copy; None for other pages."""
    is_interleaved = page.planarconfig == tifffile.PLANARCONFIG.CONTIG
    if page.compression != tifffile.COMPRESSION.JPEG or not is_interleaved or not page.is_tiled:
        return None
    colorspace, outcolorspace = jpeg_decode_colorspace(
        page.photometric, page.planarconfig, page.extrasamples, page.is_jfif
    )
    return partial(
        imagecodecs.jpeg8_decode,
        tables=page.jpegtables,
        colorspace=colorspace,
        outcolorspace=outcolorspace,
    )


def _not_colour(page: tifffile.TiffPage) -> str:
    """Say what a page is where it is not 8-bit colour; empty where it is."""
    if page.dtype != np.uint8 or page.bitspersample != 8:
        return f"an image of type {page.dtype} ({page.bitspersample} bit)"
    alphas = len(page.extrasamples)
    colours = page.samplesperpixel - alphas
    is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
    if is_palette or (colours in (3, 4) and alphas <= 1):
        return ""
    return "greyscale" if page.samplesperpixel == 1 else f"of {page.samplesperpixel} channels"


def _require_decodable(page: tifffile.TiffPage) -> None:
    if page.compression not in _COMPRESSIONS:
        raise UnsupportedSlideError(f"compression {page.compression!r} is not decoded directly")
    is_jpeg = page.compression == tifffile.COMPRESSION.JPEG
    is_rgb = page.photometric == tifffile.PHOTOMETRIC.RGB
    is_jpeg_ycc = is_jpeg and page.photometric == tifffile.PHOTOMETRIC.YCBCR
    if not is_rgb and not is_jpeg_ycc:
        raise UnsupportedSlideError(
            f"colours of kind {page.photometric!r} are not decoded directly"
        )
    is_planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    if page.samplesperpixel not in (3, 4) or (
        is_jpeg and (page.samplesperpixel == 4 or (is_planar and is_jpeg_ycc))
    ):
        raise UnsupportedSlideError(
            f"{page.samplesperpixel} samples per pixel with {page.compression!r} are not decoded "
            f"directly"
        )


def _require_small_tiles(tiles: TiledPage) -> None:
    width, height = tiles.tile_wh
    if width * height * 3 > MAX_TILE_BYTES:
        raise UnsupportedSlideError(
            f"stored in pieces of {width} x {height} px, which cannot be read in little memory; "
            f"convert it to a tiled TIFF"
        )


def _require_all_tiles_listed(tiles: TiledPage) -> None:
    columns, rows = tiles.grid_wh
    expected = columns * rows * tiles.planes
    if len(tiles.offsets) != expected or len(tiles.byte_counts) != expected:
        raise UnsupportedSlideError(
            f"lists {len(tiles.offsets)} tiles where {expected} are due; the file is damaged"
        )
