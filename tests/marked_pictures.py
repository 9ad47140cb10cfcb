"""Pictures of marked slides, with outlines of tissue and courses of ink drawn by eye.

The outlines in ``marked_pictures.json`` keep clear of borders that cannot be told by eye, of fat
whose cells the picture does not resolve, and of dye on surgical margins.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Course = list[tuple[int, int]]
"""Places (x, y) in px of the picture."""


@dataclass(frozen=True)
class MarkedPicture:
    """A picture and what it shows.

    ``mpp`` is judged from the size of nuclei, fat cells and strokes, um/px. ``tissue`` holds
    outlines, one inside another being a hole; ``ink`` the strokes, or the glass edge, as width in
    px and course.
    """

    name: str
    mpp: float
    tissue: list[Course]
    ink: list[tuple[int, Course]]

    def tissue_mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Where tissue certainly is."""
        mask = np.zeros(shape, dtype=np.uint8)
        cv2.fillPoly(mask, [np.array(outline, dtype=np.int32) for outline in self.tissue], (1,))
        return mask.astype(np.bool_)

    def ink_mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Where ink certainly is."""
        mask = np.zeros(shape, dtype=np.uint8)
        for width, course in self.ink:
            cv2.polylines(mask, [np.array(course, dtype=np.int32)], False, (1,), width)
        return mask.astype(np.bool_)


def marked_pictures() -> list[MarkedPicture]:
    """Read every marked picture."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    return [
        MarkedPicture(
            name=item["name"],
            mpp=item["mpp"],
            tissue=item["tissue"],
            ink=[(stroke["width"], stroke["course"]) for stroke in item["ink"]],
        )
        for item in json.loads(text)
    ]
