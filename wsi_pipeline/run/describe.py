"""What is known of a slide, its tiles and its predictions -> what a record says of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wsi_pipeline.preprocess.doubts import find_doubts
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.results.views import rule_of
from wsi_pipeline.run.outcome import Status
from wsi_pipeline.tissue.pieces import measure_tissue

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.run.work import SlideOptions
    from wsi_pipeline.slide.job import SlideJob
    from wsi_pipeline.types import Predictions, SlideRecords


def describe_slide(job: SlideJob, patches: SlideRecords) -> dict[str, Any]:
    """Gather what a record says of a slide and its tiles."""
    mpp_mm = patches.slide.mpp / 1000
    return {
        "slide_id": job.slide_id,
        "path": job.shown,
        "status": Status.DONE if patches.funnel().get("kept") else Status.EMPTY,
        "slide": asdict(patches.slide),
        "stain": _stain_record(patches),
        "funnel": patches.funnel(),
        "doubts": find_doubts(patches),
        "tissue_mm2": measure_tissue(patches.mask, patches.slide.mpp),
        "tile_mm2": (patches.pitch * mpp_mm) ** 2,
        "labels": {
            name: int((patches.label == index).sum())
            for index, name in enumerate(patches.label_names)
        },
        "patient": next((name for name in patches.group if name != job.slide_id), ""),
    }


def describe_areas(
    records: SlideRecords, predictions: Predictions, options: SlideOptions
) -> dict[str, Any]:
    """Gather what a record says of classes: the areas that the heatmap shows."""
    rule = rule_of(options.config.results)
    result = SlideResult(records=records, found=predictions, rule=rule)
    return {
        "class_shares": result.class_shares,
        "classified_mm2": sum(result.areas[0].class_mm2.values()),
        "pieces": len(result.areas) - 1,
    }


def join_doubts(doubts: tuple[str, ...], predictions: Predictions) -> tuple[str, ...]:
    """Join the doubts about a slide and those about what a model found on it, each once."""
    return tuple(dict.fromkeys((*doubts, *predictions.doubts)))


def describe_predictions(
    predictions: Predictions, model: TrainedModel, options: SlideOptions
) -> dict[str, Any]:
    """Gather what a record says of predictions."""
    return {
        "model": model.spec.name,
        "class_colors": dict(zip(predictions.class_names, predictions.class_colors, strict=True)),
        "device": _device(options),
    }


def _stain_record(store: SlideRecords) -> dict[str, Any]:
    stain = store.stain
    return {
        "verdict": stain.verdict,
        "reasons": list(stain.reasons),
        "pixel_count": stain.pixel_count,
        "names": list(stain.names),
        "matrix": stain.matrix.to_dict(),
    }


def _device(options: SlideOptions) -> str:
    from wsi_pipeline.inference import choose_devices

    return choose_devices(options.config.predict.device)[0].type
