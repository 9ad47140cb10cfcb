"""Names of exports -> the exports: those of the pipeline and those of installed packages.

An export turns one slide's result into one file or folder. Nothing is loaded before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.registry import Registry

if TYPE_CHECKING:
    from wsi_pipeline.results.slide_result import SlideResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One way to write what was found on a slide.

    Attributes
    ----------
    file : str
        Name of the file or folder; ``{slide_id}`` stands for the slide.
    write : callable
        Takes the path to write and the :class:`~wsi_pipeline.results.slide_result.SlideResult`.
        What exists under the final name must be whole.
    needs_model : bool
        Whether predictions are needed. Without, it is written beside the patch store.
    """

    file: str
    write: Callable[[Path, SlideResult], None]
    needs_model: bool = True


EXPORTS: Registry[Export] = Registry(
    "export",
    "wsi_pipeline.exports",
    {
        "geojson": "wsi_pipeline.results.export.geojson:TILES",
        "regions": "wsi_pipeline.results.export.regions:REGIONS",
        "tissue": "wsi_pipeline.results.export.tissue:OUTLINES",
        "tissue-png": "wsi_pipeline.results.export.tissue:PICTURE",
        "cores": "wsi_pipeline.results.export.tissue:CORES",
        "areas": "wsi_pipeline.results.export.tables:AREAS",
        "csv": "wsi_pipeline.results.export.tables:TILES",
        "ome-tiff": "wsi_pipeline.results.export.ome_tiff:BYTES",
        "ome-tiff-float": "wsi_pipeline.results.export.ome_tiff:FLOATS",
        "ome-zarr": "wsi_pipeline.results.export.ome_zarr:OME_ZARR",
        "anndata": "wsi_pipeline.results.export.anndata_file:ANNDATA",
        "spatialdata": "wsi_pipeline.results.export.spatialdata_folder:SPATIALDATA",
        "dicom": "wsi_pipeline.results.export.dicom:DICOM",
    },
)
"""All exports, by name."""
