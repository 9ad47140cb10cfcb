"""Patches and any classifier -> class probabilities, in order.

Says which patches a model may be given, and makes probabilities of its logits. Knows nothing of
how the classifier came to be, and writes no files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_pipeline.errors import ModelMismatchError, ModelOutputError
from wsi_pipeline.inference import (
    Feed,
    Outputs,
    choose_devices,
    he_feed,
    rgb_feed,
    run_network,
)
from wsi_pipeline.types import ModelSpec, NoProgress, PatchSpec, Predictions, Progress

if TYPE_CHECKING:
    from wsi_pipeline.config import PredictConfig

MPP_TOLERANCE = 0.05
"""Relative difference of resolutions that a model is trusted to bear."""


class PlacedPatches(Protocol):
    """Patches of known places on a slide, made in a known way.

    :class:`~wsi_pipeline.store.PatchStore` is one; anything with these members will do.
    """

    def __len__(self) -> int:
        """Count the patches."""

    @property
    def patch_px(self) -> int:
        """Side P of the patches, px."""

    @property
    def mpp(self) -> float:
        """Resolution of the patches, um/px."""

    @property
    def stain_convention(self) -> str:
        """How the H/E values were made; see :data:`wsi_pipeline.types.STAIN_CONVENTION`."""

    @property
    def xy(self) -> NDArray[np.int64]:
        """Top-left corners, level-0 px, shape (N, 2)."""

    @property
    def rc(self) -> NDArray[np.int32]:
        """Lattice indices, shape (N, 2)."""

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the lattice."""

    @property
    def extent(self) -> float:
        """Side of a tile, level-0 px."""

    @property
    def pitch(self) -> float:
        """Distance between neighbouring tiles, level-0 px."""


class StoredPatches(PlacedPatches, Protocol):
    """Patches that can be read in ranges, from several threads."""

    @property
    def has_rgb(self) -> bool:
        """Whether there are RGB patches beside the stained ones."""

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8] | NDArray[np.float16]:
        """Read the H/E patches ``start`` to ``stop``, shape (stop - start, 2, P, P)."""

    def read_rgb(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read the RGB patches ``start`` to ``stop``, shape (stop - start, P, P, 3)."""


def predict_store(
    store: StoredPatches,
    model: nn.Module,
    spec: ModelSpec,
    config: PredictConfig,
    progress: Progress | None = None,
) -> Predictions:
    """Send every patch of a store through a model.

    Parameters
    ----------
    store : PlacedPatches
        The patches, such as a :class:`~wsi_pipeline.store.PatchStore`; none at all is legal.
    model : Module
        Maps (B, 2, p, p) float32 patches, normalised as ``spec`` says, to (B, K) logits, followed
        by a distance where ``spec.gives_distance``. It is
        moved to the device and run in evaluation mode; its training flags are put back.
    spec : ModelSpec
        What the model expects and gives. Patches larger than its ``patch_px`` are cropped at
        their centre.
    config : PredictConfig
        Device, batch size, precision.
    progress : Progress or None
        Told of every batch.

    Returns
    -------
    Predictions
        In the order of the store. They do not depend on shards and chunks. Another batch size
        may change probabilities by rounding: by less than 1e-5 in float32; by less than 0.05
        in bfloat16, whose arithmetic keeps 8 bits.

    Raises
    ------
    ModelMismatchError
        If the store holds patches of another resolution, size or stain convention, or the model
        gives another number of classes, than ``spec`` says.
    ModelOutputError
        If the model gives values that are no numbers.
    ConfigError
        If there is no such device.

    Notes
    -----
    The input of the model is ``(v / 255 - mean) / std`` for stored uint8 values ``v``, computed
    on the device, to which the bytes travel. Softmax is in float32 whatever the precision.
    """
    return predict_feed(store, _store_feed(store, spec), model, spec, config, progress)


def store_outputs(
    store: StoredPatches,
    module: nn.Module,
    spec: PatchSpec,
    outputs: Outputs,
    config: PredictConfig,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Send every patch of a store through a network whose numbers are no logits.

    Parameters
    ----------
    store : StoredPatches
        The patches; none at all is legal.
    module : Module
        Maps patches as ``spec`` says to (B, K) numbers.
    spec : PatchSpec
        What it expects.
    outputs : Outputs
        What they are, and how many, K.
    config, progress
        As for :func:`predict_store`.

    Returns
    -------
    ndarray of shape (N, K), float32
        In the order of the store.

    Raises
    ------
    ModelMismatchError, ModelOutputError, ConfigError
        As :func:`predict_store`.
    """
    feed = _store_feed(store, spec)
    progress = progress or NoProgress()
    progress.start(outputs.what, len(store))
    devices = choose_devices(config.device)
    given = run_network(module, feed, outputs, devices, config, progress)
    require_finite(given, spec.name)
    return np.asarray(given.numpy(), dtype=np.float32)


def _store_feed(store: StoredPatches, spec: PatchSpec) -> Feed:
    """Choose what a model is given of the patches of a store, if it may be given them at all."""
    require_match(store, spec)
    if spec.input == "he":
        return he_feed(len(store), store.read_he, spec)
    if store.has_rgb:
        return rgb_feed(len(store), store.read_rgb, spec)
    raise ModelMismatchError(
        f"model {spec.name} takes RGB patches, but the store holds H/E patches alone; "
        "preprocess the slide with --keep-rgb, or predict it with 'run --no-store'"
    )


def predict_feed(
    patches: PlacedPatches,
    feed: Feed,
    model: nn.Module,
    spec: ModelSpec,
    config: PredictConfig,
    progress: Progress | None = None,
) -> Predictions:
    """Send patches through a model that are read in a way of one's own.

    Parameters
    ----------
    patches : PlacedPatches
        Where they lie; that they fit the model is for :func:`require_match` to say.
    feed : Feed
        How they are read and made input.
    model, spec, config, progress
        As for :func:`predict_store`.

    Returns
    -------
    Predictions
        In the order of the feed.

    Raises
    ------
    ModelMismatchError, ModelOutputError, ConfigError
        As :func:`predict_store`.
    """
    progress = progress or NoProgress()
    devices = choose_devices(config.device)
    progress.start("predict", len(patches))
    count = len(spec.class_names)
    wanted = Outputs(model=spec.name, count=count + spec.gives_distance)
    outputs = run_network(model, feed, wanted, devices, config, progress)
    logits = outputs[:, :count]
    return Predictions(
        prob=_probabilities(logits, spec),
        xy=patches.xy,
        rc=patches.rc,
        shape=patches.grid_shape,
        extent=patches.extent,
        pitch=patches.pitch,
        class_names=spec.class_names,
        class_colors=spec.class_colors,
        distance=outputs[:, -1].numpy().astype(np.float32) if spec.gives_distance else None,
    )


def require_match(store: PlacedPatches, spec: PatchSpec) -> None:
    """Refuse patches that the model was not trained for.

    Parameters
    ----------
    store : PlacedPatches
        The patches.
    spec : PatchSpec
        What the model expects.

    Raises
    ------
    ModelMismatchError
        Naming what differs, both values, and what to do.
    """
    if spec.input == "he" and store.stain_convention != spec.stain_convention:
        raise ModelMismatchError(
            f"the patches follow the stain convention {store.stain_convention!r}, but model "
            f"{spec.name} expects {spec.stain_convention!r}; preprocess the slide with the "
            "version that the model was trained with, or use another model"
        )
    if abs(store.mpp / spec.mpp - 1) > MPP_TOLERANCE:
        raise ModelMismatchError(
            f"the patches have {store.mpp:g} um/px, but model {spec.name} expects {spec.mpp:g} "
            f"(within {MPP_TOLERANCE:.0%}); preprocess the slide with --mpp {spec.mpp:g}"
        )
    if store.patch_px < spec.patch_px:
        raise ModelMismatchError(
            f"the patches have {store.patch_px} px, but model {spec.name} expects at least "
            f"{spec.patch_px}; preprocess the slide with --patch-size {spec.patch_px}"
        )


def _probabilities(logits: Tensor, spec: ModelSpec) -> NDArray[np.float32]:
    require_finite(logits, spec.name)
    return np.asarray(logits.softmax(dim=1).numpy(), dtype=np.float32)


def require_finite(outputs: Tensor, name: str) -> None:
    """Refuse outputs that are no numbers; once, at the end, so that a GPU never waits for it.

    Parameters
    ----------
    outputs : Tensor of shape (N, K)
        What a network gave.
    name : str
        Its name, for the message.

    Raises
    ------
    ModelOutputError
        Naming how many patches, and the first.
    """
    wrong = ~torch.isfinite(outputs).all(dim=1)
    if wrong.any():
        raise ModelOutputError(
            f"model {name} gave values that are no numbers for {int(wrong.sum())} of "
            f"{len(outputs)} patches, first for patch {int(wrong.nonzero()[0])}; try --precision "
            "float32, and check that its normalisation is that of its training"
        )
