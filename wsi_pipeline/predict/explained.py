"""A patch store and a model of two stains -> what each stain says of a patch, and where in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_pipeline.config import Precision, PredictConfig
from wsi_pipeline.inference import Outputs, choose_devices, he_feed
from wsi_pipeline.predict.patches import store_outputs
from wsi_pipeline.types import Progress, StainExplanations

if TYPE_CHECKING:
    from torch import Tensor

    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.store import PatchStore


class _Explainer(Protocol):
    def maps(self, he: Tensor) -> Tensor: ...


def explain_store(
    store: PatchStore,
    explainer: TrainedModel,
    config: PredictConfig,
    progress: Progress | None = None,
) -> StainExplanations:
    """Tell the part of each stain in what a model says of the patches of a store.

    Parameters
    ----------
    store : PatchStore
        The patches.
    explainer : TrainedModel
        As :func:`wsi_pipeline.models.load_explainer` gives it.
    config : PredictConfig
        Device and batch size. The arithmetic is float32, so that the parts add up.
    progress : Progress or None
        Told of every batch.

    Returns
    -------
    StainExplanations
        In the order of the store.

    Raises
    ------
    ModelMismatchError
        If the model was trained for other patches.
    ModelOutputError
        If it gives values that are no numbers.
    """
    spec = explainer.spec
    exact = config.model_copy(update={"precision": Precision.FLOAT32})
    outputs = Outputs(model=spec.name, count=2 * len(spec.class_names), what="parts of stains")
    both = store_outputs(store, explainer.module, spec, outputs, exact, progress)
    return StainExplanations(
        parts=both.reshape(len(store), 2, len(spec.class_names)),
        xy=store.xy,
        rc=store.rc,
        extent=store.extent,
        class_names=spec.class_names,
        class_colors=spec.class_colors,
        stain_names=store.stain.names,
    )


def map_patches(
    store: PatchStore, explainer: TrainedModel, indices: Sequence[int], config: PredictConfig
) -> NDArray[np.float32]:
    """Tell where in some patches each stain speaks for each class.

    Parameters
    ----------
    store : PatchStore
        The patches.
    explainer : TrainedModel
        As :func:`wsi_pipeline.models.load_explainer` gives it.
    indices : sequence of int
        Which patches, at least one.
    config : PredictConfig
        Device.

    Returns
    -------
    ndarray of shape (n, 2, K, h, w), float32
        The mean over the last two axes is ``parts`` of :func:`explain_store`. Places lie on the
        middle ``patch_px`` of the model.
    """
    spec = explainer.spec
    device = choose_devices(config.device)[0]
    feed = he_feed(len(store), store.read_he, spec)
    stored = np.concatenate([store.read_he(index, index + 1) for index in indices])
    with torch.inference_mode():
        patches = feed.to_input.to(device)(torch.from_numpy(stored).to(device))
        module = explainer.module.to(device).eval()
        maps = cast("_Explainer", module).maps(_centre(patches, spec.patch_px))
    return np.asarray(maps.float().cpu().numpy())


def _centre(patches: Tensor, side: int) -> Tensor:
    top = (patches.shape[-1] - side) // 2
    return patches[..., top : top + side, top : top + side]
