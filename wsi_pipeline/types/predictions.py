"""What a model expects and gives: its description, probabilities of patches, a heatmap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types.stains import STAIN_CONVENTION

PatchInput = Literal["he", "rgb"]
"""What a model sees of a patch: its two stains, or its colours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What a trained model expects and gives, as the pipeline needs to know it.

    Attributes
    ----------
    name : str
        Names the folder of the predictions.
    class_names : tuple of str
        One per output, in order.
    class_colors : tuple of str
        ``#rrggbb`` per class.
    mpp : float
        Resolution of the patches it was trained on, um/px.
    patch_px : int
        Side of its input, px.
    mean, std : tuple of float
        Normalisation of each channel after scaling to [0, 1].
    input : {"he", "rgb"}
        Whether it takes the two stains of a patch, (B, 2, P, P), or its colours, (B, 3, P, P).
    stain_convention : str
        Must equal :data:`STAIN_CONVENTION` of the store.
    """

    name: str
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
    mpp: float
    patch_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: PatchInput = "he"
    stain_convention: str = STAIN_CONVENTION


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Class probabilities of the patches of one slide.

    Attributes
    ----------
    prob : ndarray of shape (N, K), float32
        Rows sum to 1.
    xy : ndarray of shape (N, 2), int64
        Top-left corners, level-0 px.
    rc : ndarray of shape (N, 2), int32
        Lattice indices.
    shape : tuple of int
        Rows and columns of the lattice.
    extent, pitch : float
        Side of a tile and distance between tiles, level-0 px.
    class_names, class_colors : tuple of str
        One per column of ``prob``.
    """

    prob: NDArray[np.float32]
    xy: NDArray[np.int64]
    rc: NDArray[np.int32]
    shape: tuple[int, int]
    extent: float
    pitch: float
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]

    def __post_init__(self) -> None:
        n, k = self.prob.shape
        if k != len(self.class_names) or k != len(self.class_colors):
            raise ValueError(f"prob has {k} columns for {len(self.class_names)} classes")
        if self.xy.shape != (n, 2) or self.rc.shape != (n, 2):
            raise ValueError(f"xy {self.xy.shape} and rc {self.rc.shape} do not match {n} patches")

    def __len__(self) -> int:
        return len(self.prob)

    @property
    def label(self) -> NDArray[np.int64]:
        """Index of the most probable class, shape (N,)."""
        return np.asarray(self.prob.argmax(axis=1), dtype=np.int64)

    @property
    def entropy(self) -> NDArray[np.float32]:
        """Shannon entropy of each row in nats, shape (N,)."""
        p = self.prob.astype(np.float64)
        logs = np.log(p, out=np.zeros_like(p), where=p > 0)
        return np.asarray(-(p * logs).sum(axis=1), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Class probabilities painted on the slide.

    Attributes
    ----------
    values : ndarray of shape (rows, cols, K), float32
        Mean probability of the tiles covering each cell; NaN where there is none.
    cell_px : float
        Side of a cell, level-0 px; the top-left cell starts at (0, 0).
    class_names, class_colors : tuple of str
        One per class.
    """

    values: NDArray[np.float32]
    cell_px: float
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
