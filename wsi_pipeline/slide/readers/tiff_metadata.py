"""What a TIFF page states of itself -> container, resolution and magnification.

Each container in its own terms: Aperio and ImageJ in the description, OME in XML, all in tags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsi_pipeline.slide.readers.ome import from_ome
from wsi_pipeline.slide.readers.resolution import (
    MppCandidate,
    aperio_fields,
    from_imagej,
    from_objective,
    from_tiff_tags,
    positive,
)
from wsi_pipeline.types import MppSource

if TYPE_CHECKING:
    import tifffile

_APERIO = "Aperio"
_IMAGEJ = "ImageJ="
_INCH = 2
_SIZE = re.compile(
    r"(?P<w>\d+)\s*x\s*(?P<h>\d+)(?:\s*\[\d+,\d+[ ,]+(?P<part_w>\d+)x(?P<part_h>\d+)\])?"
)


def describe(
    base: tifffile.TiffPage, first: tifffile.TiffPage
) -> tuple[str, tuple[MppCandidate, ...], float | None]:
    """Read what a file states of its slide.

    Parameters
    ----------
    base : TiffPage
        The page of level 0.
    first : TiffPage
        The first page of the file, which holds the OME-XML if there is any.

    Returns
    -------
    vendor : str
        The container.
    candidates : tuple of MppCandidate
        Every resolution stated.
    objective_power : float or None
        Nominal magnification.
    """
    vendor, stated, power = _stated(base, first)
    return vendor, (*stated, *_tags(base), *from_objective(power)), power


def stated_mpp(page: tifffile.TiffPage) -> float | None:
    """Read the best plausible resolution that a page itself states, um/px."""
    _, candidates, _ = describe(page, page)
    return _best(candidates)


def described_size(description: str) -> tuple[int, int] | None:
    """Read the size of level 0 from an Aperio description, px; None where there is none.

    ``46920x33014 [0,100 46000x32914] (256x256)`` is a part of what was scanned: the second size.
    """
    if not description.startswith(_APERIO):
        return None
    found = _SIZE.search(description)
    if found is None:
        return None
    width, height = found["part_w"] or found["w"], found["part_h"] or found["h"]
    return int(width), int(height)


def vendor_with_own_logic(page: tifffile.TiffPage) -> str:
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


def _best(candidates: Sequence[MppCandidate]) -> float | None:
    order = list(MppSource)
    plausible = [
        candidate
        for candidate in sorted(candidates, key=lambda c: order.index(c.source))
        if candidate.is_plausible()
    ]
    return plausible[0].x if plausible else None


def _stated(
    base: tifffile.TiffPage, first: tifffile.TiffPage
) -> tuple[str, tuple[MppCandidate, ...], float | None]:
    """Read the container, and the resolution and magnification in its own terms."""
    if base.description.startswith(_APERIO):
        fields = aperio_fields(base.description)
        mpp = positive(fields.get("MPP"))
        vendor = () if mpp is None else (MppCandidate(MppSource.VENDOR, mpp, mpp),)
        return "aperio", vendor, positive(fields.get("AppMag"))
    if first.is_ome:
        stated, power = from_ome(first.description, (base.imagewidth, base.imagelength))
        return "ome-tiff", stated, power
    if base.description.startswith(_IMAGEJ):
        sides = (_ratio(base, tag) for tag in ("XResolution", "YResolution"))
        return "imagej", from_imagej(base.description, *sides), None
    return "generic-tiff", (), None


def _tags(page: tifffile.TiffPage) -> tuple[MppCandidate, ...]:
    unit = page.tags.valueof("ResolutionUnit", _INCH)
    return from_tiff_tags(
        _ratio(page, "XResolution"),
        _ratio(page, "YResolution"),
        int(unit) if isinstance(unit, int) else 1,
    )


def _ratio(page: tifffile.TiffPage, tag: str) -> float | None:
    """Read a rational tag, or one that a writer made a plain number; 0 in it states nothing."""
    value = page.tags.valueof(tag, 0)
    if isinstance(value, tuple):
        numerator, denominator = (*value, 1, 1)[:2]
        return numerator / denominator if numerator > 0 and denominator > 0 else None
    return float(value) if isinstance(value, int | float) and value > 0 else None
