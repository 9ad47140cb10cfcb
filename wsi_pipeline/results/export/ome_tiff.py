"""Heatmap -> pyramidal OME-TIFF of probabilities, one channel per class, to scale on the slide."""

from __future__ import annotations

from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.files import replace_atomically
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.levels import mean_levels

if TYPE_CHECKING:
    from wsi_pipeline.results.slide_result import SlideResult
    from wsi_pipeline.types import Heatmap

TILE_PX = 256
SMALLEST_PX = 128
"""Levels are added until the longer side is at most this."""


def write_ome_tiff(path: Path, result: SlideResult, *, floats: bool = False) -> None:
    """Write the probabilities of a slide as an image with one channel per class.

    Parameters
    ----------
    path : Path
        File to write, ending in ``.ome.tif``; an older one is replaced in one step.
    result : SlideResult
        Of one slide.
    floats : bool
        Write float32, NaN where nothing was predicted. Otherwise uint8, which OpenSlide reads too:
        255 times the probability, rounded, and 0 in all channels where nothing was predicted.

    Notes
    -----
    One pixel per cell of the heatmap, whose size in um the metadata state; the corner of the first
    pixel is that of the slide. Reduced levels are means of the cells that were predicted.
    """
    heatmap = result.heatmap
    pixel_um = heatmap.cell_px * result.mpp
    levels = mean_levels(heatmap.values, SMALLEST_PX)
    encoded = [level if floats else to_bytes(level) for level in levels]
    with replace_atomically(path) as partial, tifffile.TiffWriter(partial, ome=True) as file:
        for index, level in enumerate(encoded):
            file.write(
                np.moveaxis(level, -1, 0),
                tile=(TILE_PX, TILE_PX),
                compression="zlib",
                photometric="minisblack",
                resolution=(1e4 / (pixel_um * 2**index),) * 2,
                resolutionunit="CENTIMETER",
                subifds=0 if index else len(encoded) - 1,
                subfiletype=1 if index else 0,
                metadata=None if index else _metadata(heatmap, pixel_um, result.slide_id),
            )


def to_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scale probabilities to 0 to 255, 0 where nothing is known."""
    return np.rint(np.nan_to_num(values) * 255).astype(np.uint8)


def _metadata(heatmap: Heatmap, pixel_um: float, name: str) -> dict[str, Any]:
    count = len(heatmap.class_names)
    return {
        "axes": "CYX",
        "Name": f"{name}: probabilities",
        "PhysicalSizeX": pixel_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": pixel_um,
        "PhysicalSizeYUnit": "µm",
        "Channel": {
            "Name": list(heatmap.class_names),
            "Color": [_signed_rgba(color) for color in heatmap.class_colors],
        },
        "Plane": {
            "PositionX": [0.0] * count,
            "PositionXUnit": ["µm"] * count,
            "PositionY": [0.0] * count,
            "PositionYUnit": ["µm"] * count,
        },
    }


def _signed_rgba(color: str) -> int:
    """Return a colour as OME has it: RGBA in a signed number of 32 bits."""
    return int.from_bytes(bytes.fromhex(color.removeprefix("#") + "ff"), "big", signed=True)


BYTES = Export(file="probabilities.ome.tif", write=write_ome_tiff)
FLOATS = Export(file="probabilities_float.ome.tif", write=bind(write_ome_tiff, floats=True))
