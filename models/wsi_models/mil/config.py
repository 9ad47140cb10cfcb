"""The choices of a run of multiple-instance learning: which model, how it is trained and judged.

Says what is done; the defaults of a model are those of its publication. Nothing is built here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from wsi_files import UnreadableError
from wsi_files.settings import explain_invalid, read_toml
from wsi_models.errors import TrainingError
from wsi_models.parts.backbone import MAX_WIDTH, Width
from wsi_models.parts.choices import Choices

ModelName = Literal["mean", "max", "abmil", "dsmil", "clam-sb"]
MODEL_NAMES: tuple[ModelName, ...] = get_args(ModelName)


class AdamConfig(Choices):
    """Adam, and a cosine to the last rate where one is given."""

    lr: float = Field(2e-4, gt=0, description="Learning rate at the start.")
    final_lr: float | None = Field(
        None, ge=0, description="Rate of the last epoch, reached by a cosine; constant if not set."
    )
    weight_decay: float = Field(1e-5, ge=0, description="L2 penalty in the gradient.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay of both averages.")


class _Model(Choices):
    """What all models choose."""

    standardise: bool = Field(
        True,
        description="Bring every feature to mean 0 and deviation 1, as measured on the instances "
        "that are trained on; the model keeps both.",
    )


class PoolingConfig(_Model):
    """A linear classifier of instances, and the mean or the maximum of its outputs."""

    model: Literal["mean", "max"] = Field(description="How the outputs are pooled.")
    optimisation: AdamConfig = AdamConfig()


class AbmilConfig(_Model):
    """Attention-based pooling (Ilse et al., ICML 2018)."""

    model: Literal["abmil"] = "abmil"
    embedding: tuple[Width, ...] = Field(
        (512,), description="Widths of layers between features and attention; none if empty."
    )
    attention: int = Field(128, ge=1, le=MAX_WIDTH, description="Width of the attention.")
    gated: bool = Field(True, description="Multiply by a sigmoid gate (equation 9).")
    dropout: float = Field(0.25, ge=0, lt=1, description="After each layer of the embedding.")
    optimisation: AdamConfig = AdamConfig()


class ClamSbConfig(_Model):
    """ABMIL with instances clustered by their attention (Lu et al., 2021), one branch."""

    model: Literal["clam-sb"] = "clam-sb"
    embedding: tuple[Width, ...] = Field(
        (512,), description="Widths of layers between features and attention; none if empty."
    )
    attention: int = Field(256, ge=1, le=MAX_WIDTH, description="Width of the attention.")
    dropout: float = Field(0.25, ge=0, lt=1, description="After each layer of the embedding.")
    instances: int = Field(
        8, ge=1, description="Instances of highest and of lowest attention that are clustered."
    )
    bag_weight: float = Field(
        0.7, ge=0, le=1, description="Weight of the loss of bags; the rest is that of instances."
    )
    exclusive: bool = Field(
        False,
        description="Attended instances are evidence against the other classes: for subtypes, of "
        "which a slide has one.",
    )
    optimisation: AdamConfig = AdamConfig()


class DsmilConfig(_Model):
    """Attention to the critical instance (Li et al., CVPR 2021)."""

    model: Literal["dsmil"] = "dsmil"
    attention: int = Field(128, ge=1, le=MAX_WIDTH, description="Width of the queries.")
    per_class: bool = Field(
        False, description="Give two classes an output and an attention each; one serves both."
    )
    transform_values: bool = Field(
        False, description="Pass what is averaged through a layer instead of as it is."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Before that layer.")
    optimisation: AdamConfig = AdamConfig(
        lr=1e-4, final_lr=5e-6, weight_decay=1e-3, betas=(0.5, 0.9)
    )


ModelConfig = Annotated[
    PoolingConfig | AbmilConfig | ClamSbConfig | DsmilConfig, Field(discriminator="model")
]
"""Which model."""


class MilTrainConfig(Choices):
    """How long is trained, what selects, and how it is judged."""

    epochs: int = Field(100, ge=1, description="Epochs at most.")
    patience: int | None = Field(
        20, ge=1, description="Stop after so many epochs without a better one; never if not set."
    )
    validation: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of the training slides, by patient, that select the epoch and the "
        "threshold. With 0 the last epoch is kept and the threshold is 0.5.",
    )
    threshold: Literal["half", "validation"] = Field(
        "half",
        description="Two classes: decide at probability 0.5, or where the balanced accuracy of the "
        "validation slides is best. Never seen: the slides that test.",
    )
    balanced: bool = Field(
        False, description="Weigh slides so that all classes count alike in the loss."
    )
    patients: int = Field(
        64, ge=2, description="Survival: patients whose risks are compared in one step."
    )
    folds: int = Field(10, ge=2, description="Parts by patient; each tests once.")
    seed: int = Field(0, ge=0, description="Decides folds, weights at the start and order.")


class MilRecipe(Choices):
    """Everything a run depends on besides its bags."""

    name: str = Field(
        "slide-model", pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Names the trained model."
    )
    positive: str | None = Field(
        None, description="The positive one of two classes; the last by name if not given."
    )
    bags: Literal["slide", "patient"] = Field(
        "slide", description="What is judged: each slide, or all slides of a patient together."
    )
    model: ModelConfig = AbmilConfig()
    train: MilTrainConfig = MilTrainConfig()


def load_mil_recipe(path: Path | None, overrides: dict[str, Any] | None = None) -> MilRecipe:
    """Read a recipe.

    Parameters
    ----------
    path : Path or None
        TOML file with ``name``, ``positive`` and the tables ``model`` and ``train``; defaults if
        None.
    overrides : dict or None
        Values that beat the file: ``model`` (a name; another than the file's brings its own
        defaults), ``positive``, ``bags``, and fields of ``train``.

    Returns
    -------
    MilRecipe
        The recipe; what the file leaves out has its default.

    Raises
    ------
    TrainingError
        If the file is not TOML, or a key or value is not valid.
    """
    values = {} if path is None else _read(path)
    chosen = dict(overrides or {})
    model = chosen.pop("model", None)
    if model is not None and values.get("model", {}).get("model") != model:
        values["model"] = {"model": model}
    for key in ("name", "positive", "bags"):
        if key in chosen:
            values[key] = chosen.pop(key)
    values["train"] = {**values.get("train", {}), **chosen}
    try:
        return MilRecipe.model_validate(values)
    except ValidationError as error:
        raise TrainingError(
            f"{path or 'options'}: {explain_invalid(error, 'recipe')}. See the recipe 'mil'"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_toml(path)
    except UnreadableError as error:
        raise TrainingError(str(error)) from error
    for table in ("model", "train"):
        if not isinstance(values.get(table, {}), dict):
            raise TrainingError(f"{path}: {table} must be a table of options")
    return values
