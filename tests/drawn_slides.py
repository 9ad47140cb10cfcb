"""Drawn overviews of slides with known truth, at about 8 um/px: glass, tissue, ink."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import TissueConfig
from wsi_pipeline.tissue import detect_tissue

H_VECTOR = np.array([0.594, 0.731, 0.327]) / np.linalg.norm([0.594, 0.731, 0.327])
E_VECTOR = np.array([0.154, 0.738, 0.644]) / np.linalg.norm([0.154, 0.738, 0.644])
GLASS_RGB = (243, 242, 244)
INKS = {
    "green": (44, 155, 134),
    "blue": (62, 119, 205),
    "red": (200, 30, 45),
    "violet": (45, 15, 34),
}
SIZE = 300


def stain(h: float | NDArray[np.float64], e: float | NDArray[np.float64]) -> NDArray[np.uint8]:
    """RGB of concentrations of hematoxylin and eosin on white light."""
    density = np.multiply.outer(np.asarray(h), H_VECTOR) + np.multiply.outer(
        np.asarray(e), E_VECTOR
    )
    return np.asarray(np.rint(255 * 10**-density), dtype=np.uint8)


def glass(height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
    """Clean glass with the noise of a camera."""
    noise = np.random.default_rng(0).normal(0, 1.0, (height, width, 3))
    return np.clip(np.rint(np.array(GLASS_RGB) + noise), 0, 255).astype(np.uint8)


def tissue(height: int = SIZE, width: int = SIZE, depth: float = 1.0) -> NDArray[np.uint8]:
    """Stroma scattered with nuclei, at about 8 um/px."""
    random = np.random.default_rng(1)
    h = depth * random.uniform(0.05, 0.5, (height, width))
    e = depth * random.uniform(0.15, 0.45, (height, width))
    return stain(h, e)


def disc(radius: float, centre: tuple[float, float] = (150.0, 150.0)) -> NDArray[np.bool_]:
    row, col = np.indices((SIZE, SIZE))
    return np.asarray((col - centre[0]) ** 2 + (row - centre[1]) ** 2 <= radius**2)


def on_glass(where: NDArray[np.bool_], depth: float = 1.0) -> NDArray[np.uint8]:
    picture = glass(where.shape[0], where.shape[1])
    picture[where] = tissue(where.shape[0], where.shape[1], depth)[where]
    return picture


def areas_of(
    rgb: NDArray[np.uint8], mpp: float = 8.0, config: TissueConfig | None = None
) -> NDArray[np.uint8]:
    return detect_tissue(rgb, mpp, (1.0, 1.0), config or TissueConfig()).areas


def overlap(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / (found | truth).sum())
