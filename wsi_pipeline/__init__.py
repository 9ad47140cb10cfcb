"""From whole-slide images to H/E patches, patch labels, heatmaps and MIL inputs.

The names below are loaded when first used, so that importing the package loads neither torch nor
openslide.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Heatmap": "types",
    "ModelSpec": "types",
    "PatchStore": "store",
    "PipelineConfig": "config",
    "Predictions": "types",
    "RunOptions": "run.slides",
    "SlideInfo": "types",
    "SlideJob": "slide.inputs",
    "StainEstimate": "types",
    "StainMatrix": "types",
    "TileGrid": "types",
    "TissueMask": "types",
    "TrainedModel": "predict.trained",
    "WsiPipelineError": "errors",
    "detect_tissue": "tissue",
    "encode_he": "stain",
    "estimate_stain_matrix": "stain",
    "find_slides": "slide.inputs",
    "lay_grid": "tiles.grid",
    "load_config": "config",
    "load_model": "models",
    "open_slide": "slide.open",
    "paint_heatmap": "results.heatmap",
    "predict_slide": "run.one_store",
    "predict_store": "predict.patches",
    "preprocess_slide": "preprocess.slide_store",
    "read_annotations": "annotations",
    "read_polygons": "annotations",
    "run_slides": "run.slides",
    "unmix": "stain",
    "write_synthetic_slide": "synthetic",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:  # noqa: ANN401 -- any public object
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
