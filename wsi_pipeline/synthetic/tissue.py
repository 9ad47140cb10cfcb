"""The plan of a slide to concentrations of hematoxylin and eosin, window by window.

Each class has a structure of its own: sheets of large nuclei, wavy fibres, granular debris, fat
cells. Colour is not decided here; both stains occur in every class but fat's empty vacuoles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import NoiseField, Window, cell_uniform
from wsi_pipeline.synthetic.nuclei import (
    DENSITY_UNIT,
    Nuclei,
    NucleusKind,
    draw_nuclei,
    place_nuclei,
)
from wsi_pipeline.synthetic.truth import CLASS_NAMES

if TYPE_CHECKING:
    from wsi_pipeline.synthetic.layout import Layout

Plane = NDArray[np.float32]

TUMOR, STROMA, NECROSIS, FAT = (
    CLASS_NAMES.index(name) for name in ("tumor", "stroma", "necrosis", "fat")
)

MARGIN_UM = 16.0
"""How far beyond a window structures must be drawn to be whole inside it."""

_NUCLEI = {
    TUMOR: (
        NucleusKind(
            spacing_um=11.5,
            share=0.93,
            radius_um=(3.6, 6.0),
            aspect=(1.0, 1.55),
            density=(0.55, 1.0),
            roughness=0.07,
            pallor=0.5,
            nucleolus=0.4,
        ),
    ),
    STROMA: (
        NucleusKind(
            spacing_um=26.0,
            share=0.7,
            radius_um=(2.4, 3.4),
            aspect=(3.0, 6.0),
            density=(0.7, 1.05),
            roughness=0.04,
        ),
        NucleusKind(
            spacing_um=36.0,
            share=0.15,
            radius_um=(2.6, 3.2),
            aspect=(1.0, 1.15),
            density=(0.9, 1.2),
            roughness=0.03,
        ),
    ),
    NECROSIS: (
        NucleusKind(
            spacing_um=7.0,
            share=0.30,
            radius_um=(0.5, 1.5),
            aspect=(1.0, 1.8),
            density=(0.45, 1.15),
            roughness=0.15,
        ),
        NucleusKind(
            spacing_um=17.0,
            share=0.40,
            radius_um=(3.0, 4.4),
            aspect=(1.0, 1.5),
            density=(0.18, 0.34),
            roughness=0.10,
            pallor=0.7,
        ),
    ),
}

_FAT_CELL_UM = 44.0
_FAT_NUCLEUS = NucleusKind(
    spacing_um=_FAT_CELL_UM,
    share=0.55,
    radius_um=(1.7, 2.3),
    aspect=(3.0, 4.5),
    density=(0.7, 1.0),
    roughness=0.04,
)


class TissuePainter:
    """Draws the concentrations of any window of one slide.

    Parameters
    ----------
    layout : Layout
        What lies where.
    mpp : float
        Resolution, um/px; structures keep their size in um.
    seed : int
        Decides every nucleus and fibre.
    """

    def __init__(self, layout: Layout, mpp: float, seed: int) -> None:
        self._layout = layout
        self._mpp = mpp
        self._seed = seed
        self._noise = NoiseField(seed + 1)
        self._textures = {
            TUMOR: self._tumor,
            STROMA: self._stroma,
            NECROSIS: self._necrosis,
            FAT: self._fat,
        }

    def concentrations(self, window: Window) -> NDArray[np.float32]:
        """Return hematoxylin and eosin of a window, shape (2, height, width), log10 density."""
        margin = int(np.ceil(MARGIN_UM / self._mpp))
        wide = window.grown(margin)
        weights = self._layout.weights(wide, self._noise)
        he = np.zeros((2, wide.height, wide.width), dtype=np.float32)
        if weights[1:].max() > 0.01:
            for code, texture in self._textures.items():
                if weights[code].max() > 0.01:
                    he += weights[code] * np.stack(texture(wide))
            self._add_nuclei(he, wide, 1 - weights[0])
            np.clip(he, 0, None, out=he)
            sigma = 0.35 / self._mpp
            he = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in he])
        return he[:, margin : margin + window.height, margin : margin + window.width]

    def _px(self, um: float) -> int:
        """Nearest power of two of a length in px, as the noise needs it."""
        return int(2 ** max(0, round(np.log2(um / self._mpp))))

    def _grain(self, window: Window, um: float, stream: int) -> Plane:
        return self._noise.sample(window, self._px(um), stream)

    def _add_nuclei(self, he: Plane, window: Window, presence: Plane) -> None:
        """Paint the nuclei of all classes over the cytoplasm."""
        canvas = np.zeros(he.shape[1:], dtype=np.uint8)
        for code, kinds in _NUCLEI.items():
            for i, kind in enumerate(kinds):
                nuclei = place_nuclei(window, kind, self._mpp, self._seed, code * 4 + i)
                draw_nuclei(canvas, self._fitting(nuclei, code, kind, window), window)
        fat = self._fat_nuclei(window)
        draw_nuclei(canvas, fat.only(self._layout.classes_at(fat.x, fat.y) == FAT), window)
        chromatin = 1 + 0.20 * self._grain(window, 1.0, 60) + 0.12 * self._grain(window, 0.5, 61)
        hematoxylin = canvas.astype(np.float32) / DENSITY_UNIT * presence
        covered = np.minimum(hematoxylin / 0.45, 1.0)
        he[1] *= 1 - 0.8 * covered
        he[0] = he[0] * (1 - covered) + hematoxylin * chromatin

    def _fitting(self, nuclei: Nuclei, code: int, kind: NucleusKind, window: Window) -> Nuclei:
        """Keep the nuclei that lie in their class; align spindles with the fibres."""
        nuclei = nuclei.only(self._layout.classes_at(nuclei.x, nuclei.y) == code)
        if code == STROMA and kind.aspect[1] > 2 and len(nuclei.x):
            nuclei.angle[:] = self._fibre_angles(nuclei, window)
        if code == NECROSIS:
            patchy = self._at(self._grain(window, 32.0, 62), nuclei, window)
            nuclei = nuclei.only(patchy > -0.35)
        return nuclei

    @staticmethod
    def _at(plane: NDArray[np.floating], nuclei: Nuclei, window: Window) -> Plane:
        """Values of a plane at the nuclei's centres, those outside taken from its edge."""
        col = np.clip(nuclei.x - window.x, 0, window.width - 1).astype(np.int64)
        row = np.clip(nuclei.y - window.y, 0, window.height - 1).astype(np.int64)
        return np.asarray(plane[row, col], dtype=np.float32)

    def _tumor(self, window: Window) -> tuple[Plane, Plane]:
        """Sheets of cells: basophilic, finely granular cytoplasm with a few clefts."""
        uneven = self._grain(window, 32.0, 1)
        cells = self._grain(window, 8.0, 2)
        fine = self._grain(window, 1.0, 3) + 0.7 * self._grain(window, 2.0, 4)
        eosin = 0.30 + 0.045 * uneven + 0.05 * cells + 0.035 * fine
        hematoxylin = 0.10 + 0.02 * uneven + 0.02 * self._grain(window, 2.0, 5)
        cleft = _step(self._noise.fractal(window, self._px(32.0), 6), 1.25, 1.45)
        return hematoxylin * (1 - cleft), eosin * (1 - 0.95 * cleft)

    def _fibre_coordinates(self, window: Window) -> tuple[Plane, Plane]:
        """Coordinates along and across the wavy fibres, um."""
        y, x = np.mgrid[
            window.y : window.y + window.height, window.x : window.x + window.width
        ].astype(np.float32)
        x *= self._mpp
        y *= self._mpp
        sway = 32 * self._grain(window, 128.0, 10) + 6 * self._grain(window, 32.0, 11)
        return 0.8 * x + 0.6 * y, -0.6 * x + 0.8 * y + sway

    def _fibre_angles(self, nuclei: Nuclei, window: Window) -> NDArray[np.float64]:
        _, across = self._fibre_coordinates(window)
        slope_y, slope_x = (np.asarray(slope) for slope in np.gradient(across))
        return np.arctan2(
            -self._at(slope_x, nuclei, window), self._at(slope_y, nuclei, window)
        ).astype(np.float64)

    def _stroma(self, window: Window) -> tuple[Plane, Plane]:
        """Wavy collagen: fibrils in bundles, parted by pale slits."""
        along, across = self._fibre_coordinates(window)
        across = across + 0.9 * self._grain(window, 8.0, 12)
        fibril = self._noise.warped(along / 24, across / 1.1, 13)
        bundle = self._noise.warped(along / 70, across / 5.0, 14)
        eosin = 0.39 + 0.09 * fibril + 0.08 * bundle + 0.04 * self._grain(window, 64.0, 15)
        slit = _step(bundle + 0.35 * fibril, 0.95, 1.5)
        hematoxylin = 0.012 + 0.01 * self._grain(window, 4.0, 16)
        return hematoxylin * (1 - slit), eosin * (1 - 0.93 * slit)

    def _necrosis(self, window: Window) -> tuple[Plane, Plane]:
        """Granular, smudged eosinophilic debris."""
        patch = self._grain(window, 32.0, 20)
        clump = self._grain(window, 4.0, 21)
        grain = 0.6 * self._grain(window, 1.0, 22) + self._grain(window, 2.0, 23)
        ghosts = np.abs(self._grain(window, 8.0, 26))
        eosin = 0.37 + 0.055 * patch + 0.05 * clump + 0.055 * grain + 0.08 * ghosts
        hematoxylin = 0.04 + 0.02 * patch + 0.03 * clump + 0.03 * self._grain(window, 2.0, 24)
        gap = _step(self._noise.fractal(window, self._px(8.0), 25), 1.3, 1.7)
        return hematoxylin * (1 - gap), eosin * (1 - 0.8 * gap)

    def _fat(self, window: Window) -> tuple[Plane, Plane]:
        """Empty vacuoles in thin walls."""
        wall_um = self._fat_wall_distance(window)
        thickness = 0.9 + 0.35 * self._grain(window, 16.0, 30)
        wall = 1 - _step(wall_um, thickness, thickness + 0.8)
        fine = self._grain(window, 1.0, 31)
        eosin = wall * (0.38 + 0.05 * fine) + 0.012
        return wall * 0.03, np.asarray(eosin, dtype=np.float32)

    def _fat_centres(
        self, col: NDArray[np.int64], row: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres of fat cells, um; odd rows are shifted as in a brick wall."""
        jitter = [cell_uniform(col, row, self._seed, 150 + i) - 0.5 for i in range(2)]
        x = (col + 0.5 + 0.5 * (row % 2) + 0.6 * jitter[0]) * _FAT_CELL_UM
        return x, (row + 0.5 + 0.6 * jitter[1]) * _FAT_CELL_UM

    def _fat_wall_distance(self, window: Window) -> Plane:
        """Distance from the border to the nearest other fat cell, um."""
        y, x = np.mgrid[
            window.y : window.y + window.height, window.x : window.x + window.width
        ].astype(np.float32)
        x = x * self._mpp + 2.5 * self._grain(window, 16.0, 32)
        y = y * self._mpp + 2.5 * self._grain(window, 16.0, 33)
        cols = np.arange(int(x.min() // _FAT_CELL_UM) - 2, int(x.max() // _FAT_CELL_UM) + 2)
        rows = np.arange(int(y.min() // _FAT_CELL_UM) - 1, int(y.max() // _FAT_CELL_UM) + 2)
        col, row = (grid.ravel() for grid in np.meshgrid(cols, rows))
        centre_x, centre_y = self._fat_centres(col, row)
        first = np.full(x.shape, np.inf, dtype=np.float32)
        second = first.copy()
        reach = 1.5 * _FAT_CELL_UM
        for cx, cy in zip(centre_x, centre_y, strict=True):
            left, top = ((np.array([cx, cy]) - reach) / self._mpp).astype(int) - (
                window.x,
                window.y,
            )
            side = int(2 * reach / self._mpp) + 2
            part = np.s_[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
            far = np.hypot(x[part] - np.float32(cx), y[part] - np.float32(cy))
            np.minimum(second[part], np.maximum(first[part], far), out=second[part])
            np.minimum(first[part], far, out=first[part])
        return np.asarray((second - first) / 2, dtype=np.float32)

    def _fat_nuclei(self, window: Window) -> Nuclei:
        """Flat nuclei pressed into the walls between neighbouring fat cells."""
        nuclei = place_nuclei(window, _FAT_NUCLEUS, self._mpp, self._seed, 20)
        spacing = _FAT_CELL_UM / self._mpp
        col = np.floor(nuclei.x / spacing).astype(np.int64)
        row = np.floor(nuclei.y / spacing).astype(np.int64)
        ax, ay = self._fat_centres(col, row)
        bx, by = self._fat_centres(col + 1, row)
        nuclei.x[:], nuclei.y[:] = (ax + bx) / 2 / self._mpp, (ay + by) / 2 / self._mpp
        nuclei.angle[:] = np.arctan2(by - ay, bx - ax) + np.pi / 2
        return nuclei


def _step(values: Plane, low: float | Plane, high: float | Plane) -> Plane:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
