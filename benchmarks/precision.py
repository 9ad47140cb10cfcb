"""Slides -> what fewer bits of H/E save on disk, and what they cost in predictions.

Usage: ``python benchmarks/precision.py SLIDE [SLIDE ...] [--model demo]``. Stores of every
precision are made of each slide and predicted by one model; half precision (``--he-values
float16``) is what they are compared with. Prints a Markdown table over the patches of all slides.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsi_pipeline.config import PredictConfig, load_config
from wsi_pipeline.models import load_model, model_defaults
from wsi_pipeline.predict.patches import predict_store
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.predict.trained import TrainedModel

BITS = (8, 7, 6, 5, 4, 3)


class Stored(NamedTuple):
    """Patches of one precision: their bytes on disk, and probabilities (N, C)."""

    size: int
    prob: NDArray[np.float32]


def measure(slides: list[Path], model: TrainedModel, choices: dict[str, Any]) -> Stored:
    """Store the slides with some choices and predict them."""
    config = load_config(overrides={"store": choices}, base=model_defaults(model))
    size, prob = 0, []
    with tempfile.TemporaryDirectory() as folder:
        for slide in slides:
            job = SlideJob(path=slide, slide_id=slide.stem)
            store = preprocess_slide(job, Path(folder) / f"{slide.stem}.zarr", config).store
            size += sum(file.stat().st_size for file in (store.path / "he").iterdir())
            prob.append(predict_store(store, model.module, model.spec, PredictConfig()).prob)
    return Stored(size, np.concatenate(prob))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    model = load_model(options.model)
    whole = measure(options.slides, model, {"he_values": "float16"})
    first, second = np.sort(whole.prob, axis=1)[:, :-3:-1].T
    print(f"{len(whole.prob)} patches")
    print("| bits | KiB per patch | mean change | largest | labels changed | their lead, at most |")
    print("|---|---|---|---|---|---|")
    for bits in BITS:
        stored = measure(options.slides, model, {"he_bits": bits})
        change = np.abs(stored.prob - whole.prob)
        other = stored.prob.argmax(axis=1) != whole.prob.argmax(axis=1)
        lead = (first - second)[other].max(initial=0)
        print(
            f"| {bits} | {stored.size / len(change) / 1024:.1f} | {change.mean():.4f} "
            f"| {change.max():.3f} | {other.sum()} | {lead:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
