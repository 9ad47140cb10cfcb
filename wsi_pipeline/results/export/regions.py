"""Class map -> GeoJSON of connected regions, clipped to tissue, with their areas in mm2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.results.class_map import NoClass
from wsi_pipeline.results.export.geojson import (
    annotation_feature,
    classifications,
    write_collection,
)
from wsi_pipeline.results.export.registry import Export
from wsi_pipeline.results.outlines import outline_regions

if TYPE_CHECKING:
    from wsi_pipeline.results.slide_result import SlideResult


def write_regions(path: Path, result: SlideResult) -> None:
    """Write one annotation per connected region of a class.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced in one step.
    result : SlideResult
        Of one slide.

    Notes
    -----
    Regions are polygons with holes that do not overlap; they end where tissue ends. Each carries
    its class, its area in mm2, the number of its piece of tissue and, on a tissue microarray, the
    name of its core. The areas of a class add up to
    what :func:`~wsi_pipeline.results.class_map.measure_areas` says.
    """
    write_collection(path, _features(result), result.records.slide.bounds_xy)


def _features(result: SlideResult) -> Iterator[dict[str, Any]]:
    laid = result.class_map
    classes = classifications(laid.class_names, laid.class_colors)
    regions = outline_regions(laid.labels, laid.x_edges, laid.y_edges, NoClass.UNDECIDED)
    for region in regions:
        piece = int(laid.pieces[region.cell_rc])
        mm2 = region.polygon.area * (result.mpp / 1000) ** 2
        yield annotation_feature(
            [region.polygon],
            classes[region.label],
            name=result.cores[piece - 1] or None,
            measurements={"area mm2": mm2, "piece": piece},
        )


REGIONS = Export(file="regions.geojson", write=write_regions)
