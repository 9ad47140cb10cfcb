"""An encoder -> what it gives for one tile that anyone can make, on a processor in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.config import Precision, PredictConfig
from wsi_pipeline.errors import ModelMismatchError
from wsi_pipeline.inference import encoder_feed
from wsi_pipeline.predict.encode import encode_feed
from wsi_pipeline.types import NoProgress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.predict.trained import TrainedEncoder


def encode_tile(encoder: TrainedEncoder, tile: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Encode one tile of colours, just as the tiles of slides are.

    Parameters
    ----------
    encoder : TrainedEncoder
        The encoder; it takes colours.
    tile : ndarray of shape (P, P, 3), uint8
        Of the side that it asks for.

    Returns
    -------
    ndarray of shape (F,), float32
        Its features.

    Raises
    ------
    ModelMismatchError
        If it takes stains.
    """
    if encoder.spec.input != "rgb":
        raise ModelMismatchError(
            f"encoder {encoder.spec.name} takes stains, not colours; golden vectors are for "
            "encoders of colours, and a bundle is known by its fingerprint"
        )

    def read(start: int, stop: int) -> NDArray[np.uint8]:
        return np.repeat(tile[None], stop - start, axis=0)

    feed = encoder_feed(1, read, encoder.spec, None)
    config = PredictConfig(device="cpu", precision=Precision.FLOAT32, batch_size=1)
    (features,) = encode_feed(feed, encoder, config, NoProgress())
    return np.asarray(features)
