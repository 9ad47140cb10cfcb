"""Patches and an encoder -> one feature vector per patch, in order.

Says which patches an encoder may be given; where they are read, and what becomes of the vectors,
is decided elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import ModelMismatchError
from wsi_pipeline.inference import (
    Feed,
    Outputs,
    Restain,
    arithmetic,
    choose_devices,
    encoder_feed,
    he_feed,
    run_network,
)
from wsi_pipeline.predict.patches import require_finite, require_match
from wsi_pipeline.types import NoProgress, StainMatrix

if TYPE_CHECKING:
    from wsi_pipeline.config import Precision, PredictConfig
    from wsi_pipeline.predict.patches import StoredPatches
    from wsi_pipeline.predict.trained import TrainedEncoder
    from wsi_pipeline.types import EncoderSpec, Progress


Restaining = tuple[StainMatrix, StainMatrix]
"""The stains that patches have, and those that they are given."""


def encode_store(
    store: StoredPatches,
    encoder: TrainedEncoder,
    config: PredictConfig,
    *,
    restaining: Restaining | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Send every patch of a store through an encoder.

    Parameters
    ----------
    store : StoredPatches
        The patches; none at all is legal.
    encoder : TrainedEncoder
        The encoder.
    config : PredictConfig
        Device, batch size, precision.
    restaining : tuple of StainMatrix or None
        The stains that the patches have and those they are given first, for an encoder of RGB.
    progress : Progress or None
        Told of every batch.

    Returns
    -------
    ndarray of shape (N, F), float32
        In the order of the store.

    Raises
    ------
    ModelMismatchError
        If the patches are of another resolution, size or stain convention, hold no RGB where the
        encoder takes it, or the encoder gives another number of features than it says.
    ModelOutputError
        If it gives values that are no numbers.
    ConfigError
        If there is no such device.
    """
    spec = encoder.spec
    require_match(store, spec)
    if spec.input == "he":
        require_no_restaining(spec, restaining)
        feed = he_feed(len(store), store.read_he, spec)
    elif store.has_rgb:
        feed = colour_feed(store, spec, restaining)
    else:
        raise ModelMismatchError(
            f"encoder {spec.name} takes RGB patches, but the store holds H/E patches alone; "
            "preprocess the slide with --keep-rgb, or give the slide itself"
        )
    return encode_feed(feed, encoder, config, progress or NoProgress())


def encode_feed(
    feed: Feed, encoder: TrainedEncoder, config: PredictConfig, progress: Progress
) -> NDArray[np.float32]:
    """Send patches through an encoder that are read in a way of one's own.

    Parameters
    ----------
    feed : Feed
        How they are read and made input.
    encoder, config, progress
        As for :func:`encode_store`; that the patches fit is for others to say.

    Returns
    -------
    ndarray of shape (N, F), float32
        In the order of the feed. The same pixels give the same bits, wherever they are read, on
        one device with one batch size.

    Raises
    ------
    ModelMismatchError, ModelOutputError, ConfigError
        As :func:`encode_store`.
    """
    spec = encoder.spec
    devices = choose_devices(config.device)
    outputs = Outputs(
        model=spec.name, count=spec.features, what="features", published_with=spec.precision
    )
    progress.start("features", feed.count)
    features = run_network(encoder.module, feed, outputs, devices, config, progress)
    require_finite(features, spec.name)
    return np.asarray(features.numpy(), dtype=np.float32)


def device_and_precision(spec: EncoderSpec, config: PredictConfig) -> tuple[str, Precision]:
    """Tell the kind of device an encoder will run on, and the arithmetic it will run with."""
    device = choose_devices(config.device)[0]
    return device.type, arithmetic(device, config.precision, spec.precision)


def colour_feed(
    patches: StoredPatches,
    spec: EncoderSpec,
    restaining: Restaining | None,
    readers: int | None = None,
) -> Feed:
    """Feed the colours of patches, stained anew if asked for, to an encoder that takes them."""
    restain = None if restaining is None else Restain(*restaining)
    return encoder_feed(len(patches), patches.read_rgb, spec, restain, readers=readers)


def require_no_restaining(spec: EncoderSpec, restaining: Restaining | None) -> None:
    """Refuse to stain anew what an encoder sees as stains: they are normalised as they are.

    Raises
    ------
    ModelMismatchError
        If it is asked for.
    """
    if restaining is not None:
        raise ModelMismatchError(
            f"encoder {spec.name} takes the stains of a patch, which are normalised as they are; "
            "leave --normalise out"
        )
