"""A trained classifier of slides <-> a folder like that of every other trained model.

What patches become features, and whether a bag is worth judging, is decided before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_files import UnreadableError, read_bounded
from wsi_models.bundle import BundleError, TrainingFacts
from wsi_models.mil.config import ModelConfig
from wsi_models.mil.heads import Head, build_head
from wsi_models.model_folder import (
    CONFIG_FILE,
    MAX_CONFIG_BYTES,
    read_model_folder,
    require_weights,
    write_model_folder,
)
from wsi_models.parts.shapes import without_values

if TYPE_CHECKING:
    from pathlib import Path

ClassName = Annotated[str, Field(min_length=1)]


class SlideModelConfig(BaseModel):
    """All that must be known to use a trained classifier of slides."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    schema_version: Literal[1] = Field(1, description="Version of this schema.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Names its results.")
    target: Literal["classes", "survival"] = Field(
        "classes",
        description="Classes of slides, or the risk of patients: then the output is the logarithm "
        "of the hazard, and the classes are those below and above the threshold.",
    )
    model: ModelConfig = Field(description="The head and its sizes.")
    feature_count: int = Field(ge=1, description="Length of the vector of a patch.")
    encoder: str | None = Field(
        description="Fingerprint of the encoder whose features it takes; null where not known."
    )
    class_names: tuple[ClassName, ...] = Field(
        min_length=2, description="Classes; of two, the second is the positive one."
    )
    threshold: float = Field(
        0.5, ge=0, le=1, description="Of two classes: where the positive one is decided for."
    )
    training: TrainingFacts = Field(description="How the model came to be.")

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names repeat: {', '.join(self.class_names)}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideModel:
    """A trained classifier of slides.

    Attributes
    ----------
    config : SlideModelConfig
        What it is and takes.
    head : Head
        With its weights, in evaluation mode.
    fingerprint : str
        SHA-256 of the weights file.
    """

    config: SlideModelConfig
    head: Head
    fingerprint: str

    def require(self, feature_count: int, encoder: str | None, slide: str) -> None:
        """Refuse features that the model was not trained on.

        Raises
        ------
        BundleError
            If their length differs, or they are known to come from another encoder.
        """
        wanted = self.config
        if feature_count != wanted.feature_count:
            raise BundleError(
                f"{slide} has {feature_count} features per patch, but model {wanted.name} takes "
                f"{wanted.feature_count}; compute them with the encoder it was trained on"
            )
        if None not in (encoder, wanted.encoder) and encoder != wanted.encoder:
            raise BundleError(
                f"the features of {slide} come from encoder {encoder}, but model {wanted.name} "
                f"was trained on those of {wanted.encoder}; compute them with that one"
            )


def save_slide_model(
    folder: Path, config: SlideModelConfig, head: Head, card: str, *, overwrite: bool = False
) -> None:
    """Write a trained classifier of slides.

    Parameters
    ----------
    folder : Path
        The folder to make; it gets its name once it is complete.
    config : SlideModelConfig
        What the model is.
    head : Head
        The trained head that ``config`` describes.
    card : str
        Model card in Markdown.
    overwrite : bool
        Replace a folder of that name.

    Raises
    ------
    BundleError
        If the folder exists, the card is empty, or the weights are not those of ``config``.
    """
    weights = head.state_dict()
    require_weights(weights, _shapes(config).state_dict(), folder)
    write_model_folder(folder, config, weights, card, overwrite=overwrite)


def load_slide_model(folder: Path) -> SlideModel:
    """Load a classifier of slides from its folder; no code in it is run.

    Parameters
    ----------
    folder : Path
        As :func:`save_slide_model` writes it.

    Returns
    -------
    SlideModel
        The model, on the CPU.

    Raises
    ------
    BundleError
        If a file is missing or damaged, or the weights are not those that the configuration
        calls for.
    """
    found = read_model_folder(folder)
    config = found.parse(SlideModelConfig)
    head = _shapes(config)
    found.require_weights(head.state_dict())
    head.load_state_dict(found.weights, assign=True)
    return SlideModel(config=config, head=head.eval(), fingerprint=found.fingerprint)


def is_slide_model(folder: Path) -> bool:
    """Whether a folder of a trained model says that it judges slides, not patches."""
    try:
        text = read_bounded(folder / CONFIG_FILE, MAX_CONFIG_BYTES)
    except (UnreadableError, OSError):
        return False
    return b'"feature_count"' in text


def _shapes(config: SlideModelConfig) -> Head:
    """Build the head without values; the random state stays as it is."""
    with without_values():
        return build_head(config.model, config.feature_count, len(config.class_names))
