"""Outlines -> whether they cross so often that no hand drew them; areas -> their union.

Every crossing becomes a corner of what is made of the outlines: two combs of 4,000 points at right
angles make four million, which takes more time and memory than there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_pipeline.errors import AnnotationError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

MAX_CROSSINGS = 300_000
"""Most crossings of areas that are united; that many take some seconds."""

MAX_SIDES = 5_000_000
"""Most sides of areas that are united."""

MAX_PAIRS = 30_000_000
"""Most pairs of sides that are compared, some seconds."""

_COMPARED_PAIRS = 2_000_000
"""Most pairs of sides compared at once, should the boxes of all overlap."""

Points = NDArray[np.float64]


def unite(areas: Sequence[BaseGeometry]) -> BaseGeometry:
    """Return the union of areas, in bounded time.

    Raises
    ------
    AnnotationError
        If their outlines cross one another too often.
    """
    require_few_crossings(areas)
    return shapely.union_all(list(areas))


def require_few_crossings(areas: Sequence[BaseGeometry]) -> None:
    """Refuse areas whose outlines cross one another more than any that a person draws.

    Raises
    ------
    AnnotationError
        If they do.
    """
    parts = shapely.get_parts(list(areas))
    rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(parts)]
    count = sum(map(len, rings))
    if len(rings) < 2 or count**2 < MAX_CROSSINGS:
        return
    if count > MAX_SIDES:
        raise AnnotationError(f"areas of {count} points are too many to unite; simplify them")
    if cross_more_often(rings, MAX_CROSSINGS, touching=False):
        raise AnnotationError(
            f"outlines of areas cross one another more than {MAX_CROSSINGS} times; draw them "
            f"apart, or simplify them"
        )


def cross_more_often(rings: Sequence[Points], limit: int, *, touching: bool = True) -> bool:
    """Tell whether more than ``limit`` pairs of sides meet.

    Parameters
    ----------
    rings : sequence of ndarray of shape (n, 2)
        Closed outlines.
    limit : int
        Pairs.
    touching : bool
        Count pairs that share a point without crossing, as neighbours do.

    Returns
    -------
    bool
        True also if more than :data:`MAX_PAIRS` pairs would have to be compared.
    """
    starts = np.concatenate([ring[:-1] for ring in rings])
    stops = np.concatenate([ring[1:] for ring in rings])
    sides = shapely.linestrings(np.stack([starts, stops], axis=1))
    tree = shapely.STRtree(sides)
    found = compared = 0
    step = max(1, min(256, _COMPARED_PAIRS // len(sides)))
    for begin in range(0, len(sides), step):
        one, other = tree.query(sides[begin : begin + step])
        one += begin
        once = other > one
        one, other = one[once], other[once]
        compared += len(one)
        found += _count(starts[one], stops[one], starts[other], stops[other], touching=touching)
        if found > limit or compared > MAX_PAIRS:
            return True
    return False


def _count(a: Points, b: Points, c: Points, d: Points, *, touching: bool) -> int:
    """Count the sides ``ab`` and ``cd``, whose boxes overlap, that have a point in common."""
    one, other = _turn(a, b, c) * _turn(a, b, d), _turn(c, d, a) * _turn(c, d, b)
    most = 0 if touching else -1
    return int(((one <= most) & (other <= most)).sum())


def _turn(a: Points, b: Points, c: Points) -> Points:
    """Return 1 where the way ``abc`` turns to one side, -1 to the other, 0 where it is straight."""
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return np.asarray(np.sign(ux * vy - uy * vx))
