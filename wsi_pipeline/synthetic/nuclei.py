"""Nuclei and debris of a window: placed by hashed lattice cells, drawn as irregular outlines.

Each nucleus depends on its own cell only, so windows that overlap draw the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import Window, cell_uniform, span_cells

DENSITY_UNIT = 160.0
"""Canvas counts per unit of concentration."""

_CORNERS = 18
_SUBPIXEL_BITS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleusKind:
    """How one kind of nucleus looks; pairs are the ends of a range.

    Attributes
    ----------
    spacing_um : float
        Distance of lattice cells, each of which may hold one.
    share : float
        Share of the cells that do.
    radius_um : tuple of float
        Half of the mean diameter.
    aspect : tuple of float
        Length over width.
    density : tuple of float
        Hematoxylin concentration.
    roughness : float
        How far outlines leave an ellipse.
    pallor : float
        How much paler the inside is than the rim, at most.
    nucleolus : float
        Share with a dark nucleolus.
    """

    spacing_um: float
    share: float
    radius_um: tuple[float, float]
    aspect: tuple[float, float]
    density: tuple[float, float]
    roughness: float = 0.08
    pallor: float = 0.0
    nucleolus: float = 0.0


@dataclass(frozen=True, slots=True)
class Nuclei:
    """Nuclei of a window: centres and radii in level-0 px, angles in radians, arrays of (n,)."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    radius: NDArray[np.float64]
    aspect: NDArray[np.float64]
    angle: NDArray[np.float64]
    density: NDArray[np.float64]
    pallor: NDArray[np.float64]
    nucleolus: NDArray[np.bool_]
    waves: NDArray[np.float64]

    def only(self, chosen: NDArray[np.bool_]) -> Nuclei:
        """Return the chosen ones."""
        return Nuclei(*(getattr(self, name)[chosen] for name in self.__slots__))


def place_nuclei(window: Window, kind: NucleusKind, mpp: float, seed: int, stream: int) -> Nuclei:
    """Place the nuclei of one kind whose cells meet a window, in row-major order of the cells."""
    spacing = kind.spacing_um / mpp
    col, row = (
        grid.ravel()
        for grid in np.meshgrid(
            span_cells(window.x, window.width, spacing, 1),
            span_cells(window.y, window.height, spacing, 1),
        )
    )

    def chance(i: int) -> NDArray[np.float64]:
        return cell_uniform(col, row, seed, stream * 32 + 200 + i)

    def between(ends: tuple[float, float], i: int) -> NDArray[np.float64]:
        return ends[0] + (ends[1] - ends[0]) * chance(i)

    waves = np.stack([chance(10 + i) for i in range(6)], axis=1) * 2 - 1
    nuclei = Nuclei(
        x=(col + 0.5 + 0.85 * (chance(0) - 0.5)) * spacing,
        y=(row + 0.5 + 0.85 * (chance(1) - 0.5)) * spacing,
        radius=between(kind.radius_um, 2) / mpp,
        aspect=between(kind.aspect, 3),
        angle=chance(4) * np.pi,
        density=between(kind.density, 5),
        pallor=kind.pallor * chance(6),
        nucleolus=chance(7) < kind.nucleolus,
        waves=waves * kind.roughness,
    )
    return nuclei.only(chance(8) < kind.share)


def draw_nuclei(canvas: NDArray[np.uint8], nuclei: Nuclei, window: Window) -> None:
    """Paint nuclei on a canvas of the window, in :data:`DENSITY_UNIT` counts per concentration."""
    outlines = _outlines(nuclei, window)
    rim = np.clip(nuclei.density * DENSITY_UNIT, 0, 255)
    inside = rim * (1 - nuclei.pallor)
    smooth, bits = cv2.LINE_AA, _SUBPIXEL_BITS
    for i, outline in enumerate(outlines):
        cv2.fillPoly(canvas, [outline], (float(inside[i]),), smooth, bits)
        if nuclei.pallor[i] > 0.05:
            cv2.polylines(canvas, [outline], True, (float(rim[i]),), 1, smooth, bits)
        if nuclei.nucleolus[i]:
            place = outline[: _CORNERS // 2].mean(axis=0) * 0.35 + outline.mean(axis=0) * 0.65
            size = int(max(1.0, 0.22 * nuclei.radius[i]) * 2**_SUBPIXEL_BITS)
            centre = (int(place[0]), int(place[1]))
            dark = (float(min(255.0, rim[i] * 1.15)),)
            cv2.circle(canvas, centre, size, dark, cv2.FILLED, smooth, bits)


def _outlines(nuclei: Nuclei, window: Window) -> NDArray[np.int32]:
    """Corner points in the window, shape (n, corners, 2), in fractions of a pixel."""
    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)[None, :]
    reach = np.ones((len(nuclei.x), _CORNERS))
    for order in range(3):
        a, b = nuclei.waves[:, 2 * order, None], nuclei.waves[:, 2 * order + 1, None]
        reach += a * np.cos((order + 2) * turn) + b * np.sin((order + 2) * turn)
    stretch = np.sqrt(nuclei.aspect)[:, None]
    along = reach * np.cos(turn) * nuclei.radius[:, None] * stretch
    across = reach * np.sin(turn) * nuclei.radius[:, None] / stretch
    cos, sin = np.cos(nuclei.angle)[:, None], np.sin(nuclei.angle)[:, None]
    x = nuclei.x[:, None] + along * cos - across * sin - window.x
    y = nuclei.y[:, None] + along * sin + across * cos - window.y
    points = np.stack([x, y], axis=-1) * 2**_SUBPIXEL_BITS
    return np.asarray(np.rint(points), dtype=np.int32)
