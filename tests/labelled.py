"""Folders of small labelled images with known stains."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

STAINS = {
    "slide-a": np.array([[0.60, 0.72, 0.35], [0.15, 0.83, 0.53]]),
    "slide-b": np.array([[0.50, 0.77, 0.39], [0.10, 0.75, 0.65]]),
}
CLASSES = ("gland", "stroma")


def paint(stains: NDArray[np.float64], richness: float, seed: int, px: int) -> NDArray[np.uint8]:
    """Draw blobs of both stains, RGB; ``richness`` is the share of hematoxylin."""
    rng = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(rng.normal(0, 1, (px, px)), (0, 0), 2.5) for _ in range(2)]
    h, e = (np.clip(field / field.std() + 0.6, 0, 2.5) * 0.4 for field in fields)
    vectors = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    density = np.stack([h * 2 * richness, e * 2 * (1 - richness)], axis=-1) @ vectors
    return np.asarray(np.rint(255 * 10**-density).clip(0, 255), dtype=np.uint8)


def write_image(path: Path, rgb: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))


def write_images(folder: Path, *, per_group: int = 10, px: int = 64) -> None:
    """Write ``<class>/<slide>_<i>.png`` and ``labels.csv`` with path, label and slide."""
    rows = ["path,label,slide"]
    for code, (slide, stains) in enumerate(STAINS.items()):
        for index in range(per_group):
            name = CLASSES[index % 2]
            rgb = paint(stains, 0.65 if name == "gland" else 0.4, 100 * code + index, px)
            write_image(folder / name / f"{slide}_{index}.png", rgb)
            rows.append(f"{name}/{slide}_{index}.png,{name},{slide}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
