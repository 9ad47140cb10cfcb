"""A seed to any pixels of a synthetic slide: concentrations first, then the light they leave.

Pixels come in blocks on a fixed lattice, so they are the same whoever asks and in what order. It
writes no files.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.layout import Content, plan_slide
from wsi_pipeline.synthetic.noise import Window
from wsi_pipeline.synthetic.tissue import TissuePainter
from wsi_pipeline.synthetic.truth import SyntheticTruth
from wsi_pipeline.types import StainMatrix

BLOCK_PX = 512
"""Side of the blocks that a slide is drawn in."""

GLASS_LEVEL = 247.0
"""Light of empty glass; scanners leave it a little under 255."""

_MEAN_VECTORS = np.array([[0.594, 0.731, 0.327], [0.154, 0.738, 0.644]])
_NOISE_SD = 1.5


def default_stains() -> StainMatrix:
    """Return the mean stain vectors of the 420 slides published with CLASS-M, on bright glass."""
    return StainMatrix(
        vectors=_MEAN_VECTORS / np.linalg.norm(_MEAN_VECTORS, axis=1, keepdims=True),
        max_concentration=np.ones(2),
        background=np.full(3, GLASS_LEVEL),
    )


class SyntheticSlide:
    """A synthetic H&E slide that is drawn where it is looked at.

    Parameters
    ----------
    size_wh : tuple of int
        Width and height, px.
    mpp : float
        Resolution, um/px; structures keep their size in um.
    seed : int
        Decides everything drawn.
    stains : StainMatrix or None
        Vectors to stain with and light of the glass; :func:`default_stains` if not given.
    content : Content or None
        Which classes it holds; all four in regions of equal size if not given.
    """

    def __init__(
        self,
        size_wh: tuple[int, int],
        mpp: float = 0.5,
        seed: int = 0,
        stains: StainMatrix | None = None,
        content: Content | None = None,
    ) -> None:
        if min(size_wh) < 1 or not mpp > 0:
            raise ValueError(f"a slide needs pixels and a resolution, got {size_wh} at {mpp} um/px")
        self.size_wh = size_wh
        self._mpp = mpp
        self._seed = seed
        self._stains = stains or default_stains()
        self._layout = plan_slide(size_wh, mpp, seed, content)
        self._painter = TissuePainter(self._layout, mpp, seed)

    def block(self, column: int, row: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Draw one block.

        Parameters
        ----------
        column, row : int
            Place on the lattice of :data:`BLOCK_PX` pixels.

        Returns
        -------
        he : ndarray of shape (2, BLOCK_PX, BLOCK_PX), float32
            Concentrations in log10 optical density, hematoxylin first.
        rgb : ndarray of shape (BLOCK_PX, BLOCK_PX, 3), uint8
            What the scanner sees of them.
        """
        window = Window(column * BLOCK_PX, row * BLOCK_PX, BLOCK_PX, BLOCK_PX)
        he = self._painter.concentrations(window)
        rng = np.random.default_rng([self._seed, column, row])
        return he, self._scan(he, rng)

    def read(self, xy: tuple[int, int], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
        """Draw a region: top-left corner and size in px, as an array (height, width, 3)."""
        (x, y), (width, height) = xy, size_wh
        first_col, first_row = x // BLOCK_PX, y // BLOCK_PX
        cols = range(first_col, (x + width - 1) // BLOCK_PX + 1)
        rows = range(first_row, (y + height - 1) // BLOCK_PX + 1)
        whole = np.vstack([np.hstack([self.block(col, row)[1] for col in cols]) for row in rows])
        left, top = x - first_col * BLOCK_PX, y - first_row * BLOCK_PX
        return whole[top : top + height, left : left + width]

    def truth(self, max_concentration: NDArray[np.float64]) -> SyntheticTruth:
        """Return what is known of the slide, with the given maxima of its concentrations."""
        return SyntheticTruth(
            class_map=self._layout.class_map,
            downsample=self._layout.downsample,
            size_wh=self.size_wh,
            mpp=self._mpp,
            stains=StainMatrix(
                vectors=self._stains.vectors,
                max_concentration=max_concentration,
                background=self._stains.background,
            ),
        )

    def _scan(self, he: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Let light through the stains and add the noise of a scanner."""
        exponent = np.ascontiguousarray(he.transpose(1, 2, 0)) * np.float32(-np.log(10))
        density = cv2.transform(exponent, self._stains.vectors.T.astype(np.float32))
        light = np.asarray(cv2.exp(density), dtype=np.float32)
        light *= self._stains.background.astype(np.float32)
        light += _NOISE_SD * rng.standard_normal(light.shape, dtype=np.float32)
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)
