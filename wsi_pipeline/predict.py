"""A patch source and any classifier -> class probabilities of every patch, in order.

Streams: memory does not grow with the slide beside the probabilities. Knows nothing of how the
classifier came to be, and writes no files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_pipeline.config import Precision, PredictConfig
from wsi_pipeline.dataset import PatchSource, shard_batches
from wsi_pipeline.errors import ConfigError, ModelMismatchError, ModelOutputError
from wsi_pipeline.types import ModelSpec, NoProgress, Predictions, Progress

MPP_TOLERANCE = 0.05
"""Relative difference of resolutions that a model is trusted to bear."""


class PlacedPatches(PatchSource, Protocol):
    """A patch source that knows where on the slide its patches lie and how they were made."""

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


def predict_store(
    store: PlacedPatches,
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
        Maps (B, 2, p, p) float32 patches, normalised as ``spec`` says, to (B, K) logits. It is
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
    require_match(store, spec)
    device = choose_device(config.device)
    progress = progress or NoProgress()
    progress.start("predict", len(store))
    logits = torch.empty((len(store), len(spec.class_names)), device=device)
    network = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    statistics = torch.tensor([spec.mean, spec.std], device=device).view(2, 1, 2, 1, 1)
    start = 0
    with torch.inference_mode(), _evaluating(network), _autocast(device, config.precision):
        for batch in shard_batches(
            store, config.batch_size, crop_px=spec.patch_px, pin=device.type == "cuda"
        ):
            given = network(_normalised(batch, statistics))
            _require_shape(given, len(batch), spec)
            logits[start : start + len(batch)] = given
            start += len(batch)
            progress.advance(len(batch))
    return Predictions(
        prob=_probabilities(logits, spec),
        xy=store.xy,
        rc=store.rc,
        shape=store.grid_shape,
        extent=store.extent,
        pitch=store.pitch,
        class_names=spec.class_names,
        class_colors=spec.class_colors,
    )


def require_match(store: PlacedPatches, spec: ModelSpec) -> None:
    """Refuse patches that the model was not trained for.

    Parameters
    ----------
    store : PlacedPatches
        The patches.
    spec : ModelSpec
        What the model expects.

    Raises
    ------
    ModelMismatchError
        Naming what differs, both values, and what to do.
    """
    if store.stain_convention != spec.stain_convention:
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


def choose_device(name: str) -> torch.device:
    """Resolve the name of a device.

    Parameters
    ----------
    name : str
        A torch device, or ``auto``: the GPU if there is one.

    Returns
    -------
    torch.device
        A device that is there.

    Raises
    ------
    ConfigError
        If the name is none of torch's, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}; use --device auto, or one that this "
            "machine has"
        ) from error
    return device


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and every module's own flag back afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    half = precision is Precision.BFLOAT16 or (precision is Precision.AUTO and native)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)


def _normalised(batch: Tensor, statistics: Tensor) -> Tensor:
    """Send stored values to the device as they are and make network input of them there.

    ``statistics`` are mean and deviation of H and E in [0, 1], shape (2, 1, 2, 1, 1).
    """
    values = batch.to(statistics.device, non_blocking=True).float()
    mean, std = statistics * (255.0 if batch.dtype == torch.uint8 else 1.0)
    # in place and reordered last: eight times as fast on a CPU as arithmetic in that order
    return values.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def _require_shape(logits: Tensor, n: int, spec: ModelSpec) -> None:
    expected = (n, len(spec.class_names))
    if tuple(logits.shape) != expected:
        raise ModelMismatchError(
            f"model {spec.name} gave an output of shape {tuple(logits.shape)} for {n} patches and "
            f"{len(spec.class_names)} classes, expected {expected}; check its class_names"
        )


def _probabilities(logits: Tensor, spec: ModelSpec) -> NDArray[np.float32]:
    """Softmax in float32; checked once at the end, so that a GPU never waits for the check."""
    wrong = ~torch.isfinite(logits).all(dim=1)
    if wrong.any():
        raise ModelOutputError(
            f"model {spec.name} gave values that are no numbers for {int(wrong.sum())} of "
            f"{len(logits)} patches, first for patch {int(wrong.nonzero()[0])}; try --precision "
            "float32, and check that its normalisation is that of its training"
        )
    return np.asarray(logits.softmax(dim=1).cpu().numpy(), dtype=np.float32)
