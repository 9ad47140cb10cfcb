"""The truth of a synthetic slide -> annotated areas, as a pathologist would draw them in QuPath.

So that training can start from synthetic slides just as it does from real ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import shapely

from wsi_pipeline.files import replace_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsi_pipeline.synthetic.truth import SyntheticTruth


def write_areas(path: Path, truth: SyntheticTruth) -> None:
    """Write the areas of every class but the background as GeoJSON.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    truth : SyntheticTruth
        The slide. Areas are as exact as its class map, and may have holes.

    Notes
    -----
    A FeatureCollection of polygons in level-0 px, each with the name of its class under
    ``properties.classification.name``.
    """
    features = [
        _feature(polygon, name)
        for code, name in enumerate(truth.class_names)
        if code > 0
        for polygon in _polygons(truth.class_map == code, truth.downsample)
    ]
    collection = {"type": "FeatureCollection", "features": features}
    with replace_atomically(path) as partial:
        partial.write_text(json.dumps(collection), encoding="utf-8")


def _feature(polygon: shapely.Polygon, name: str) -> dict[str, Any]:
    """Describe an annotated area as a GeoJSON feature."""
    return {
        "type": "Feature",
        "geometry": shapely.geometry.mapping(polygon),
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }


def _polygons(mask: NDArray[np.bool_], downsample: int) -> Iterator[shapely.Polygon]:
    """Outline the connected areas of a mask, in level-0 px."""
    contours, hierarchy = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    if hierarchy is None:
        return
    rings = [contour[:, 0, :] for contour in contours]
    for index, (_, _, _, parent) in enumerate(hierarchy[0].tolist()):
        if parent >= 0 or len(rings[index]) < 3:
            continue
        # contours of areas run through the centres of their outermost pixels, those of holes
        # through the pixels around the hole
        holes = [
            _polygon(ring).buffer(-0.5, join_style="mitre")
            for ring, entry in zip(rings, hierarchy[0].tolist(), strict=True)
            if entry[3] == index and len(ring) >= 4
        ]
        area = _polygon(rings[index]).buffer(0.5, join_style="mitre")
        area = area.difference(shapely.union_all(holes))
        for part in shapely.get_parts(area):
            if isinstance(part, shapely.Polygon) and not part.is_empty:
                yield shapely.transform(part, lambda xy: (xy + 0.5) * downsample)


def _polygon(ring: NDArray[Any]) -> shapely.Geometry:
    """Make a ring valid; one that touches itself falls into parts."""
    return shapely.make_valid(shapely.Polygon(ring))
