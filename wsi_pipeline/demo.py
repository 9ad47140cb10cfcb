"""A synthetic slide -> the whole job -> its accuracy against the truth.

The smallest complete use of the pipeline, and the proof that an installation works.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsi_pipeline.config import load_config
from wsi_pipeline.errors import WsiPipelineError
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.run.slides import RunOptions, run_slides
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.synthetic import SyntheticTruth, write_synthetic_slide

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.run.slides import Monitor
    from wsi_pipeline.types import Predictions

PURE = 0.95
"""Share of a tile that must be of one class for the tile to be judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What a demonstration found.

    Attributes
    ----------
    accuracy : float
        Share of the judged tiles with the right label.
    judged, tiles : int
        Tiles that lie in one class, and all that were kept.
    files : dict of str to Path
        Slide, report, heatmap and the other results.
    """

    accuracy: float
    judged: int
    tiles: int
    files: dict[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "accuracy": self.accuracy,
            "judged": self.judged,
            "tiles": self.tiles,
            "files": {name: str(path) for name, path in self.files.items()},
        }


def run_demo(
    out: Path, model: TrainedModel, *, size_px: int, seed: int, monitor: Monitor | None = None
) -> DemoResult:
    """Write a synthetic slide, run everything on it and compare with the truth.

    Parameters
    ----------
    out : Path
        Folder for the slide and the results.
    model : TrainedModel
        A model whose classes are those of the synthetic slide.
    size_px : int
        Side of the slide, px at the model's resolution.
    seed : int
        Another slide per seed.
    monitor : Monitor or None
        Told how it goes.

    Returns
    -------
    DemoResult
        Accuracy over the tiles that lie in one class, and where the files are.

    Raises
    ------
    WsiPipelineError
        If the run failed.
    """
    spec = model.spec
    out.mkdir(parents=True, exist_ok=True)
    slide = out / f"synthetic-{seed}-{size_px}.tif"
    truth = write_synthetic_slide(slide, (size_px, size_px), mpp=spec.mpp, seed=seed)
    truth.save(slide.with_suffix(".truth.npz"))
    config = load_config(base={"tile": {"mpp": spec.mpp, "patch_size": spec.patch_px}})
    options = RunOptions(out=out / "results", config=config, overwrite=True)
    job = SlideJob(path=slide, slide_id=slide.stem)
    (outcome,) = run_slides([job], options, model=model, monitor=monitor).outcomes
    if outcome.error is not None:
        raise WsiPipelineError(f"the demonstration failed: {outcome.error}")
    results = {name: options.out / path for name, path in outcome.files.items()}
    predictions = read_predictions(results["predictions"])
    accuracy, judged = judge(predictions, truth)
    return DemoResult(
        accuracy=accuracy,
        judged=judged,
        tiles=len(predictions),
        files={"slide": slide, **results, "report": options.out / "index.html"},
    )


def judge(predictions: Predictions, truth: SyntheticTruth) -> tuple[float, int]:
    """Compare predictions with the truth on the tiles that lie in one class.

    Parameters
    ----------
    predictions : Predictions
        Predictions of a synthetic slide.
    truth : SyntheticTruth
        Its truth.

    Returns
    -------
    accuracy : float
        Share of the judged tiles with the right label; NaN if there is none.
    judged : int
        Tiles of which :data:`PURE` is of one class of tissue.
    """
    labels, purity = truth.label_of(predictions.xy, predictions.extent)
    pure = (purity >= PURE) & (labels > 0)
    if not pure.any():
        return float("nan"), 0
    wanted = np.array(truth.class_names)[labels[pure]]
    given = np.array(predictions.class_names)[predictions.label[pure]]
    return float((wanted == given).mean()), int(pure.sum())
