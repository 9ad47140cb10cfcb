"""Compressed bytes of one tile -> its pixels, or an error where the bytes are not all there.

Decoders forgive: a JPEG that ends half way is filled with grey, a JPEG 2000 stream with blur. Here
what a decoder would have to make up is an error. Where tiles lie is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import imagecodecs
import numpy as np
import simplejpeg
import tifffile
from numpy.typing import NDArray
from tifffile.tifffile import jpeg_decode_colorspace

from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.slide.memory import room_for

Decode = Callable[[bytes, int], NDArray[np.uint8] | NDArray[np.uint16]]
"""Turns the bytes of the tile with a given index into an array of shape (h, w, samples)."""

_START, _END = b"\xff\xd8", b"\xff\xd9"
"""Begin and end of a JPEG image; a JPEG 2000 codestream ends with the same bytes."""

_CODESTREAM, _TILE_PART = b"\xff\x4f\xff\x51", b"\xff\x90\x00\x0a"
"""How a JPEG 2000 codestream and each of its tile-parts begin."""

_LZW_CLEAR = 0x80
"""First byte of an LZW stream: the upper bits of code 256, of 9 bits."""

_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Marker that says the three components are red, green and blue, not luminance and chroma."""

_EMPTY_TAIL_BYTES = 32
"""A coded tile that ends in so many zeros was never written to its end: what arithmetic coders
write of a blank tile is hardly longer, and not zero."""

_ARITHMETIC = frozenset(
    {
        tifffile.COMPRESSION.APERIO_JP2000_RGB,
        tifffile.COMPRESSION.JPEG2000,
        tifffile.COMPRESSION.WEBP,
    }
)
_JPEG2000 = _ARITHMETIC - {tifffile.COMPRESSION.WEBP}


@dataclass(frozen=True, slots=True)
class JpegDecoder:
    """Decodes JPEG tiles of one page; what libjpeg would only warn of is an error.

    Attributes
    ----------
    prefix : bytes
        What stands in place of the first marker of each tile: that marker, the colours where the
        page declares them, and the tables that the tiles share.
    colours : str
        Colours asked for, as simplejpeg names them.
    shape : tuple of int
        Rows, columns and samples of a tile; one of more pixels is an error, and takes no memory.
    """

    prefix: bytes
    colours: str
    shape: tuple[int, int, int]

    def __call__(self, data: bytes, _index: int) -> NDArray[np.uint8]:
        """Decode a tile to an array of shape (h, w, 3 or 1); at the border it may be smaller."""
        return self._decode(self._complete(data), room_for(self.shape))

    def decode_into(self, data: bytes, pixels: NDArray[np.uint8]) -> None:
        """Decode a tile to where it is wanted, a contiguous array of its shape."""
        decoded = self._decode(self._complete(data), pixels)
        if decoded.shape != pixels.shape:
            raise ValueError(f"it holds {decoded.shape[1]} x {decoded.shape[0]} px")

    def _decode(self, jpeg: bytes, room: NDArray[np.uint8]) -> NDArray[np.uint8]:
        try:
            decoded = simplejpeg.decode_jpeg(jpeg, self.colours, buffer=room)
        except ValueError:
            if _has_known_header(jpeg):
                raise
            # uncommon ratios of chroma, which TurboJPEG does not know; or damage, told in words
            decoded = imagecodecs.jpeg8_decode(jpeg, outcolorspace=self.colours, out=room)
        return np.asarray(decoded, dtype=np.uint8)

    def _complete(self, data: bytes) -> bytes:
        if not data.startswith(_START):
            raise ValueError("it does not begin as a JPEG image")
        return self.prefix + data[len(_START) :]


def _has_known_header(jpeg: bytes) -> bool:
    try:
        simplejpeg.decode_jpeg_header(jpeg)
    except ValueError:
        return False
    return True


def jpeg_decoder(page: tifffile.TiffPage, tile_wh: tuple[int, int]) -> JpegDecoder:
    """Prepare the decoding of a page's JPEG tiles.

    Parameters
    ----------
    page : tifffile.TiffPage
        A page of 8-bit JPEG tiles, colour or one plane of it.
    tile_wh : tuple of int
        Width and height of its tiles or strips, px.

    Returns
    -------
    JpegDecoder
        The decoder.

    Raises
    ------
    UnsupportedSlideError
        If its tables are no JPEG.
    """
    tables = page.jpegtables or b""
    if tables and not (tables.startswith(_START) and _END in tables):
        raise UnsupportedSlideError("the JPEG tables of its tiles are damaged")
    colourspace, _ = jpeg_decode_colorspace(
        page.photometric, page.planarconfig, page.extrasamples, page.is_jfif
    )
    is_rgb = colourspace == tifffile.PHOTOMETRIC.RGB
    shared = tables[len(_START) : tables.rindex(_END)] if tables else b""
    is_colour = page.planarconfig == tifffile.PLANARCONFIG.CONTIG and page.samplesperpixel > 1
    return JpegDecoder(
        prefix=_START + (_ADOBE_RGB if is_rgb and is_colour else b"") + shared,
        colours="RGB" if is_colour else "GRAY",
        shape=(tile_wh[1], tile_wh[0], 3 if is_colour else 1),
    )


def segment_decoder(page: tifffile.TiffPage, tile_wh: tuple[int, int]) -> Decode:
    """Prepare the decoding of a page's tiles or strips, whatever their compression.

    Parameters
    ----------
    page : tifffile.TiffPage
        The page; its file may be closed afterwards.
    tile_wh : tuple of int
        Width and height of its tiles or strips, px.

    Returns
    -------
    callable
        Takes the bytes of a tile and its index. Raises what decoders raise where the bytes are
        damaged or end early.
    """
    if page.compression == tifffile.COMPRESSION.JPEG:
        return jpeg_decoder(page, tile_wh)
    decoder, compression = page.decode, page.compression

    def decode(data: bytes, index: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
        if compression in _ARITHMETIC:
            require_complete(data, tile_wh, is_jpeg2000=compression in _JPEG2000)
        elif compression == tifffile.COMPRESSION.LZW:
            _require_lzw(data)
        segment, _, _ = decoder(data, index)
        if segment is None:
            raise ValueError("it is empty")
        return np.asarray(segment[0])

    return decode


def require_complete(data: bytes, tile_wh: tuple[int, int], *, is_jpeg2000: bool) -> None:
    """Refuse a tile whose decoder would not notice that its end is missing, or fill the memory.

    Raises
    ------
    ValueError
        If the coded bytes end before the picture does, or the picture is larger than its tile.
    """
    if is_jpeg2000:
        _require_size(data, tile_wh)
        if data.rstrip(b"\0").endswith(_END):
            return
        _require_whole_tile_parts(data)
    elif data.endswith(bytes(_EMPTY_TAIL_BYTES)):
        raise ValueError("its last bytes were never written")


def _require_lzw(data: bytes) -> None:
    """Refuse a stream that does not begin by clearing the table: the decoder can die of it."""
    if len(data) < 2 or data[0] != _LZW_CLEAR or data[1] >= _LZW_CLEAR:
        raise ValueError("its LZW stream does not begin as one")


def _require_size(data: bytes, tile_wh: tuple[int, int]) -> None:
    """Read the size that a codestream states in its second marker."""
    place = data.find(_CODESTREAM)
    size = data[place + 8 : place + 16]
    if place < 0 or len(size) < 8:
        raise ValueError("it does not begin as a JPEG 2000 stream")
    wh = int.from_bytes(size[:4], "big"), int.from_bytes(size[4:], "big")
    if wh[0] > tile_wh[0] or wh[1] > tile_wh[1]:
        raise ValueError(f"it holds {wh[0]} x {wh[1]} px")


def _require_whole_tile_parts(data: bytes) -> None:
    """Follow the lengths of a codestream's tile-parts, where the marker of its end is missing.

    Some writers leave that marker out; then the last part ends with the data.
    """
    place = data.find(_TILE_PART)
    while place >= 0 and data.startswith(_TILE_PART, place):
        length = int.from_bytes(data[place + 6 : place + 10], "big")
        place = place + length if length else len(data)
    if place != len(data):
        raise ValueError(f"its JPEG 2000 stream of {len(data)} bytes has no end")
