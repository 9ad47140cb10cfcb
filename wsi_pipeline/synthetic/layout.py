"""A seed to the plan of a slide: islands of tissue on glass, divided into regions of one class.

It decides what lies where, at the resolution of the class map; how it looks is drawn elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.synthetic.noise import NoiseField, Window, cell_uniform
from wsi_pipeline.synthetic.truth import CLASS_NAMES

MAP_UM = 8.0
"""Intended size of a pixel of the class map, um."""

_ISLAND_UM = 8000.0
_ROWS_AT_ONCE = 256
_TISSUES = len(CLASS_NAMES) - 1
_EDGE_SHARPNESS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Which classes a slide holds, and how much.

    Attributes
    ----------
    region_um : float or None
        Typical width of a region of one class, um; about a third of the slide's shorter side, 800
        um at most, if not given.
    without : str or None
        A class that no region has: those that would are of the class after it.
    focus : str or None
        A class that fills a disc in the middle of the first island of tissue, whatever else lies
        there: a slide in which few tiles are of a class.
    focus_um : float
        Width of the disc, um.
    """

    region_um: float | None = None
    without: str | None = None
    focus: str | None = None
    focus_um: float = 400.0

    def __post_init__(self) -> None:
        unknown = [
            name for name in (self.without, self.focus) if name and name not in CLASS_NAMES[1:]
        ]
        if unknown:
            raise ValueError(
                f"there is no tissue {unknown[0]!r}; choose among {', '.join(CLASS_NAMES[1:])}"
            )


@dataclass(frozen=True)
class Layout:
    """The plan of a slide.

    Attributes
    ----------
    class_map : ndarray of shape (h, w), uint8
        Class code per map pixel.
    downsample : int
        Level-0 px per map pixel.
    """

    class_map: NDArray[np.uint8]
    downsample: int

    def classes_at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the class at places (level-0 px); background outside the slide."""
        col = np.floor(x / self.downsample).astype(np.int64)
        row = np.floor(y / self.downsample).astype(np.int64)
        height, width = self.class_map.shape
        inside = (col >= 0) & (row >= 0) & (col < width) & (row < height)
        found = self.class_map[np.clip(row, 0, height - 1), np.clip(col, 0, width - 1)]
        return np.where(inside, found, 0).astype(np.uint8)

    def weights(self, window: Window, noise: NoiseField) -> NDArray[np.float32]:
        """Return the share of each class at each pixel, shape (K, height, width), sum 1.

        Borders are a few px wide and frayed by noise, so that they do not show the map's pixels.
        """
        step = self.downsample
        left, top = window.x // step - 3, window.y // step - 3
        right = -(-(window.x + window.width) // step) + 3
        bottom = -(-(window.y + window.height) // step) + 3
        centres_x, centres_y = np.meshgrid(
            (np.arange(left, right) + 0.5) * step, (np.arange(top, bottom) + 0.5) * step
        )
        codes = self.classes_at(centres_x, centres_y)
        frays = noise.sample(window, max(2, step // 2), 40) * 0.06
        shares = np.empty((_TISSUES + 1, window.height, window.width), dtype=np.float32)
        for code in range(_TISSUES + 1):
            coarse = cv2.GaussianBlur((codes == code).astype(np.float32), (0, 0), 0.8)
            fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
            y0, x0 = window.y - top * step, window.x - left * step
            shares[code] = fine[y0 : y0 + window.height, x0 : x0 + window.width]
        shares[0] += frays * (shares[0] > 0.02)
        np.clip(shares, 1e-4, 1.0, out=shares)
        shares **= _EDGE_SHARPNESS
        shares /= shares.sum(axis=0)
        return shares


def plan_slide(
    size_wh: tuple[int, int], mpp: float, seed: int, content: Content | None = None
) -> Layout:
    """Lay out a slide.

    Parameters
    ----------
    size_wh : tuple of int
        Width and height, px.
    mpp : float
        Resolution, um/px.
    seed : int
        Decides every outline.
    content : Content or None
        Which classes it holds.

    Returns
    -------
    Layout
        The plan. Any two by two neighbouring regions hold all four tissue classes, unless one is
        left out.
    """
    downsample = max(1, round(MAP_UM / mpp))
    width, height = (-(-side // downsample) for side in size_wh)
    pixel_um = downsample * mpp
    content = content or Content()
    region = content.region_um or min(800.0, min(size_wh) * mpp / 3.2)
    noise = NoiseField(seed)
    class_map = np.empty((height, width), dtype=np.uint8)
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, height - top)
        window = Window(0, top, width, rows)
        tissue = _island_field(window, (width, height), pixel_um, noise, seed) > 0
        regions = _region_classes(window, region / pixel_um, noise, seed)
        class_map[top : top + rows] = np.where(tissue, regions, 0)
    if content.without is not None:
        code = CLASS_NAMES.index(content.without)
        class_map[class_map == code] = code % _TISSUES + 1
    if content.focus is not None:
        _paint_focus(class_map, content, pixel_um)
    return Layout(class_map=class_map, downsample=downsample)


def _paint_focus(class_map: NDArray[np.uint8], content: Content, pixel_um: float) -> None:
    """Fill a disc in the middle of the first island."""
    height, width = class_map.shape
    rows, cols = (max(1, round(side * pixel_um / _ISLAND_UM)) for side in (height, width))
    y, x = np.ogrid[:height, :width]
    far = np.hypot(y + 0.5 - height / rows / 2, x + 0.5 - width / cols / 2)
    disc = (far * pixel_um <= content.focus_um / 2) & (class_map > 0)
    class_map[disc] = CLASS_NAMES.index(content.focus or "")


def _island_field(
    window: Window, map_wh: tuple[int, int], pixel_um: float, noise: NoiseField, seed: int
) -> NDArray[np.float32]:
    """Positive inside the islands; their outlines are ellipses torn by noise."""
    y, x = np.mgrid[window.y : window.y + window.height, 0 : window.width].astype(np.float32)
    cols, rows = (max(1, round(side * pixel_um / _ISLAND_UM)) for side in map_wh)
    cell_w, cell_h = map_wh[0] / cols, map_wh[1] / rows
    field = np.full(x.shape, -1.0, dtype=np.float32)
    for row, col in np.ndindex(rows, cols):
        chance = [
            float(cell_uniform(np.array([col]), np.array([row]), seed, 100 + i)[0])
            for i in range(4)
        ]
        centre_x = (col + 0.5 + 0.08 * (chance[0] - 0.5)) * cell_w
        centre_y = (row + 0.5 + 0.08 * (chance[1] - 0.5)) * cell_h
        radius_x = (0.40 + 0.06 * chance[2]) * cell_w
        radius_y = (0.40 + 0.06 * chance[3]) * cell_h
        far = np.hypot((x - centre_x) / radius_x, (y - centre_y) / radius_y)
        np.maximum(field, (1 - far).astype(np.float32), out=field)
    scale = max(8, int(min(cell_w, cell_h) / 5))
    return np.asarray(field + 0.09 * noise.fractal(window, scale, 20, octaves=5))


def _region_classes(
    window: Window, region_px: float, noise: NoiseField, seed: int
) -> NDArray[np.uint8]:
    """Class codes of a jittered Voronoi tessellation with warped borders."""
    y, x = np.mgrid[window.y : window.y + window.height, 0 : window.width].astype(np.float32)
    scale = max(4, int(region_px / 3))
    u = x / region_px + 0.10 * noise.fractal(window, scale, 30, octaves=4)
    v = y / region_px + 0.10 * noise.fractal(window, scale, 35, octaves=4)
    cell_x, cell_y = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    nearest = np.full(x.shape, np.inf)
    codes = np.zeros(x.shape, dtype=np.uint8)
    offset = int(cell_uniform(np.array([0]), np.array([0]), seed, 110)[0] * _TISSUES)
    for dy, dx in np.ndindex(3, 3):
        col, row = cell_x + dx - 1, cell_y + dy - 1
        seed_x = col + 0.5 + 0.5 * (cell_uniform(col, row, seed, 111) - 0.5)
        seed_y = row + 0.5 + 0.5 * (cell_uniform(col, row, seed, 112) - 0.5)
        distance = (u - seed_x) ** 2 + (v - seed_y) ** 2
        closer = distance < nearest
        nearest[closer] = distance[closer]
        # a Latin pattern: neighbours differ, and any 2x2 cells hold all four tissues
        codes[closer] = ((col + 2 * row + offset) % _TISSUES + 1).astype(np.uint8)[closer]
    return codes
