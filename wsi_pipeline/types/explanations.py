"""What each stain says of the patches of a slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types.stains import STAIN_NAMES, StainPair


@dataclass(frozen=True, slots=True, kw_only=True)
class StainExplanations:
    """The parts of the stains in the logits of the patches of one slide.

    Attributes
    ----------
    parts : ndarray of shape (N, 2, K), float32
        Part of the first stain, then of the second, in the logit of each class; their sum is the
        logit.
    xy : ndarray of shape (N, 2), int64
        Top-left corners, level-0 px.
    rc : ndarray of shape (N, 2), int32
        Lattice indices.
    extent : float
        Side of a tile, level-0 px.
    class_names, class_colors : tuple of str
        One per class.
    stain_names : tuple of str
        What the two stains are called.
    """

    parts: NDArray[np.float32]
    xy: NDArray[np.int64]
    rc: NDArray[np.int32]
    extent: float
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
    stain_names: tuple[str, str] = STAIN_NAMES[StainPair.HE]

    def __post_init__(self) -> None:
        n = len(self.xy)
        if self.parts.shape != (n, 2, len(self.class_names)):
            raise ValueError(
                f"parts {self.parts.shape} do not match {n} patches, two stains and "
                f"{len(self.class_names)} classes"
            )

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def logits(self) -> NDArray[np.float32]:
        """Logits, shape (N, K)."""
        return np.asarray(self.parts.sum(axis=1), dtype=np.float32)

    @property
    def label(self) -> NDArray[np.int64]:
        """Index of the class with the highest logit, shape (N,)."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @property
    def lead(self) -> NDArray[np.float32]:
        """How far each stain puts the label above the mean of all classes, shape (N, 2).

        Only differences of logits decide, and these are free of the head's bias where classes
        share it.
        """
        above = self.parts - self.parts.mean(axis=2, keepdims=True)
        chosen = self.label[:, None, None]
        return np.asarray(np.take_along_axis(above, chosen, axis=2)[:, :, 0], dtype=np.float32)
