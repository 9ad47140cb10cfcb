"""Areas that a person drew and the tiles of a slide -> labelled tiles, and the region of each.

Tiles drawn in one go look alike because they are neighbours. Regions are what may be held out to
judge a model: strokes that lie close together are one region, whatever their classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wsi_pipeline.annotations import Annotation

COVERED = 0.5
"""Share of a tile that a stroke must cover to give it a class."""

APART_TILES = 2.0
"""Strokes nearer to each other than this, in sides of a tile, are of one region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTiles:
    """The tiles of a slide that have a class.

    Attributes
    ----------
    tile : ndarray of shape (M,), int64
        Ascending indices into the kept tiles.
    label : ndarray of shape (M,), int64
        Index of the class of each.
    region : ndarray of shape (M,), int64
        Number of the region of each, from 0.
    """

    tile: NDArray[np.int64]
    label: NDArray[np.int64]
    region: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tile)


def label_by_strokes(
    areas: Sequence[Annotation],
    classes: Sequence[str],
    xy: NDArray[np.int64],
    extent: float,
) -> LabelledTiles:
    """Give tiles the class of the stroke that covers them.

    Parameters
    ----------
    areas : sequence of Annotation
        Strokes, in the order they were drawn; where they overlap, the later one counts. Those
        whose name is no class have no effect.
    classes : sequence of str
        The classes.
    xy : ndarray of shape (N, 2), int64
        Top-left corners of the kept tiles, level-0 px.
    extent : float
        Side of a tile, level-0 px.

    Returns
    -------
    LabelledTiles
        Tiles covered by half or more; for a stroke too thin to cover half of any, the one tile it
        covers most of.
    """
    index = {name: number for number, name in enumerate(classes)}
    drawn = [area for area in areas if area.name in index]
    boxes = shapely.box(xy[:, 0], xy[:, 1], xy[:, 0] + extent, xy[:, 1] + extent)
    label = np.full(len(xy), -1, dtype=np.int64)
    region = np.full(len(xy), -1, dtype=np.int64)
    if drawn and len(xy):
        tree = shapely.STRtree(boxes)
        shapes = [area.geometry for area in drawn]
        for area, number in zip(drawn, _regions(shapes, APART_TILES * extent), strict=True):
            covered = _covered(tree, boxes, area.geometry)
            label[covered] = index[area.name]
            region[covered] = number
    tile = np.flatnonzero(label >= 0).astype(np.int64)
    return LabelledTiles(tile=tile, label=label[tile], region=region[tile])


def _covered(
    tree: shapely.STRtree, boxes: NDArray[np.object_], shape: shapely.Geometry
) -> NDArray[np.int64]:
    """Find the tiles that one stroke gives a class."""
    near = np.sort(tree.query(shape, predicate="intersects"))
    if not len(near):
        return near
    share = shapely.area(shapely.intersection(boxes[near], shape)) / shapely.area(boxes[near])
    enough = share >= COVERED
    if enough.any():
        return np.asarray(near[enough])
    # a tile that is merely touched along its border has no share
    return np.asarray(near[[share.argmax()]] if share.max() > 0 else near[:0])


def _regions(shapes: Sequence[shapely.Geometry], apart: float) -> list[int]:
    """Give strokes the number of their region, which is one across gaps below ``apart``."""
    tree = shapely.STRtree(shapes)
    left, right = tree.query(shapes, predicate="dwithin", distance=apart)
    home = list(range(len(shapes)))

    def root(stroke: int) -> int:
        while home[stroke] != stroke:
            home[stroke] = home[home[stroke]]
            stroke = home[stroke]
        return stroke

    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        home[root(one)] = root(other)
    roots = [root(stroke) for stroke in range(len(shapes))]
    numbers = {found: number for number, found in enumerate(dict.fromkeys(roots))}
    return [numbers[found] for found in roots]
