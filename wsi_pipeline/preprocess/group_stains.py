"""Pixels of labelled images, group by group -> the stain matrix of each image.

A group (slide, patient) has its own where that can be trusted; the others share the pooled one.
Files and patches are the business of :mod:`wsi_pipeline.preprocess.image_store`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import StainEstimationError
from wsi_pipeline.stain import estimate_stain_matrix
from wsi_pipeline.types import StainEstimate, StainVerdict

if TYPE_CHECKING:
    from wsi_pipeline.config import StainConfig


class StainScope(StrEnum):
    """Which images share a stain matrix."""

    GROUP = "group"
    POOLED = "pooled"


class StainBook:
    """Collects pixels group by group and settles whose stain matrix each image is unmixed with.

    Parameters
    ----------
    count : int
        Images in all.
    scope : StainScope
        Which images share a matrix.
    min_group_images : int
        Groups with fewer images share the pooled matrix.
    config : StainConfig
        How a matrix is estimated, and from how many images at most.
    """

    def __init__(
        self, count: int, scope: StainScope, min_group_images: int, config: StainConfig
    ) -> None:
        rng = np.random.default_rng(config.seed)
        chosen = rng.permutation(count)[: config.sample_tiles]
        self._chosen = set(chosen.tolist())
        self._scope, self._min_images, self._config = scope, min_group_images, config
        self._pooled: list[NDArray[np.uint8]] = []
        self._open: list[NDArray[np.uint8]] = []
        self._members: list[int] = []
        self._own: list[StainEstimate] = []
        self._index = np.zeros(count, dtype=np.int32)

    def add(self, index: int, pixels: NDArray[np.uint8]) -> None:
        """Take the pixels of the next image of the open group."""
        if index in self._chosen:
            self._pooled.append(pixels)
        self._members.append(index)
        if len(self._open) < self._config.sample_tiles:
            self._open.append(pixels)

    def close_group(self) -> None:
        """Settle the matrix of the open group: its own if that can be trusted."""
        members, pixels = self._members, self._open
        self._members, self._open = [], []
        if self._scope is StainScope.POOLED or not self._config.adaptive:
            return
        if len(members) < self._min_images:
            return
        try:
            estimate = estimate_stain_matrix(np.concatenate(pixels), self._config)
        except StainEstimationError:
            return
        if estimate.verdict is not StainVerdict.FALLBACK:
            self._own.append(estimate)
            self._index[members] = len(self._own)

    def result(self) -> tuple[tuple[StainEstimate, ...], NDArray[np.int32]]:
        """Return all estimates, the pooled one first, and the index of each image's."""
        pooled = estimate_stain_matrix(np.concatenate(self._pooled), self._config)
        return (pooled, *self._own), self._index
