"""A bundle or the folder of a run -> a module that classifies batches of stored patches.

For evaluation: ``wsi-pipeline run`` predicts slides by other means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsi_models.bundle import CONFIG_FILE, Bundle, BundleConfig, BundleError, load_bundle
from wsi_models.checkpoint import load_checkpoint
from wsi_models.errors import TrainingError
from wsi_models.methods import Batch, Method, build_method
from wsi_models.parts.backbone import untrained
from wsi_models.recipe import RECIPE_FILE, Recipe, read_saved_recipe
from wsi_models.run_state import BEST_FILE
from wsi_models.views import (
    Normalisation,
    RgbViewConfig,
    RgbViews,
    StainViewConfig,
    StainViews,
)

if TYPE_CHECKING:
    from pathlib import Path

    from wsi_models.networks.description import JudgedBy


class Predictor(nn.Module):
    """A trained model that takes patches as they are stored.

    Attributes
    ----------
    class_names : tuple of str
        One per output, in order.
    labels : dict of str to str
        Class of each stored label that is not called as its class.
    judged_by : {"logits", "neighbours"}
        Whether its outputs are classes, or its features are what it was trained for.
    """

    def __init__(
        self, model: Method | _BundleModel, class_names: tuple[str, ...], labels: dict[str, str]
    ) -> None:
        super().__init__()
        self.model = model
        self.class_names = class_names
        self.labels = labels
        self.judged_by: JudgedBy = model.judged_by

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def predict(self, batch: Batch) -> Tensor:
        """Compute the logits of patches, shape (B, C)."""
        return self.model.predict(batch)

    def embed(self, batch: Batch) -> Tensor:
        """Compute the features of at least one patch, shape (B, F)."""
        return self.model.embed(batch)


def load_predictor(folder: Path) -> Predictor:
    """Load a trained model, on the CPU.

    Parameters
    ----------
    folder : Path
        A bundle, or a folder that :func:`wsi_models.experiment.run_experiment` filled.

    Returns
    -------
    Predictor
        The model; that of a run has the weights of its best epoch.

    Raises
    ------
    TrainingError
        If it is neither, or damaged.
    """
    if (folder / CONFIG_FILE).is_file():
        try:
            bundle = load_bundle(folder)
        except BundleError as error:
            raise TrainingError(str(error)) from error
        return Predictor(_BundleModel(bundle), bundle.config.class_names, {})
    if not (folder / RECIPE_FILE).is_file():
        raise TrainingError(f"{folder} is neither a bundle nor a run; give one of these folders")
    return _load_run(folder, read_saved_recipe(folder / RECIPE_FILE))


def _load_run(folder: Path, recipe: Recipe) -> Predictor:
    state = load_checkpoint(folder / BEST_FILE)
    names = tuple(state["classes"])
    # the buffers of the checkpoint hold the normalisation
    unit = Normalisation(mean=(0.0, 0.0), std=(1.0, 1.0))
    config = recipe.method.model_copy(update={"encoder": untrained(recipe.method.encoder)})
    method = build_method(config, len(names), unit)
    method.load_state_dict(state["method"])
    return Predictor(method, method.output_names(names), recipe.classes.labels)


class _BundleModel(nn.Module):
    """The network of a bundle behind the views it was trained with."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        config = bundle.config
        self.network = bundle.network
        self.views = _views(config)
        self.judged_by: JudgedBy = config.network.judged_by

    def predict(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.network.classify(self.views.plain(batch))

    def embed(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.network.features(self.views.plain(batch))


def _views(config: BundleConfig) -> StainViews | RgbViews:
    values = {"mean": config.mean, "std": config.std}
    if config.input == "he":
        normalisation = Normalisation.model_validate(values)
        return StainViews(StainViewConfig(patch_px=config.patch_px), normalisation)
    return RgbViews(RgbViewConfig.model_validate({"patch_px": config.patch_px, **values}))
