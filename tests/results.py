"""Results of small slides, for tests of exports and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.stores import make_header, make_predictions, make_store
from wsi_pipeline.predict.origin import with_origin
from wsi_pipeline.predict.trained import TrainedModel
from wsi_pipeline.results.class_map import ClassRule
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.types import ModelSpec, Predictions


def spec_of(predictions: Predictions) -> ModelSpec:
    """Describe a model that gives such predictions."""
    return ModelSpec(
        name="model",
        class_names=predictions.class_names,
        class_colors=predictions.class_colors,
        mpp=0.5,
        patch_px=8,
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
    )


def make_result(folder: Path, *, n: int = 40, rule: ClassRule | None = None) -> SlideResult:
    """Store ``n`` of 8 x 10 tiles of a slide of 120 x 80 px, and predict them at random.

    Tissue are 60 x 40 px in the middle.
    """
    store = make_store(folder / "slide-1" / "patches.zarr", make_header(n))
    drawn = make_predictions((8, 10), 80, seed=n)
    kept = np.ravel_multi_index(tuple(store.rc.T), (8, 10))
    found = Predictions(
        prob=drawn.prob[kept],
        xy=store.xy,
        rc=store.rc,
        shape=store.grid_shape,
        extent=store.extent,
        pitch=store.pitch,
        class_names=drawn.class_names,
        class_colors=drawn.class_colors,
    )
    model = TrainedModel(
        module=None,  # type: ignore[arg-type]  # nothing is predicted with it
        spec=spec_of(found),
        fingerprint="weights",
        trained_on="nothing",
    )
    found = with_origin(found, store, model)
    return SlideResult(records=store, found=found, rule=rule or ClassRule())
