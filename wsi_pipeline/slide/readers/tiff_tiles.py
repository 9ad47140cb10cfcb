"""Pages of a TIFF file -> tiles of 8-bit RGB, read at their place in the file.

Knows one level: where its tiles lie, how to decode them, what their samples mean. Levels and
regions are not known here, and no state is shared between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers.base import WHITE, NotBrightfieldError, composite_on_white
from wsi_pipeline.slide.readers.tiff_codecs import Decode, JpegDecoder, segment_decoder

MAX_TILE_BYTES = 1 << 28
"""Largest decoded tile or strip, bytes; images in larger pieces cannot be read in little memory."""

_SLACK_BYTES = 1 << 16
"""What a coded tile may have besides twice its pixels; no coder makes noise larger than that."""

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

_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)

HOW_TO_CONVERT = "convert it to 8-bit RGB first, such as by 'vips colourspace IN OUT.tif srgb'"


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledPage:
    """The tiles of one level. A strip counts as a tile as wide as the page.

    Attributes
    ----------
    size_wh, tile_wh : tuple of int
        Size of the page and of its tiles, px.
    planes : int
        1 where a tile holds all colours, else the number of colour planes stored apart.
    samples : int
        Values per pixel; what follows red, green and blue is left out unless it is alpha.
    bits : int
        8, or the bits of 16-bit samples that are used.
    offsets, byte_counts : tuple of int
        Place of each tile in the file, row-major, plane by plane; a count of 0 is a missing tile.
    decoder : callable
        Decodes the bytes of the tile with a given index.
    alpha : bool
        Whether the fourth sample is declared to be alpha.
    premultiplied : bool
        Whether colours are stored multiplied by alpha.
    """

    size_wh: tuple[int, int]
    tile_wh: tuple[int, int]
    planes: int
    samples: int
    bits: int
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    decoder: Decode
    alpha: bool
    premultiplied: bool

    @property
    def grid_wh(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        (width, height), (tile_width, tile_height) = self.size_wh, self.tile_wh
        return -(-width // tile_width), -(-height // tile_height)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a decoded tile, 8-bit RGB."""
        return self.tile_wh[0] * self.tile_wh[1] * 3

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
        planes = [
            self._decode_segment(column, row, plane * columns * rows, read_at)
            for plane in range(self.planes)
        ]
        present = [plane for plane in planes if plane is not None]
        if len(present) < len(planes):
            return None
        tile = present[0] if len(present) == 1 else np.concatenate(present, axis=-1)
        if tile.dtype == np.uint16:
            tile = _to_bytes(self.bits)[tile]
        return self._flatten(np.asarray(tile, dtype=np.uint8))

    def decode_into(
        self,
        column: int,
        row: int,
        read_at: Callable[[int, int], bytes],
        pixels: NDArray[np.uint8],
    ) -> bool:
        """Decode a whole tile to where it is wanted, if it is there.

        Parameters
        ----------
        column, row, read_at
            As :meth:`decode` takes them.
        pixels : ndarray of the shape of a tile, uint8
            Receives RGB.

        Returns
        -------
        bool
            Whether the tile is there; if not, ``pixels`` are as they were.
        """
        index = row * self.grid_wh[0] + column
        count = self.byte_counts[index]
        whole = self.planes == 1 and self.samples == 3 and pixels.flags.c_contiguous
        if whole and count and self.offsets[index] and isinstance(self.decoder, JpegDecoder):
            self.decoder.decode_into(read_at(self.offsets[index], count), pixels)
            return True
        tile = self.decode(column, row, read_at)
        if tile is None:
            return False
        pixels[...] = tile[: len(pixels), : pixels.shape[1]]
        return True

    def _decode_segment(
        self, column: int, row: int, before: int, read_at: Callable[[int, int], bytes]
    ) -> NDArray[Any] | None:
        index = before + row * self.grid_wh[0] + column
        offset, count = self.offsets[index], self.byte_counts[index]
        if not offset or not count:
            return None
        if count > 4 * self.tile_bytes + _SLACK_BYTES:
            raise ValueError(f"it is said to take {count} bytes, more than its pixels would")
        segment = self.decoder(read_at(offset, count), index)
        (width, height), (tile_width, tile_height) = self.size_wh, self.tile_wh
        needed = (
            min(tile_height, height - row * tile_height),
            min(tile_width, width - column * tile_width),
            self.samples // self.planes,
        )
        if segment.ndim != 3 or any(
            have < need for have, need in zip(segment.shape, needed, strict=True)
        ):
            raise ValueError(f"it holds {segment.shape} values where {needed} are due")
        return segment

    def _flatten(self, tile: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if tile.shape[-1] == 3:
            return tile
        if not self.alpha:
            return tile[..., :3]
        if self.premultiplied:
            # what alpha holds back is white: c + (255 - a), without a division
            lifted = tile[..., :3] + (255 - tile[..., 3:4].astype(np.uint16))
            return np.asarray(np.minimum(lifted, WHITE), dtype=np.uint8)
        pixels = np.empty((*tile.shape[:2], 3), dtype=np.uint8)
        composite_on_white(tile[..., :4], pixels)
        return pixels


def require_brightfield(pages: Sequence[tifffile.TiffPage], path: Path) -> None:
    """Refuse an image that is not colour.

    Parameters
    ----------
    pages : sequence of TiffPage
        The page of the image, or one for each of red, green and blue.
    path : Path
        The file, for the message.

    Raises
    ------
    NotBrightfieldError
        If it is grey, of other than 8 or 16 bits, or of channels that are not red, green and blue.
    """
    found = _not_colour(pages[0], is_channel=len(pages) > 1)
    if found:
        raise NotBrightfieldError(f"{path} is {found}", path=path)


def tiled_page(
    pages: Sequence[tifffile.TiffPage], path: Path, significant_bits: int = 0
) -> TiledPage:
    """Prepare the tiles of a level for reading.

    Parameters
    ----------
    pages : sequence of TiffPage
        The page of the level, or one for each of red, green and blue; their file may be closed
        afterwards.
    path : Path
        The file, for messages.
    significant_bits : int
        Bits of each sample that are used, where the file states them; 0 means all.

    Returns
    -------
    TiledPage
        The tiles.

    Raises
    ------
    UnsupportedSlideError
        If it is compressed or laid out in a way that cannot be decoded here.
    SlideReadError
        If it does not list the tiles it must have.
    """
    page = pages[0]
    for each in pages:
        _require_decodable(each, is_channel=len(pages) > 1)
        _require_small_tiles(each)
        require_all_tiles(each, path)
    is_planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and len(pages) == 1
    extra = page.extrasamples[:1] if len(pages) == 1 else ()
    return TiledPage(
        size_wh=(page.imagewidth, page.imagelength),
        tile_wh=piece_wh(page),
        planes=page.samplesperpixel if is_planar else len(pages),
        samples=max(page.samplesperpixel, len(pages)),
        bits=8 if page.dtype == np.uint8 else significant_bits or page.bitspersample,
        offsets=tuple(offset for each in pages for offset in each.dataoffsets),
        byte_counts=tuple(count for each in pages for count in each.databytecounts),
        decoder=_joined_decoder(pages),
        alpha=bool(extra) and extra[0] in _ALPHA,
        premultiplied=extra == (tifffile.EXTRASAMPLE.ASSOCALPHA,),
    )


def piece_wh(page: tifffile.TiffPage) -> tuple[int, int]:
    """Width and height of the tiles of a page, or of its strips, px."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def require_all_tiles(page: tifffile.TiffPage, path: Path) -> None:
    """Refuse a page whose size and list of tiles contradict each other.

    Parameters
    ----------
    page : TiffPage
        The page.
    path : Path
        The file, for the message.

    Raises
    ------
    SlideReadError
        If it does: one of the two is damaged, and nothing tells which.
    """
    width, height = piece_wh(page)
    size = f"a page of {page.imagewidth} x {page.imagelength} px in pieces of {width} x {height} px"
    if min(width, height, page.imagewidth, page.imagelength) < 1:
        raise SlideReadError(f"{path} has {size}; the file is damaged, copy it again", path=path)
    columns, rows = -(-page.imagewidth // width), -(-page.imagelength // height)
    is_planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    expected = columns * rows * (page.samplesperpixel if is_planar else 1)
    if len(page.dataoffsets) != expected or len(page.databytecounts) != expected:
        raise SlideReadError(
            f"{path} has {size}, and lists {len(page.dataoffsets)} of them where {expected} are "
            f"due; the file is damaged, copy it again",
            path=path,
        )


def _joined_decoder(pages: Sequence[tifffile.TiffPage]) -> Decode:
    """Decode the tiles of several pages, counted through, as if they were planes of one."""
    decoders = [segment_decoder(page, piece_wh(page)) for page in pages]
    if len(decoders) == 1:
        return decoders[0]
    count = len(pages[0].dataoffsets)
    return lambda data, index: decoders[index // count](data, index % count)


@cache
def _to_bytes(bits: int) -> NDArray[np.uint8]:
    """Table from 16-bit values, of which ``bits`` are used, to bytes."""
    top = (1 << bits) - 1
    values = np.minimum(np.arange(1 << 16, dtype=np.uint32), top)
    return ((values * WHITE + top // 2) // top).astype(np.uint8)


def _not_colour(page: tifffile.TiffPage, *, is_channel: bool) -> str:
    """Say what a page is where it is no colour image, and what to do; empty where it is one."""
    if page.dtype not in (np.uint8, np.uint16) or page.bitspersample < 8:
        return (
            f"an image of type {page.dtype} ({page.bitspersample} bit); colours of 8 or 16 bits "
            f"are read. If it is a stained slide, {HOW_TO_CONVERT}"
        )
    colours = page.samplesperpixel - len(page.extrasamples)
    is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
    if is_channel or is_palette or colours in (3, 4):
        return ""
    kind = "greyscale" if page.samplesperpixel == 1 else f"of {page.samplesperpixel} channels"
    return (
        f"{kind}, not RGB: fluorescence, a mask or a map has no stains to separate; leave it out. "
        f"If its channels are the red, green and blue of a stained slide, name them so in its "
        f"OME-XML, or {HOW_TO_CONVERT}"
    )


def _require_decodable(page: tifffile.TiffPage, *, is_channel: bool) -> None:
    if page.compression not in _COMPRESSIONS:
        raise UnsupportedSlideError(f"compression {page.compression!r} is not decoded directly")
    is_jpeg = page.compression == tifffile.COMPRESSION.JPEG
    if is_channel:
        if page.samplesperpixel != 1 or (is_jpeg and page.bitspersample != 8):
            raise UnsupportedSlideError("channels of several samples are not decoded directly")
        return
    is_rgb = page.photometric == tifffile.PHOTOMETRIC.RGB
    is_jpeg_ycc = is_jpeg and page.photometric == tifffile.PHOTOMETRIC.YCBCR
    if not is_rgb and not is_jpeg_ycc:
        raise UnsupportedSlideError(
            f"colours of kind {page.photometric!r} are not decoded directly"
        )
    is_planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    if page.samplesperpixel < 3 or (
        is_jpeg
        and (
            (page.samplesperpixel > 3 and not is_planar)
            or (is_planar and is_jpeg_ycc)
            or page.bitspersample != 8
        )
    ):
        raise UnsupportedSlideError(
            f"{page.samplesperpixel} samples of {page.bitspersample} bit per pixel with "
            f"{page.compression!r} are not decoded directly"
        )


def _require_small_tiles(page: tifffile.TiffPage) -> None:
    width, height = piece_wh(page)
    if width * height * 3 > MAX_TILE_BYTES:
        raise UnsupportedSlideError(
            f"stored in pieces of {width} x {height} px, which cannot be read in little memory; "
            f"convert it to a tiled TIFF, such as by 'vips tiffsave IN OUT.tif --tile --pyramid'"
        )
