"""Overviews of slides to tissue masks by exchangeable segmenters: what one is, and which there are.

A segmenter sees the whole slide at the resolution it asks for and names what each pixel shows. How
it tells is its own affair.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wsi_pipeline.errors import ModelOutputError
from wsi_pipeline.registry import Registry
from wsi_pipeline.types import Area, TissueMask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.config import TissueConfig


class TissueSegmenter(Protocol):
    """Tells what each pixel of a slide's overview shows."""

    @property
    def version(self) -> str:
        """Changes whenever another area is told of the same pixels; part of a store's identity."""

    @property
    def mpp(self) -> float:
        """Resolution of the overview it wants, um/px."""

    def segment(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
        """Name what each pixel shows.

        Parameters
        ----------
        rgb : ndarray of shape (h, w, 3), uint8
            The whole slide.
        mpp : float
            Its resolution, um/px: the one asked for, or that of the slide where it is coarser.

        Returns
        -------
        ndarray of shape (h, w), uint8
            One :class:`~wsi_pipeline.types.Area` code per pixel of ``rgb``.
        """


ONNX = "onnx:"
"""What begins the name of a segmenter that is a file."""

SegmenterMaker = Callable[["TissueConfig"], TissueSegmenter]
"""What a name of the registry stands for: options of the tissue stage into a segmenter."""

SEGMENTERS: Registry[SegmenterMaker] = Registry(
    "tissue segmenter",
    "wsi_pipeline.tissue_segmenters",
    {"classic": "wsi_pipeline.tissue.detect:ClassicSegmenter"},
)


def make_segmenter(config: TissueConfig) -> TissueSegmenter:
    """Make the segmenter that a configuration names, or the one of a file, ``onnx:FILE``.

    Raises
    ------
    ConfigError
        If there is none of that name, or the file holds none.
    """
    if config.segmenter.startswith(ONNX):
        # pydantic models and hashes of files are for those who use them
        from wsi_pipeline.tissue.onnx_network import OnnxSegmenter

        return OnnxSegmenter(Path(config.segmenter.removeprefix(ONNX)))
    return SEGMENTERS.get(config.segmenter)(config)


def segment_overview(
    segmenter: TissueSegmenter,
    rgb: NDArray[np.uint8],
    mpp: float,
    downsample: tuple[float, float],
) -> TissueMask:
    """Let a segmenter judge an overview, and check what it gives.

    Parameters
    ----------
    segmenter : TissueSegmenter
        The segmenter.
    rgb : ndarray of shape (h, w, 3), uint8
        The whole slide.
    mpp : float
        Its resolution, um/px.
    downsample : tuple of float
        Level-0 px per px of ``rgb`` in x and y.

    Returns
    -------
    TissueMask
        One area per pixel of ``rgb``.

    Raises
    ------
    ModelOutputError
        If there is not one known area per pixel.
    """
    areas = segmenter.segment(rgb, mpp)
    name = type(segmenter).__name__
    if areas.shape != rgb.shape[:2] or areas.dtype != np.uint8:
        raise ModelOutputError(
            f"tissue segmenter {name} gave areas of shape {areas.shape} {areas.dtype} for an "
            f"overview of shape {rgb.shape}; it must give {rgb.shape[:2]} uint8"
        )
    if areas.size and areas.max() > max(Area):
        raise ModelOutputError(
            f"tissue segmenter {name} gave the area {areas.max()}; areas are 0 to {max(Area):d}"
        )
    return TissueMask(areas=areas, downsample=downsample)
