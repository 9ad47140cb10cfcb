"""Where the pipeline meets ``wsi_models``: a bundle becomes a module and its specification."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import ConfigError
from wsi_pipeline.types import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn
    from wsi_models.bundle import Bundle, BundleConfig

    from wsi_pipeline.predict.trained import TrainedModel


def load_model(name: str) -> TrainedModel:
    """Load a bundle by folder, or an embedded one by name.

    Parameters
    ----------
    name : str
        Folder of a bundle, or a name among the embedded ones.

    Returns
    -------
    TrainedModel
        The classifier, what it expects, and the hash of its weights.

    Raises
    ------
    ConfigError
        If there is no such bundle, or it cannot be loaded.
    """
    return _trained(name, lambda bundle: bundle.classifier())


def load_encoder(name: str) -> TrainedModel:
    """Load the encoder of a bundle; see :func:`load_model`.

    Returns
    -------
    TrainedModel
        Its module maps patches to (B, F) features.
    """
    return _trained(name, lambda bundle: bundle.extractor())


def load_explainer(name: str) -> TrainedModel:
    """Load what tells the parts of the stains in a model's logits; see :func:`load_model`.

    Returns
    -------
    TrainedModel
        Its module maps patches to (B, 2 K) parts, and its ``maps`` to (B, 2, K, h, w).

    Raises
    ------
    ConfigError
        Also if the model does not see two stains.
    """
    return _trained(name, lambda bundle: bundle.explainer())


def _trained(name: str, module_of: Callable[[Bundle], nn.Module]) -> TrainedModel:
    from wsi_models.bundle import BundleError, available_bundles, bundle_path, load_bundle

    from wsi_pipeline.predict.trained import TrainedModel

    if not Path(name).is_dir() and name not in available_bundles():
        raise ConfigError(
            f"there is no model bundle {name!r}; give the folder of a bundle or one of: "
            f"{', '.join(available_bundles())}"
        )
    try:
        bundle = load_bundle(Path(name) if Path(name).is_dir() else bundle_path(name))
        module = module_of(bundle)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    return TrainedModel(
        module=module,
        spec=model_spec(bundle.config),
        fingerprint=bundle.fingerprint,
        trained_on=bundle.config.training.data,
    )


def model_spec(config: BundleConfig) -> ModelSpec:
    """Say what the model of a bundle expects and gives, in the words of the pipeline."""
    shared = (field.name for field in fields(ModelSpec))
    return ModelSpec(**{name: getattr(config, name) for name in shared})


def model_defaults(model: TrainedModel) -> dict[str, dict[str, Any]]:
    """Return what a run needs for a model, as configuration values.

    That is the tile geometry it was trained for and, if it takes RGB, stores that keep it.
    """
    defaults: dict[str, dict[str, Any]] = {
        "tile": {"mpp": model.spec.mpp, "patch_size": model.spec.patch_px}
    }
    if model.spec.input == "rgb":
        defaults["store"] = {"keep_rgb": True}
    return defaults
