"""What 8 bits cost: predictions from stores of both precisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.config import PredictConfig, load_config
from wsi_pipeline.models import load_model, model_defaults
from wsi_pipeline.predict.patches import predict_store
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob

if TYPE_CHECKING:
    from pathlib import Path

    from tests.known import KnownSlide


def test_eight_bits_change_predictions_by_less_than_a_fiftieth(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    model = load_model("demo")
    prob = {}
    for values in ("uint8", "float16"):
        config = load_config(overrides={"store": {"he_values": values}}, base=model_defaults(model))
        job = SlideJob(path=known_slide.path, slide_id="known")
        store = preprocess_slide(job, tmp_path / f"{values}.zarr", config).store
        prob[values] = predict_store(store, model.module, model.spec, PredictConfig()).prob

    difference = np.abs(prob["uint8"] - prob["float16"])
    first, second = np.sort(prob["float16"], axis=1)[:, :-3:-1].T
    decided = first - second > 0.04
    same = prob["uint8"].argmax(axis=1) == prob["float16"].argmax(axis=1)

    assert difference.max() < 0.02
    assert difference.mean() < 0.001
    assert same[decided].all()
    assert decided.mean() > 0.9
