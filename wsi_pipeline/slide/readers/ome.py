"""OME-XML -> the images that a file describes: what they are, where they lie, how large pixels are.

Reads as Bio-Formats does; what is not well formed describes nothing. Opens no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from wsi_pipeline.slide.readers.resolution import MppCandidate, positive
from wsi_pipeline.types import MppSource

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_UM_PER_UNIT = {
    "Ym": 1e30, "Zm": 1e27, "Em": 1e24, "Pm": 1e21, "Tm": 1e18, "Gm": 1e15, "Mm": 1e12,
    "km": 1e9, "hm": 1e8, "dam": 1e7, "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3,
    "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "fm": 1e-9, "am": 1e-12,
    "zm": 1e-15, "ym": 1e-18, "Å": 1e-4, "\u212b": 1e-4,
    "thou": 25.4, "li": 25_400 / 12, "in": 25_400.0, "ft": 304_800.0, "yd": 914_400.0,
    "mi": 1.609344e9,
}  # fmt: skip
"""Micrometres per unit of length of the OME schema; pixels and reference frames are no lengths."""

_PRIMARIES = (
    (("red", "r"), 0xFF0000FF),
    (("green", "g"), 0x00FF00FF),
    (("blue", "b"), 0x0000FFFF),
)
"""Names of the three channels of a colour image, and their colours as RGBA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OmeImage:
    """One image of an OME-TIFF.

    Attributes
    ----------
    name : str
        Its name; empty if it has none.
    size_wh : tuple of int
        Width and height, px.
    pages : tuple of int
        Number of its first page in the file, or of those of its red, green and blue.
    significant_bits : int
        Bits of each sample that are used; 0 where not stated.
    mpp : MppCandidate or None
        The pixel size, if stated with a unit of length.
    objective_power : float or None
        Nominal magnification of its objective.
    """

    name: str
    size_wh: tuple[int, int]
    pages: tuple[int, ...]
    significant_bits: int
    mpp: MppCandidate | None
    objective_power: float | None


def ome_images(xml: str) -> tuple[OmeImage, ...]:
    """List the images that OME-XML describes, in its order.

    Parameters
    ----------
    xml : str
        The OME-XML.

    Returns
    -------
    tuple of OmeImage
        Empty where it is not well formed, or describes none.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, DefusedXmlException, ValueError):
        return ()
    powers = {
        element.get("ID", ""): power
        for element in root.iterfind(".//{*}Objective")
        if (power := positive(element.get("NominalMagnification"))) is not None
    }
    return tuple(_images(root, powers))


def from_ome(xml: str, size_wh: tuple[int, int]) -> tuple[tuple[MppCandidate, ...], float | None]:
    """Read the pixel size and the magnification from OME-XML.

    Parameters
    ----------
    xml : str
        The OME-XML. What is not well formed states nothing.
    size_wh : tuple of int
        Size of the slide; tells its image from labels and overviews in the same file.

    Returns
    -------
    candidates : tuple of MppCandidate
        The pixel size, if stated with a physical unit.
    objective_power : float or None
        Nominal magnification of the image's objective, or of the only one described.
    """
    image = next((image for image in ome_images(xml) if image.size_wh == size_wh), None)
    if image is None:
        return (), None
    return () if image.mpp is None else (image.mpp,), image.objective_power


def _images(root: Element, powers: dict[str, float]) -> Iterator[OmeImage]:
    pages = 0
    for image in root.iterfind(".//{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is None:
            continue
        size = positive(pixels.get("SizeX")), positive(pixels.get("SizeY"))
        first, by_channel = _places(pixels, pages)
        pages = first + _count_pages(pixels)
        yield OmeImage(
            name=image.get("Name", ""),
            size_wh=(int(size[0] or 0), int(size[1] or 0)),
            pages=by_channel if _is_rgb(pixels) else (first,),
            significant_bits=_whole(pixels.get("SignificantBits"), 0),
            mpp=_mpp(pixels),
            objective_power=_power(image, powers),
        )


def _places(pixels: Element, before: int) -> tuple[int, tuple[int, int, int]]:
    """Find the first page of an image, and those of its first three channels.

    Pages follow one another where the file does not say where they lie.
    """
    stated = list(pixels.iterfind("{*}TiffData"))
    first = _whole(stated[0].get("IFD"), before) if stated else before
    places = {_whole(data.get("FirstC"), 0): _whole(data.get("IFD"), first) for data in stated}
    if not {0, 1, 2} <= places.keys():
        places = {channel: first + channel for channel in range(3)}
    return first, (places[0], places[1], places[2])


def _count_pages(pixels: Element) -> int:
    """Count the planes of an image; channels of several samples are one plane."""
    samples = [_whole(c.get("SamplesPerPixel"), 1) for c in pixels.iterfind("{*}Channel")]
    channels = len(samples) if samples else _whole(pixels.get("SizeC"), 1)
    return channels * _whole(pixels.get("SizeZ"), 1) * _whole(pixels.get("SizeT"), 1)


def _is_rgb(pixels: Element) -> bool:
    """Whether three channels of one sample are red, green and blue, by their names or colours."""
    channels = list(pixels.iterfind("{*}Channel"))
    order = pixels.get("DimensionOrder", "XYCZT")
    alone = _whole(pixels.get("SizeZ"), 1) == _whole(pixels.get("SizeT"), 1) == 1
    if len(channels) != 3 or not (alone or order.startswith("XYC")):
        return False
    if any(_whole(channel.get("SamplesPerPixel"), 1) != 1 for channel in channels):
        return False
    return all(
        channel.get("Name", "").strip().lower() in names
        or _whole(channel.get("Color"), -1) % (1 << 32) == colour
        for channel, (names, colour) in zip(channels, _PRIMARIES, strict=True)
    )


def _mpp(pixels: Element) -> MppCandidate | None:
    x, y = (_um(pixels, axis) for axis in "XY")
    return None if x is None or y is None else MppCandidate(MppSource.OME, x, y)


def _um(pixels: Element, axis: str) -> float | None:
    size = positive(pixels.get(f"PhysicalSize{axis}"))
    um = _UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip())
    return None if size is None or um is None else size * um


def _power(image: Element, powers: dict[str, float]) -> float | None:
    """Magnification of the objective that the image refers to, or of the only one there is."""
    settings = image.find("{*}ObjectiveSettings")
    if settings is None:
        settings = image.find("{*}ObjectiveRef")
    if settings is not None and settings.get("ID", "") in powers:
        return powers[settings.get("ID", "")]
    return next(iter(powers.values())) if len(set(powers.values())) == 1 else None


def _whole(text: str | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default
