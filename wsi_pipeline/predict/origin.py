"""Predictions and what is known of the slide -> predictions that say where they are from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wsi_pipeline.tissue.cores import name_cores
from wsi_pipeline.tissue.pieces import find_pieces
from wsi_pipeline.types import Origin, Predictions

if TYPE_CHECKING:
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.types import SlideRecords


def with_origin(
    predictions: Predictions, records: SlideRecords, model: TrainedModel
) -> Predictions:
    """Add slide, model and the piece of tissue that each tile belongs to, by name if it is a core.

    Parameters
    ----------
    predictions : Predictions
        What the model gave.
    records : SlideRecords
        What is known of the slide.
    model : TrainedModel
        The model.

    Returns
    -------
    Predictions
        The same probabilities, with ``origin``, ``piece`` and ``cores``.
    """
    origin = Origin(
        slide_id=records.slide.slide_id,
        mpp=records.slide.mpp,
        model=model.spec.name,
        model_fingerprint=model.fingerprint,
        slide_fingerprint=records.fingerprint,
        config_hash=records.config_hash,
    )
    pieces = find_pieces(records.mask, records.slide.mpp)
    centres = predictions.xy + predictions.extent / 2
    cores = name_cores(pieces, records.slide.mpp)
    return replace(
        predictions,
        origin=origin,
        piece=pieces.nearest(centres),
        cores=cores if any(cores) else (),
    )
