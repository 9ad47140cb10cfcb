"""A heatmap and the tissue of a slide -> which class each place of the tissue has, and its area.

The map is laid on the lines of both lattices, that of the tiles and that of the tissue mask, in
whole level-0 pixels. So pictures, outlines and square millimetres that are made of it agree to the
pixel. Nothing is drawn or written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.tissue.pieces import pixel_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_pipeline.tissue.pieces import Pieces
    from wsi_pipeline.types import Heatmap


class NoClass(IntEnum):
    """What a place is that has none of the classes."""

    UNDECIDED = -1
    """Tissue whose tiles the rule gives to no class."""
    UNPREDICTED = -2
    """Tissue that no tile covers."""
    GLASS = -3


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRule:
    """How probabilities become classes.

    Attributes
    ----------
    classes : tuple of str
        Classes to choose from; all if empty.
    threshold : float or None
        A place has the most probable of ``classes`` if its probability is at least this; if None,
        it must be the most probable of all classes.
    smooth_um : float
        Standard deviation of the Gaussian that probabilities are averaged with, um; 0 for none.
    """

    classes: tuple[str, ...] = ()
    threshold: float | None = None
    smooth_um: float = 0.0

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must be between 0 and 1, got {self.threshold}")
        if not self.smooth_um >= 0:
            raise ConfigError(f"smoothing must be 0 um or more, got {self.smooth_um}")

    def chosen(self, class_names: Sequence[str]) -> list[int]:
        """Return the indices of the classes to choose from.

        Raises
        ------
        ConfigError
            If one of them is no class of the model.
        """
        unknown = [name for name in self.classes if name not in class_names]
        if unknown:
            raise ConfigError(
                f"there is no class {unknown[0]!r}; choose among {', '.join(class_names)}"
            )
        return [
            index
            for index, name in enumerate(class_names)
            if not self.classes or name in self.classes
        ]

    def decide(self, values: NDArray[np.float32], class_names: Sequence[str]) -> NDArray[np.int16]:
        """Give each row of probabilities its class.

        Parameters
        ----------
        values : ndarray of shape (..., K), float32
            Probabilities; NaN where nothing was predicted.
        class_names : sequence of K str
            The classes.

        Returns
        -------
        ndarray of shape (...), int16
            Index of the class; ``UNDECIDED`` where none is chosen, ``UNPREDICTED`` at NaN.
        """
        chosen = np.array(self.chosen(class_names), dtype=np.intp)
        known = np.nan_to_num(values)
        best = chosen[known[..., chosen].argmax(axis=-1)]
        prob = np.take_along_axis(known, best[..., None], axis=-1)[..., 0]
        # a threshold written as 0.8 is met by the nearest number of 32 bits
        least = known.max(axis=-1) if self.threshold is None else np.float32(self.threshold)
        labels = np.where(prob >= least, best, NoClass.UNDECIDED)
        labels[np.isnan(values[..., 0])] = NoClass.UNPREDICTED
        return labels.astype(np.int16)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """The class of each place of a slide's tissue, on rectangles of uneven size.

    Attributes
    ----------
    labels : ndarray of shape (rows, cols), int16
        Index of the class, or a member of :class:`NoClass`.
    pieces : ndarray of shape (rows, cols), int32
        Number of the piece of tissue, from 1; 0 on glass.
    x_edges, y_edges : ndarray of shape (cols + 1,) and (rows + 1,), int64
        Where columns and rows begin and end, level-0 px.
    class_names, class_colors : tuple of str
        One per class.
    """

    labels: NDArray[np.int16]
    pieces: NDArray[np.int32]
    x_edges: NDArray[np.int64]
    y_edges: NDArray[np.int64]
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]

    def at(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.int16]:
        """Return the labels at the crossings of columns ``x`` and rows ``y``, level-0 px.

        Returns
        -------
        ndarray of shape (len(y), len(x)), int16
            ``GLASS`` beside the slide.
        """
        col, x_out = _cell_of(self.x_edges, x)
        row, y_out = _cell_of(self.y_edges, y)
        found = self.labels[np.ix_(row, col)]
        found[y_out[:, None] | x_out] = NoClass.GLASS
        return found


def lay_class_map(heatmap: Heatmap, pieces: Pieces, mpp: float, rule: ClassRule) -> ClassMap:
    """Give each place of the tissue its class.

    Parameters
    ----------
    heatmap : Heatmap
        Probabilities on cells that begin at the corner of the slide.
    pieces : Pieces
        The tissue, which classes are clipped to, and its pieces.
    mpp : float
        Resolution at level 0, um/px.
    rule : ClassRule
        How probabilities become classes.

    Returns
    -------
    ClassMap
        Of the whole slide.

    Raises
    ------
    ConfigError
        If the rule names a class that there is not.
    """
    values = smooth(heatmap.values, rule.smooth_um / (heatmap.cell_px * mpp))
    cells = rule.decide(values, heatmap.class_names)
    cell_edges = [np.rint(np.arange(n + 1) * heatmap.cell_px) for n in cells.shape]
    mask_edges = [
        pixel_edges(n, scale)
        for n, scale in zip(pieces.labels.shape, pieces.downsample[::-1], strict=True)
    ]
    edges = [
        np.unique(np.concatenate([mask, cell[cell < mask[-1]]])).astype(np.int64)
        for mask, cell in zip(mask_edges, cell_edges, strict=True)
    ]
    mask_at, _ = zip(*map(_cell_of, mask_edges, (e[:-1] for e in edges)), strict=True)
    cell_at, beside = zip(*map(_cell_of, cell_edges, (e[:-1] for e in edges)), strict=True)
    numbers = pieces.labels[np.ix_(*mask_at)]
    labels = np.full(numbers.shape, NoClass.UNPREDICTED, dtype=np.int16)
    if cells.size:
        labels = cells[np.ix_(*cell_at)]
    labels[beside[0][:, None] | beside[1]] = NoClass.UNPREDICTED
    labels[numbers == 0] = NoClass.GLASS
    return ClassMap(
        labels=labels,
        pieces=numbers,
        x_edges=edges[1],
        y_edges=edges[0],
        class_names=heatmap.class_names,
        class_colors=heatmap.class_colors,
    )


def smooth(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Average probabilities with their neighbours; those that are missing do not count.

    Parameters
    ----------
    values : ndarray of shape (rows, cols, K), float32
        NaN where nothing was predicted; it stays NaN.
    sigma : float
        Standard deviation of the Gaussian, cells; 0 changes nothing.
    """
    if not sigma or not values.size:
        return values
    known = ~np.isnan(values[..., 0])
    weight = cv2.GaussianBlur(known.astype(np.float32), (0, 0), sigma)
    result = np.full_like(values, np.nan)
    for index in range(values.shape[-1]):
        plane = np.nan_to_num(values[..., index])
        blurred = cv2.GaussianBlur(plane, (0, 0), sigma)
        np.divide(blurred, weight, out=result[..., index], where=known)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAreas:
    """Square millimetres of the tissue of a slide or of one of its pieces.

    Attributes
    ----------
    piece : int
        Number of the piece; 0 for the whole slide.
    tissue_mm2 : float
        All tissue.
    class_mm2 : dict of str to float
        Tissue of each class.
    undecided_mm2, unpredicted_mm2 : float
        Tissue that the rule gives to no class, and tissue that no tile covers.
    """

    piece: int
    tissue_mm2: float
    class_mm2: dict[str, float]
    undecided_mm2: float
    unpredicted_mm2: float


def measure_areas(class_map: ClassMap, mpp: float) -> list[ClassAreas]:
    """Measure tissue and classes, of the slide and of each piece.

    Parameters
    ----------
    class_map : ClassMap
        The map.
    mpp : float
        Resolution at level 0, um/px.

    Returns
    -------
    list of ClassAreas
        The slide first, then its pieces in order of their numbers.
    """
    k = len(class_map.class_names)
    count = int(class_map.pieces.max(initial=0)) + 1
    px = np.zeros(count * (k + 3))
    codes = class_map.pieces * (k + 3) + (class_map.labels - NoClass.GLASS)
    widths, heights = np.diff(class_map.x_edges), np.diff(class_map.y_edges)
    # row by row: a weight for each cell of a large slide would be the largest array of all
    for row, height in zip(codes, heights.tolist(), strict=True):
        px += height * np.bincount(row, weights=widths, minlength=len(px))
    mm2 = px.reshape(count, k + 3) * (mpp / 1000) ** 2
    mm2[0] = mm2[1:].sum(axis=0)
    return [_areas(piece, row, class_map.class_names) for piece, row in enumerate(mm2)]


def _areas(piece: int, row: NDArray[np.float64], names: tuple[str, ...]) -> ClassAreas:
    classes = row[-NoClass.GLASS :].tolist()
    return ClassAreas(
        piece=piece,
        tissue_mm2=float(row.sum()),
        class_mm2=dict(zip(names, classes, strict=True)),
        undecided_mm2=float(row[NoClass.UNDECIDED - NoClass.GLASS]),
        unpredicted_mm2=float(row[NoClass.UNPREDICTED - NoClass.GLASS]),
    )


def _cell_of(
    edges: NDArray[Any], places: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the cell that holds each place, and whether there is none."""
    found = np.searchsorted(edges, places, side="right") - 1
    outside = (found < 0) | (found >= len(edges) - 1)
    return found.clip(0, max(0, len(edges) - 2)), outside
