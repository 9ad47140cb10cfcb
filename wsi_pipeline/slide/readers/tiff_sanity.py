"""The header of a TIFF file -> an error where it asks a library for what no slide has.

Libraries written in C believe headers: a tile of 2,147,483,647 px makes them ask for more memory
than there is, and end the process. Nothing is decoded here.
"""

from __future__ import annotations

import struct
from pathlib import Path

import tifffile

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slide.readers.tiff_metadata import vendor_with_own_logic
from wsi_pipeline.slide.readers.tiff_tiles import MAX_TILE_BYTES, piece_wh, require_all_tiles

MAX_SIDE_PX = 1 << 26
"""Longest side of an image, px: 17 m at 0.25 um/px."""

MAX_SAMPLES = 1 << 10

_MAGIC = (b"II\x2a\0", b"MM\0\x2a", b"II\x2b\0", b"MM\0\x2b")
_MALFORMED = (
    ValueError, ArithmeticError, LookupError, TypeError, AttributeError, MemoryError,
    RuntimeError, struct.error,
)  # fmt: skip


def require_sane_tiff(file: Path) -> bool:
    """Refuse a TIFF file whose header no slide can have; other files pass.

    Returns
    -------
    bool
        Whether this is a TIFF file whose header is all there is to it; not those of vendors that
        keep more beside it, in XML and in tables.

    Raises
    ------
    SlideReadError
        If sizes contradict the list of tiles, or are beyond any slide's.
    """
    with file.open("rb") as stream:
        if not stream.read(4).startswith(_MAGIC):
            return False
    try:
        with tifffile.TiffFile(file) as tif:
            first = tif.pages.first
            seen: set[int] = set()
            for page in tif.pages:
                if page.offset in seen:
                    raise _damaged(file, "pages that form a ring")
                seen.add(page.offset)
                if isinstance(page, tifffile.TiffPage):
                    _require_sane(page, file)
            return not vendor_with_own_logic(first)
    except SlideReadError:
        raise
    except _MALFORMED as error:
        raise _damaged(file, f"a header that cannot be read ({error})") from error


def _require_sane(page: tifffile.TiffPage, file: Path) -> None:
    size = page.imagewidth, page.imagelength
    if not (0 < min(size) <= max(size) <= MAX_SIDE_PX):
        raise _damaged(file, f"a page of {size[0]} x {size[1]} px")
    if not 0 < page.samplesperpixel <= MAX_SAMPLES:
        raise _damaged(file, f"a page of {page.samplesperpixel} samples per pixel")
    if page.is_tiled:
        width, height = piece_wh(page)
        if width * height * 4 > MAX_TILE_BYTES:
            raise _damaged(file, f"tiles of {width} x {height} px")
        require_all_tiles(page, file)


def _damaged(file: Path, what: str) -> SlideReadError:
    return SlideReadError(f"{file} has {what}; the file is damaged, copy it again", path=file)
