"""A slide open in OpenSlide -> its levels that can be read and agree with level 0.

Compares mean colours at two places; it does not search whole levels for damage.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_pipeline.slide.readers.base import composite_on_white

LOGGER = logging.getLogger(__name__)

MAX_COLOUR_DIFFERENCE = 25.0
"""Largest difference of mean colour between two levels at one place, counts. Downsampling moves
means by a few counts; YCbCr taken for RGB turns white to (255, 128, 128)."""

_PROBE_PX = 64
_MAX_READ_PX = 2048


def sound_levels(file: Path) -> tuple[int, ...]:
    """Find the levels of a DICOM slide that show what level 0 shows.

    Each level of such a slide is a file of its own, and converters are known to write reduced
    levels in other colours than declared, or with last frames cut short. Those levels are left
    out, with a warning; their pixels are then made from a finer level.

    Parameters
    ----------
    file : Path
        A file of the slide.

    Returns
    -------
    tuple of int
        OpenSlide's numbers of the levels, 0 first.
    """
    with openslide.OpenSlide(file) as slide:
        count = slide.level_count
    sound = [0]
    for level in range(1, count):
        fault = _fault(file, level, sound[-1])
        if fault:
            LOGGER.warning("%s: level %d is left out: %s", file, level, fault)
        else:
            sound.append(level)
    return tuple(sound)


def _fault(file: Path, level: int, finer: int) -> str:
    """Say why a level cannot be used; empty where it can.

    The handle is opened for this level alone: after one error OpenSlide refuses everything.
    """
    try:
        with openslide.OpenSlide(file) as slide:
            difference = _colour_difference(slide, level, finer)
    except openslide.OpenSlideError as error:
        return str(error)
    if difference > MAX_COLOUR_DIFFERENCE:
        return f"its colours differ from those of level {finer} by {difference:.0f} counts"
    return ""


def _colour_difference(slide: openslide.OpenSlide, level: int, finer: int) -> float:
    """Largest difference of the mean colours of two levels in the middle and the last corner."""
    return max(
        float(np.abs(_mean_colour(slide, level, box) - _mean_colour(slide, finer, box)).max())
        for box in _probes(slide, level, finer)
    )


def _probes(
    slide: openslide.OpenSlide, level: int, finer: int
) -> Iterator[tuple[float, float, float, float]]:
    """Yield places, level-0 x, y, width and height: the last corner finds frames cut short."""
    downsample = slide.level_downsamples[level]
    level_width, level_height = slide.level_dimensions[level]
    side = min(_PROBE_PX, max(1, int(_MAX_READ_PX * slide.level_downsamples[finer] / downsample)))
    width, height = min(side, level_width), min(side, level_height)
    for share in (0.5, 1.0):
        x, y = int(share * (level_width - width)), int(share * (level_height - height))
        yield x * downsample, y * downsample, width * downsample, height * downsample


def _mean_colour(
    slide: openslide.OpenSlide, level: int, box: tuple[float, float, float, float]
) -> NDArray[np.float64]:
    x, y, width, height = box
    downsample = slide.level_downsamples[level]
    size = max(1, int(width / downsample)), max(1, int(height / downsample))
    rgba = np.asarray(slide.read_region((int(x), int(y)), level, size))
    pixels = np.empty((*rgba.shape[:2], 3), dtype=np.uint8)
    composite_on_white(rgba, pixels)
    return np.asarray(pixels.mean(axis=(0, 1)), dtype=np.float64)
