"""Slides of every vendor OpenSlide knows, and plain PNG and JPEG images -> RGB levels.

Lets OpenSlide do vendor logic (stitching, bounds, missing tiles) and lays what is transparent on
white. Keeps OpenSlide's level-0 frame: regions that were not scanned are not cut away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers.base import (
    SMALL_PX,
    NotBrightfieldError,
    Reader,
    SlideHeader,
    composite_on_white,
)
from wsi_pipeline.slide.readers.dicom import image_of, series_member
from wsi_pipeline.slide.readers.openslide_probe import find_levels, probe
from wsi_pipeline.slide.readers.registry import SlideFormat
from wsi_pipeline.slide.readers.resolution import (
    MppCandidate,
    from_objective,
    from_tiff_tags,
    positive,
)
from wsi_pipeline.slide.readers.tiff import slide_wh
from wsi_pipeline.slide.readers.tiff_sanity import require_sane_tiff
from wsi_pipeline.types import MppSource

_IMAGE_FORMATS = ("PNG", "JPEG")
_IMAGE_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_MAGIC_BYTES = 8
_SIDES = ("width", "height")
_TIFF_UNITS = {"inch": 2, "centimeter": 3}


class OpenSlideReader(Reader):
    """A slide opened by OpenSlide.

    OpenSlide reads levels in level-0 coordinates. Where the downsample of a level is not a whole
    number, its pixels can lie a fraction of a pixel beside those stored.

    Parameters
    ----------
    path : Path
        The file.
    slide : openslide.OpenSlide or openslide.ImageSlide
        The open slide; closed with the reader.
    header : SlideHeader
        What it states.
    levels : tuple of int
        OpenSlide's number of each level.
    """

    name = "openslide"

    def __init__(
        self,
        path: Path,
        slide: openslide.AbstractSlide,
        header: SlideHeader,
        levels: tuple[int, ...] = (0,),
    ) -> None:
        super().__init__(path, header)
        self._slide = slide
        self._levels = levels
        # not asked for later: a handle that met an error tells nothing any more
        self._tiles_wh = [_tile_wh(slide.properties, level) for level in levels]

    def tile_wh(self, level: int) -> tuple[int, int]:
        """Return width and height of the tiles of a level, px, where OpenSlide tells."""
        return self._tiles_wh[level]

    def _fill(self, level: int, xy: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        downsample = self.level_downsamples[level]
        place = round(xy[0] * downsample), round(xy[1] * downsample)
        height, width = pixels.shape[:2]
        try:
            image = self._read(place, self._levels[level], (width, height))
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideReadError(
                f"{self.path} cannot be read at level {level}, ({xy[0]}, {xy[1]}): {error}; the "
                f"file is damaged or incomplete, copy it again, or leave such tiles out by "
                f"--damaged-tiles drop",
                path=self.path,
            ) from error
        composite_on_white(np.asarray(image), pixels)

    def _read(self, place: tuple[int, int], level: int, size_wh: tuple[int, int]) -> Image.Image:
        """Read a rectangle, with another handle where the one at hand is lost.

        After one error OpenSlide answers every call with it, so the error may be of another place.
        """
        try:
            return self._slide.read_region(place, level, size_wh)
        except openslide.OpenSlideError:
            fresh = openslide.OpenSlide(_file_of(self.path))
            image = fresh.read_region(place, level, size_wh)
        # other threads may still read with the old one, which closes when nobody does
        self._slide = fresh
        return image

    def _release(self) -> None:
        self._slide.close()


def open_slide_file(path: Path) -> OpenSlideReader:
    """Open a slide with OpenSlide, or a PNG or JPEG image as a slide of one level.

    Parameters
    ----------
    path : Path
        The file, or a folder holding one DICOM series.

    Returns
    -------
    OpenSlideReader
        The open slide.

    Raises
    ------
    UnsupportedSlideError
        If it is neither; says what OpenSlide said.
    """
    file = _file_of(path)
    if _is_image(file):
        return _open_image(path, file)
    is_plain_tiff = require_sane_tiff(file)
    levels = find_levels(file) if is_plain_tiff else probe(file)
    if not levels:
        raise UnsupportedSlideError(_unknown(file), path=path)
    try:
        slide = openslide.OpenSlide(file)
    except openslide.OpenSlideError as error:
        raise UnsupportedSlideError(f"OpenSlide refuses it ({error})", path=path) from error
    if is_plain_tiff:
        _require_the_slide(slide, file)
    properties = slide.properties
    header = SlideHeader(
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        level_sizes_wh=tuple(slide.level_dimensions[level] for level in levels),
        objective_power=positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        mpp_candidates=_mpp_candidates(properties),
        bounds_xy=_bounds_xy(properties),
        dicom=image_of(properties),
    )
    return OpenSlideReader(path, slide, header, levels)


def _file_of(path: Path) -> Path:
    return series_member(path) if path.is_dir() else path


def _require_the_slide(slide: openslide.OpenSlide, file: Path) -> None:
    """Refuse a TIFF file in which OpenSlide takes another image for level 0.

    It takes the first that is tiled, which can be a photograph of the glass or a reduced copy.
    """
    size = slide_wh(file)
    if size is None or size == slide.dimensions:
        return
    taken = slide.dimensions
    slide.close()
    raise UnsupportedSlideError(
        f"OpenSlide takes an image of {taken[0]} x {taken[1]} px for level 0, but the slide in "
        f"this file has {size[0]} x {size[1]} px: OpenSlide cannot read it; leave out --reader",
        path=file,
    )


def _unknown(file: Path) -> str:
    """Say what is wrong with a file of no known format, and what to do."""
    folder = file.with_suffix("")
    if file.suffix.lower() == ".mrxs" and not folder.is_dir():
        return (
            f"the folder {folder.name!r} with the slide's data is not beside it; a MIRAX slide is "
            f"a file and a folder of one name, copy both"
        )
    return "OpenSlide does not know the format, and it is no PNG or JPEG image"


def _is_image(file: Path) -> bool:
    """Whether a file is a PNG or JPEG image, which OpenSlide need not see.

    The file that names a MIRAX slide is a JPEG too: a small picture of what lies in its folder.
    """
    if file.suffix.lower() == ".mrxs":
        return False
    with file.open("rb") as stream:
        return stream.read(_MAGIC_BYTES).startswith(_IMAGE_MAGIC)


def _open_image(path: Path, file: Path) -> OpenSlideReader:
    try:
        with Image.open(file, formats=_IMAGE_FORMATS) as image:
            _require_colour(image, path)
            # decoded once here, so that threads only copy from it
            decoded, vendor = image.convert("RGBA"), str(image.format).lower()
    except UnidentifiedImageError as error:
        raise SlideReadError(f"{path} is a damaged image: {error}", path=path) from error
    except Image.DecompressionBombError as error:
        raise UnsupportedSlideError(
            f"the image is too large to be held in memory ({error}); convert it to a tiled TIFF",
            path=path,
        ) from error
    except SyntaxError as error:
        # Pillow's word for a damaged PNG
        raise SlideReadError(f"{path} is a damaged image: {error}", path=path) from error
    header = SlideHeader(
        vendor=vendor,
        level_sizes_wh=(decoded.size,),
        objective_power=None,
        mpp_candidates=(),
    )
    return OpenSlideReader(path, openslide.ImageSlide(decoded), header)


def _require_colour(image: Image.Image, path: Path) -> None:
    if image.mode not in ("RGB", "RGBA"):
        raise NotBrightfieldError(
            f"{path} is an image of mode {image.mode}, not 8-bit RGB; only colour images can be "
            f"separated into stains",
            path=path,
        )


def _tile_wh(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    names = (f"openslide.level[{level}].tile-{side}" for side in _SIDES)
    width, height = (int(properties.get(name, SMALL_PX)) for name in names)
    return width, height


def _bounds_xy(properties: Mapping[str, str]) -> tuple[int, int]:
    """Read where the scanned part begins; the start of the slide where that is not stated."""
    stated = (
        properties.get(openslide.PROPERTY_NAME_BOUNDS_X, "0"),
        properties.get(openslide.PROPERTY_NAME_BOUNDS_Y, "0"),
    )
    x, y = (int(value) if value.isdecimal() else 0 for value in stated)
    return x, y


def _mpp_candidates(properties: Mapping[str, str]) -> tuple[MppCandidate, ...]:
    """Collect the stated resolutions, each under the source it really has.

    For generic TIFF, Hamamatsu NDPI and Leica, OpenSlide computes ``openslide.mpp-x`` from the
    TIFF tags; it is told from a vendor's own statement by being equal to them.
    """
    tags = from_tiff_tags(
        positive(properties.get("tiff.XResolution")),
        positive(properties.get("tiff.YResolution")),
        _TIFF_UNITS.get(properties.get("tiff.ResolutionUnit", ""), 1),
    )
    x = positive(properties.get(openslide.PROPERTY_NAME_MPP_X))
    y = positive(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    power = positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
    vendor: tuple[MppCandidate, ...] = ()
    from_tags = any(np.allclose((x, y), (tag.x, tag.y), rtol=1e-6) for tag in tags if x and y)
    if x is not None and y is not None and not from_tags:
        vendor = (MppCandidate(MppSource.VENDOR, x, y),)
    return (*vendor, *tags, *from_objective(power))


FORMAT = SlideFormat(open_slide_file)
"""As the registry names it."""
