"""The pages of a TIFF file -> those that form the slide's pyramid.

Files hold labels, photographs of the whole glass, thumbnails and second scans beside the slide, in
any order, larger or smaller, and marked well, badly or not at all. What a page says of itself is
used where it rules something out; what makes a page a level is that it shows what level 0 shows.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tifffile

from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError
from wsi_pipeline.slide.readers.ome import OmeImage, ome_images
from wsi_pipeline.slide.readers.tiff_metadata import described_size, stated_mpp
from wsi_pipeline.slide.readers.tiff_tiles import require_all_tiles

LOGGER = logging.getLogger(__name__)

Pages = tuple[tifffile.TiffPage, ...]
"""The page of an image, or one for each of red, green and blue."""

Differ = Callable[[Pages, Pages], str]
"""Says how the second image differs from the first, larger one; empty where it does not."""

COARSEST_SLIDE_MPP = 4.0
"""Resolution, um/px, from which on an image is a photograph of the glass rather than a slide."""

_REDUCED, _MASK, _MACRO = 1, 4, 8
"""Bits of the tag NewSubfileType; Aperio marks its photograph of the glass with the last."""

_REDUCTION = 1.5
"""How much smaller than it says itself an image is, at least, that is a reduced copy."""

_NO_SLIDE = re.compile(
    r"^\s*(label|macro|thumbnail|overview|preview|barcode)(\s+image)?(\s+\d+\s*x\s*\d+)?\s*(\||$)",
    re.IGNORECASE | re.MULTILINE,
)
_PAGE_NAME = "PageName"

_LARGEST_VALUE = ("MaxSampleValue", "SMaxSampleValue")
_LEAST_LARGEST = 128
"""Largest value of a sample, below which it is no brightness of glass."""


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """A page that may be the slide or a level of it."""

    pages: Pages
    order: int
    is_reduced: bool
    mpp: float | None

    @property
    def page(self) -> tifffile.TiffPage:
        return self.pages[0]

    @property
    def area(self) -> int:
        return self.page.imagewidth * self.page.imagelength


@dataclass(slots=True, eq=False)
class _Group:
    """An image and its smaller copies, largest first."""

    images: list[_Image] = field(default_factory=list)

    @property
    def base(self) -> _Image:
        return self.images[0]

    def rank(self) -> tuple[float, ...]:
        """Order groups by how likely they are the slide; the smallest is the likeliest."""
        base = self.base
        is_slide = base.mpp is not None and base.mpp < COARSEST_SLIDE_MPP
        fineness = round(math.log2(base.mpp or 1.0)) if is_slide else math.inf
        return fineness, not base.page.is_tiled, len(self.images) == 1, base.order


def find_pyramid(pages: Sequence[tifffile.TiffPage], path: Path, differ: Differ) -> list[Pages]:
    """Find the levels of the slide.

    Parameters
    ----------
    pages : sequence of TiffPage
        The pages of the file, in its order.
    path : Path
        The file, for messages.
    differ : callable
        Compares two images of the file.

    Returns
    -------
    list of tuple of TiffPage
        The levels, finest first.

    Raises
    ------
    SlideReadError
        If the file holds no level 0, or a page that contradicts itself.
    """
    images = _candidates(pages, path)
    for image in images:
        if image.page.is_tiled:
            require_all_tiles(image.page, path)
    groups = _group(images, differ)
    slides = [group for group in groups if not group.base.is_reduced]
    if not slides:
        raise SlideReadError(
            f"{path} has no level 0: its {len(images)} images are marked or described as reduced "
            f"copies, whose scale is not known; copy the file again",
            path=path,
        )
    slide = min(slides, key=_Group.rank)
    if slide.base.page.subifds:
        return [slide.base.pages, *_subifd_levels(slide.base, differ)]
    return [image.pages for image in slide.images if _is_same_kind(image, slide.base)]


def significant_bits(pages: Sequence[tifffile.TiffPage], image: Pages) -> int:
    """Read how many bits of its samples an image uses; 0 where the file does not say.

    Cameras of 10 to 14 bits fill samples of 16. OME says so of each image and its reduced copies,
    other files by the largest value of a sample.
    """
    stated = _ome_image_of(pages, image)
    if stated is not None and stated.significant_bits:
        return stated.significant_bits
    largest = max((_largest(image[0].tags.valueof(tag, 0)) for tag in _LARGEST_VALUE), default=0)
    return max(8, largest.bit_length()) if largest >= _LEAST_LARGEST else 0


def _largest(value: object) -> int:
    values = value if isinstance(value, tuple) else (value,)
    return max((int(each) for each in values if isinstance(each, int | float)), default=0)


def _candidates(pages: Sequence[tifffile.TiffPage], path: Path) -> list[_Image]:
    """List the images that may be the slide or its levels."""
    if not pages:
        raise UnsupportedSlideError("the file holds no image", path=path)
    described = ome_images(pages[0].description) if pages[0].is_ome else ()
    if any(max(image.pages) < len(pages) for image in described):
        found = [
            _Image(tuple(pages[n] for n in image.pages), order, False, _mpp_of(image))
            for order, image in enumerate(described)
            if max(image.pages) < len(pages) and not _NO_SLIDE.search(image.name.strip())
        ]
    else:
        found = [
            _Image((page,), order, _is_reduced(page), stated_mpp(page))
            for order, page in enumerate(pages)
            if not _is_no_slide(page)
        ]
    if not found:
        raise SlideReadError(
            f"{path} holds no slide: all its {len(pages)} images are labels, photographs of the "
            f"glass or masks",
            path=path,
        )
    return found


def _mpp_of(image: OmeImage) -> float | None:
    return None if image.mpp is None or not image.mpp.is_plausible() else image.mpp.x


def _ome_image_of(pages: Sequence[tifffile.TiffPage], image: Pages) -> OmeImage | None:
    """Find what OME says of an image, or of the one that it is a reduced copy of."""
    if not pages[0].is_ome:
        return None
    number = image[0].treeindex[0]
    described = ome_images(pages[0].description)
    return next((each for each in described if number in each.pages), None)


def _is_no_slide(page: tifffile.TiffPage) -> bool:
    """Whether a page is marked or described as label, photograph of the glass or mask."""
    name = page.tags.valueof(_PAGE_NAME, "")
    return (
        bool(page.subfiletype & (_MASK | _MACRO))
        or _NO_SLIDE.search(page.description) is not None
        or (isinstance(name, str) and _NO_SLIDE.search(name) is not None)
    )


def _is_reduced(page: tifffile.TiffPage) -> bool:
    """Whether a page is marked as a reduced copy, or much smaller than it says itself."""
    if page.subfiletype & _REDUCED:
        return True
    said = described_size(page.description)
    if said is None:
        return False
    ratios = said[0] / max(1, page.imagewidth), said[1] / max(1, page.imagelength)
    return min(ratios) > _REDUCTION and max(ratios) < 1.1 * min(ratios)


def _group(images: Sequence[_Image], differ: Differ) -> list[_Group]:
    """Put smaller copies to what they are copies of."""
    groups: list[_Group] = []
    for image in sorted(
        images, key=lambda image: (-image.area, not image.page.is_tiled, image.order)
    ):
        home = next((group for group in groups if _is_copy(image, group, differ)), None)
        if home is None:
            groups.append(_Group([image]))
        elif image.page.imagewidth < home.images[-1].page.imagewidth:
            home.images.append(image)
    return groups


def _is_copy(image: _Image, group: _Group, differ: Differ) -> bool:
    if image.page.imagewidth == group.base.page.imagewidth:
        # as large as level 0: a second plane or scan, never a level
        return False
    if not _has_proportions_of(image.page, group.base.page):
        return False
    nearest = min(
        (other for other in group.images if other.page.imagewidth >= image.page.imagewidth),
        key=lambda other: other.page.imagewidth,
    )
    if nearest.page.imagewidth == image.page.imagewidth:
        return True
    fault = differ(nearest.pages, image.pages)
    if fault and image.is_reduced:
        LOGGER.warning(
            "an image of %d x %d px is left out of the pyramid: %s",
            image.page.imagewidth, image.page.imagelength, fault,
        )  # fmt: skip
    return not fault


def _subifd_levels(base: _Image, differ: Differ) -> list[Pages]:
    """List the reduced copies that hang below the page of level 0."""
    below = [
        [page for page in each.pages or () if isinstance(page, tifffile.TiffPage)]
        for each in base.pages
    ]
    levels = [
        _Image(pages, order, True, None) for order, pages in enumerate(zip(*below, strict=False))
    ]
    group = _Group([base])
    for image in sorted(levels, key=lambda image: -image.area):
        smaller = image.page.imagewidth < group.images[-1].page.imagewidth
        if smaller and _is_same_kind(image, base) and _is_copy(image, group, differ):
            group.images.append(image)
    return [image.pages for image in group.images[1:]]


def _is_same_kind(image: _Image, base: _Image) -> bool:
    one, other = image.page, base.page
    return (one.samplesperpixel, one.dtype, one.is_tiled, len(image.pages)) == (
        other.samplesperpixel,
        other.dtype,
        other.is_tiled,
        len(base.pages),
    )


def _has_proportions_of(page: tifffile.TiffPage, base: tifffile.TiffPage) -> bool:
    width, height = page.imagewidth, page.imagelength
    by_width = base.imagelength * width / base.imagewidth
    by_height = base.imagewidth * height / base.imagelength
    off = min(abs(by_width - height) / height, abs(by_height - width) / width)
    # repeated halving with truncation moves a side by up to one pixel
    return off <= 0.01 or min(abs(by_width - height), abs(by_height - width)) <= 1
