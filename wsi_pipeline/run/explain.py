"""A patch store and a model of two stains -> a table and a sheet of what each stain says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.results.export.explanations import write_explanations
from wsi_pipeline.results.pictures.explanations import ExplainedPatch, draw_explanations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import Progress, StainExplanations

TABLE_NAME = "explanations.parquet"
SHEET_NAME = "explanations.png"


def explain_slide(
    store: PatchStore,
    explainer: TrainedModel,
    config: PredictConfig,
    *,
    per_class: int = 3,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Write what each stain says of the patches of a slide, and show the clearest of each class.

    Parameters
    ----------
    store : PatchStore
        The patches; a folder named after the model lies beside it, or is made.
    explainer : TrainedModel
        As :func:`wsi_pipeline.models.load_explainer` gives it.
    config : PredictConfig
        Device and batch size.
    per_class : int
        Patches of each class on the sheet.
    progress : Progress or None
        Told of every batch.

    Returns
    -------
    dict of str to Path
        The table and the sheet, by kind.

    Raises
    ------
    ModelMismatchError
        If the model was trained for other patches.
    """
    # torch is loaded here, so that the other steps do not wait for it
    from wsi_pipeline.predict.explained import explain_store, map_patches

    folder = store.path.parent / explainer.spec.name
    files = {"table": folder / TABLE_NAME, "sheet": folder / SHEET_NAME}
    found = explain_store(store, explainer, config, progress)
    write_explanations(files["table"], found)
    chosen = clearest(found, per_class)
    patches = []
    if chosen:
        maps = map_patches(store, explainer, chosen, config)
        side = explainer.spec.patch_px
        patches = [
            _explained(found, index, _planes(store, index, side), maps[place])
            for place, index in enumerate(chosen)
        ]
    title = f"{store.slide.slide_id}: what each stain says, by {explainer.spec.name}"
    draw_explanations(files["sheet"], title, store.stain.matrix, patches)
    return files


def clearest(found: StainExplanations, per_class: int) -> list[int]:
    """Choose the patches of each class with the largest lead, in the order of the classes."""
    chosen: list[int] = []
    lead = found.lead.sum(axis=1)
    for label in range(len(found.class_names)):
        own = np.flatnonzero(found.label == label)
        chosen += own[np.argsort(-lead[own], kind="stable")[:per_class]].tolist()
    return chosen


def _planes(store: PatchStore, index: int, side: int) -> NDArray[np.float32]:
    stored = store.read_he(index, index + 1)[0]
    top = (stored.shape[-1] - side) // 2
    unit = 255 if stored.dtype == np.uint8 else 1
    middle = stored[:, top : top + side, top : top + side]
    return np.asarray(middle / np.float32(unit), dtype=np.float32)


def _explained(
    found: StainExplanations,
    index: int,
    planes: NDArray[np.float32],
    maps: NDArray[np.float32],
) -> ExplainedPatch:
    label = int(found.label[index])
    above = maps[:, label] - maps.mean(axis=1)
    hematoxylin, eosin = found.lead[index].tolist()
    return ExplainedPatch(
        class_name=found.class_names[label],
        class_color=found.class_colors[label],
        planes=planes,
        lead=(hematoxylin, eosin),
        maps=above,
    )
