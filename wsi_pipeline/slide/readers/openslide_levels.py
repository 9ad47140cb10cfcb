"""A slide open in OpenSlide -> its levels that can be read and show what level 0 shows.

Looks at a few places of each level; it does not search whole levels for damage.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.slide.readers.agreement import Picture, difference
from wsi_pipeline.slide.readers.base import composite_on_white


def sound_levels(file: Path) -> tuple[tuple[int, ...], dict[int, str]]:
    """Find the levels of a slide that show what level 0 shows.

    Each level of DICOM slides is a file of its own, and of TIFF slides a page that anybody may have
    added. Converters are known to write reduced levels in other colours than declared, or with last
    frames cut short; other pages are photographs of the glass. Those levels are left out; their
    pixels are then made from a finer level.

    Parameters
    ----------
    file : Path
        A file of the slide.

    Returns
    -------
    levels : tuple of int
        OpenSlide's numbers of the levels, 0 first.
    left_out : dict of int to str
        Why the others are not among them.

    Raises
    ------
    SlideReadError
        If level 0 is the odd one out: a photograph, or damaged.
    """
    with openslide.OpenSlide(file) as slide:
        count = slide.level_count
    sound, left_out = [0], {}
    for level in range(1, count):
        fault = _fault(file, level, sound[-1])
        if fault:
            left_out[level] = fault
        else:
            sound.append(level)
    if sound == [0] and _agree(file, sorted(left_out)):
        raise SlideReadError(
            f"its level 0 shows something else than its {len(left_out)} other levels, which agree "
            f"with one another ({left_out[1]}): it is no scan, or its colours are not those "
            f"declared; export the slide anew",
            path=file,
        )
    return tuple(sound), left_out


def _agree(file: Path, levels: list[int]) -> bool:
    """Whether several levels all show the same."""
    pairs = pairwise(levels)
    return len(levels) > 1 and not any(_fault(file, coarse, fine) for fine, coarse in pairs)


def _fault(file: Path, level: int, finer: int) -> str:
    """Say why a level cannot be used; empty where it can.

    The handle is opened for this level alone: after one error OpenSlide refuses everything.
    """
    try:
        with openslide.OpenSlide(file) as slide:
            return difference(_picture(slide, finer), _picture(slide, level))
    except openslide.OpenSlideError as error:
        return str(error)


def _picture(slide: openslide.OpenSlide, level: int) -> Picture:
    downsample = slide.level_downsamples[level]

    def read(xy: tuple[int, int], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
        place = round(xy[0] * downsample), round(xy[1] * downsample)
        rgba = np.asarray(slide.read_region(place, level, size_wh))
        pixels = np.empty((*rgba.shape[:2], 3), dtype=np.uint8)
        composite_on_white(rgba, pixels)
        return pixels

    return Picture(size_wh=slide.level_dimensions[level], read=read)
