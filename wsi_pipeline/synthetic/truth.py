"""What is known of a synthetic slide: its classes, its stains and its resolution.

Holds and stores the answer; it neither draws the slide nor judges predictions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types import StainMatrix

if TYPE_CHECKING:
    from pathlib import Path

CLASS_NAMES = ("background", "tumor", "stroma", "necrosis", "fat")
"""Classes by their code in a class map."""

CLASS_COLORS = ("#f2f2f2", "#8e2a8a", "#e0719c", "#8c6d31", "#f2c14e")
"""``#rrggbb`` per class, for legends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticTruth:
    """The known truth of one synthetic slide.

    Attributes
    ----------
    class_map : ndarray of shape (h, w), uint8
        Index into ``class_names`` of the class at each map pixel, ``class_map[row, col]``.
    downsample : int
        Level-0 px per px of the class map.
    size_wh : tuple of int
        Width and height of the slide, px.
    mpp : float
        Micrometres per level-0 pixel.
    stains : StainMatrix
        The vectors the concentrations were multiplied by, the light of the glass, and the
        99th percentile of the drawn concentrations of at least 0.15.
    class_names : tuple of str
        Names by code; the first is the background.
    """

    class_map: NDArray[np.uint8]
    downsample: int
    size_wh: tuple[int, int]
    mpp: float
    stains: StainMatrix
    class_names: tuple[str, ...] = CLASS_NAMES

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Tissue, shape (h, w) of the class map."""
        return np.asarray(self.class_map > 0)

    def label_of(
        self, xy: NDArray[np.int64], extent: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the most frequent class of square tiles and its share of each.

        Parameters
        ----------
        xy : ndarray of shape (N, 2)
            Top-left corners, level-0 px.
        extent : float
            Side of a tile, level-0 px.

        Returns
        -------
        labels : ndarray of shape (N,), int64
            Index into ``class_names``; background counts like every other class.
        purity : ndarray of shape (N,), float64
            Share of the tile's map pixels that are of that class. 1 means that the tile lies in
            one class.
        """
        labels = np.zeros(len(xy), dtype=np.int64)
        purity = np.zeros(len(xy))
        for i, (x, y) in enumerate(np.asarray(xy, dtype=np.float64)):
            part = self.class_map[self._span(y, extent, 0), self._span(x, extent, 1)]
            counts = np.bincount(part.ravel(), minlength=len(self.class_names))
            labels[i] = counts.argmax()
            purity[i] = counts.max() / max(1, part.size)
        return labels, purity

    def _span(self, start: float, extent: float, axis: int) -> slice:
        """Map pixels that a stretch of the slide touches."""
        limit = self.class_map.shape[axis]
        first = min(max(int(start // self.downsample), 0), limit - 1)
        last = int(-(-(start + extent) // self.downsample))
        return slice(first, min(max(last, first + 1), limit))

    def save(self, path: Path) -> None:
        """Write everything to one ``.npz`` file."""
        facts = {
            "downsample": self.downsample,
            "size_wh": self.size_wh,
            "mpp": self.mpp,
            "stains": self.stains.to_dict(),
            "class_names": self.class_names,
        }
        with path.open("wb") as file:
            np.savez_compressed(file, class_map=self.class_map, facts=np.array(json.dumps(facts)))

    @classmethod
    def load(cls, path: Path) -> SyntheticTruth:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            class_map = archive["class_map"]
            facts = json.loads(str(archive["facts"]))
        width, height = facts["size_wh"]
        return cls(
            class_map=class_map,
            downsample=facts["downsample"],
            size_wh=(width, height),
            mpp=facts["mpp"],
            stains=StainMatrix.from_dict(facts["stains"]),
            class_names=tuple(facts["class_names"]),
        )
