"""Tissue of a slide -> outlines of its pieces as GeoJSON, or the mask as a picture.

Both can be edited and given back with ``--tissue-mask``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from shapely import set_precision
from shapely.geometry import Point

from wsi_pipeline.files import replace_atomically
from wsi_pipeline.results.export.geojson import annotation_feature, write_collection
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.outlines import outline_regions
from wsi_pipeline.tissue.cores import piece_boxes
from wsi_pipeline.tissue.pieces import pixel_edges

if TYPE_CHECKING:
    from shapely.geometry import Polygon

    from wsi_pipeline.results.slide_result import SlideResult

TISSUE_CLASS = {"name": "Tissue", "color": [0, 121, 107]}


def write_outlines(path: Path, result: SlideResult) -> None:
    """Write one annotation per piece of tissue, with its area in mm2.

    Its name is that of the core, such as ``A-1``, or the number of the piece.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide; predictions are not needed. Outlines follow the pixels of the mask.
    """
    write_collection(path, _features(result), result.records.slide.bounds_xy)


def _features(result: SlideResult) -> Iterator[dict[str, Any]]:
    pieces = result.pieces
    y_edges, x_edges = (
        pixel_edges(n, scale)
        for n, scale in zip(pieces.labels.shape, pieces.downsample[::-1], strict=True)
    )
    fragments: dict[int, list[Polygon]] = {}
    for region in outline_regions(pieces.labels, x_edges, y_edges, 0):
        fragments.setdefault(region.label, []).append(region.polygon)
    for number, polygons in fragments.items():
        mm2 = sum(polygon.area for polygon in polygons) * (result.mpp / 1000) ** 2
        yield annotation_feature(
            polygons,
            TISSUE_CLASS,
            name=result.cores[number - 1] or f"piece {number}",
            measurements={"area mm2": mm2, "piece": number},
        )


def write_cores(path: Path, result: SlideResult) -> None:
    """Write one ``tmaCore`` of QuPath per core of a tissue microarray; none where there is none.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide; predictions are not needed. A core is the circle around its piece of tissue.
    """
    write_collection(path, _cores(result), result.records.slide.bounds_xy)


def _cores(result: SlideResult) -> Iterator[dict[str, Any]]:
    boxes = piece_boxes(result.pieces).tolist()
    for number, (name, box) in enumerate(zip(result.cores, boxes, strict=True), start=1):
        if not name:
            continue
        x0, y0, x1, y1 = box
        circle = Point((x0 + x1) / 2, (y0 + y1) / 2).buffer(max(x1 - x0, y1 - y0) / 2)
        core = annotation_feature(
            [set_precision(circle, 1)], TISSUE_CLASS, name=name, measurements={"piece": number}
        )
        core["properties"] |= {"objectType": "tmaCore", "isMissing": False}
        yield core


def write_picture(path: Path, result: SlideResult) -> None:
    """Write the tissue mask as a PNG of 0 and 255 that covers the whole slide."""
    with replace_atomically(path) as partial:
        pixels = result.records.mask.tissue.astype(np.uint8) * 255
        partial.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


OUTLINES = Export(file="tissue.geojson", write=write_outlines, needs_model=False)
CORES = Export(file="cores.geojson", write=write_cores, needs_model=False)
PICTURE = Export(file="tissue.png", write=write_picture, needs_model=False)
