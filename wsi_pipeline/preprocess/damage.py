"""The tiles of a damaged slide -> those whose pixels can be read; the others have their reason.

Reads tiles and throws them away: what they show is judged elsewhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.types import TileReason

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from wsi_pipeline.slide.open import Slide
    from wsi_pipeline.slide.salvage import Box
    from wsi_pipeline.types import TileGrid

_ELSEWHERE = (TileReason.OUTSIDE_ROI, TileReason.UNLABELLED, TileReason.ANNOTATED)
"""Reasons of tiles that nobody asks for; whether they can be read does not matter."""


def drop_damaged(slide: Slide, grid: TileGrid, lost: list[Box], pool: Executor) -> TileGrid:
    """Mark the tiles that cannot be read as ``DAMAGED``.

    Parameters
    ----------
    slide : Slide
        The slide, open.
    grid : TileGrid
        Its tiles.
    lost : list of Box
        What the tissue mask could not be made from; tiles there look like glass in it.
    pool : Executor
        Reads every kept tile, and every tile where something is lost.

    Returns
    -------
    TileGrid
        The same tiles, fewer of them kept.
    """
    suspects = np.argwhere((grid.reasons == TileReason.KEPT) | _touch(grid, lost))

    def is_damaged(level_xy: tuple[int, int]) -> bool:
        try:
            slide.read_level(grid.level, level_xy, (grid.read_px, grid.read_px))
        except SlideReadError:
            return True
        return False

    places = [(x, y) for x, y in grid.level_xy_of(suspects).tolist()]
    damaged = suspects[np.fromiter(pool.map(is_damaged, places), dtype=np.bool_)]
    reasons = grid.reasons.copy()
    reasons[tuple(damaged.T)] = TileReason.DAMAGED
    return replace(grid, reasons=reasons)


def _touch(grid: TileGrid, lost: list[Box]) -> NDArray[np.bool_]:
    """Whether anything of a candidate is lost, shape (rows, cols)."""
    everywhere = np.argwhere(np.ones(grid.shape, dtype=np.bool_))
    left_top = grid.level_xy_of(everywhere) * grid.downsample
    right_bottom = left_top + grid.extent
    touched = np.zeros(len(everywhere), dtype=np.bool_)
    for left, top, right, bottom in lost:
        touched |= ((left_top < (right, bottom)) & (right_bottom > (left, top))).all(axis=1)
    return touched.reshape(grid.shape) & ~np.isin(grid.reasons, _ELSEWHERE)
