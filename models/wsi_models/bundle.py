"""A trained model <-> a folder: ``config.json``, ``model.safetensors`` and its card ``README.md``.

Loading runs no code from the folder and takes nothing on trust; what a bundle predicts is the
business of others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_models.familiarity import Assessor, Familiarity
from wsi_models.model_folder import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    BundleError,
    read_model_folder,
    require_weights,
    write_model_folder,
)
from wsi_models.networks.class_m import ClassMNetwork
from wsi_models.networks.description import NetworkConfig, PatchInput, network_shapes
from wsi_models.networks.explaining import StainExplainer
from wsi_models.parts.backbone import lay_out
from wsi_models.parts.patch_network import Classifier, FeatureExtractor, PatchNetwork

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "Bundle",
    "BundleConfig",
    "BundleError",
    "TrainingFacts",
    "available_bundles",
    "bundle_path",
    "load_bundle",
    "save_bundle",
    "schema_text",
]

ClassName = Annotated[str, Field(min_length=1)]
Color = Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
Positive = Annotated[float, Field(gt=0)]
Mpp = Annotated[float, Field(ge=0.01, le=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TrainingFacts(_Part):
    """How a model came to be, and how well it does."""

    loss: str = Field(min_length=1, description="What was minimised, in words.")
    data: str = Field(min_length=1, description="What it was trained and evaluated on, in words.")
    seed: int = Field(description="Seed of the training run.")
    metrics: dict[str, float] = Field(description="Results on data not trained on, by name.")


class BundleConfig(_Part):
    """All that must be known to use a trained model on patches."""

    schema_version: Literal[1] = Field(1, description="Version of this schema.")
    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Names the folder of predictions."
    )
    method: str = Field(min_length=1, description="How the network was trained.")
    network: NetworkConfig = Field(description="The network and its sizes.")
    class_names: tuple[ClassName, ...] = Field(
        min_length=2, description="One per output, in order."
    )
    class_colors: tuple[Color, ...] = Field(min_length=2, description="One per class.")
    mpp: Mpp = Field(description="Resolution of the patches trained on, um/px.")
    patch_px: int = Field(ge=32, le=4096, description="Side of the input, px.")
    stain_convention: str = Field(
        pattern=r"^macenko-log10-(he|h-dab)-v1$",
        description="How the H/E values of a patch are made from its RGB.",
    )
    mean: tuple[float, ...] = Field(
        min_length=2, max_length=3, description="Of H and E, or of RGB, in [0, 1]; subtracted."
    )
    std: tuple[Positive, ...] = Field(
        min_length=2, max_length=3, description="Deviation of each channel, divided by."
    )
    training: TrainingFacts = Field(description="How the model came to be.")
    caveat: str | None = Field(
        None, min_length=1, description="What everyone who sees the classes must be told."
    )
    familiarity: Familiarity | None = Field(
        None, description="Where the features of the training set lie, if it was measured."
    )

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names repeat: {', '.join(self.class_names)}")
        if len(self.class_colors) != len(self.class_names):
            raise ValueError(
                f"{len(self.class_colors)} class_colors do not match "
                f"{len(self.class_names)} class_names"
            )
        return self

    @model_validator(mode="after")
    def _channels_agree(self) -> Self:
        channels = 2 if self.input == "he" else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations do not match the "
                f"{channels} channels of a network of kind {self.network.kind!r}"
            )
        return self

    @property
    def input(self) -> PatchInput:
        """What the network sees of a patch."""
        return self.network.input

    @property
    def gives_distance(self) -> bool:
        """Whether the model can say how far a patch lies from those it was trained on."""
        return self.familiarity is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A trained model and what it needs to be used.

    Attributes
    ----------
    config : BundleConfig
        Classes, geometry, normalisation and origin. The network expects normalised patches: the
        caller subtracts ``config.mean`` and divides by ``config.std``.
    network : PatchNetwork
        The network with its trained weights, in evaluation mode.
    fingerprint : str
        SHA-256 of the weights file, for provenance.
    """

    config: BundleConfig
    network: PatchNetwork
    fingerprint: str

    def classifier(self) -> nn.Module:
        """Return a module in evaluation mode that maps patches to (B, C) logits.

        Patches are (B, 2, P, P) stains or (B, 3, P, P) RGB, as ``config.input`` says.
        """
        return Classifier(self.network).eval()

    def assessor(self) -> nn.Module:
        """Return a module that maps patches to (B, C + 1) logits and distances, where it can.

        The last column is the distance of the features from those of the training set, 1 where
        99 % of these lie nearer. A bundle without :attr:`BundleConfig.familiarity` gives its
        classifier: (B, C) logits.
        """
        if self.config.familiarity is None:
            return self.classifier()
        return Assessor(self.network, self.config.familiarity).eval()

    def extractor(self) -> nn.Module:
        """Return a module in evaluation mode that maps patches to (B, F) features."""
        return FeatureExtractor(self.network).eval()

    def explainer(self) -> StainExplainer:
        """Return a module in evaluation mode that tells the parts of the stains in the logits.

        Raises
        ------
        BundleError
            If the network does not see two stains.
        """
        if not isinstance(self.network, ClassMNetwork):
            raise BundleError(
                f"model {self.config.name} sees the colours of a patch, so there are no parts of "
                "two stains in what it says; give a model trained by CLASS-M"
            )
        return StainExplainer(self.network).eval()


def schema_text() -> str:
    """Return the JSON schema of ``config.json``, as ``bundle.schema.json`` holds it."""
    return json.dumps(BundleConfig.model_json_schema(), indent=2) + "\n"


def save_bundle(
    folder: Path,
    config: BundleConfig,
    network: nn.Module,
    card: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write a bundle; the folder gets its name only once it is complete.

    Parameters
    ----------
    folder : Path
        The folder to make.
    config : BundleConfig
        What the model is.
    network : Module
        The trained network that ``config`` describes.
    card : str
        Model card in Markdown: data, licence, metrics, limits.
    overwrite : bool
        Replace a folder of that name.

    Raises
    ------
    BundleError
        If the folder exists, the card is empty, or the weights are not those of ``config``.
    """
    weights = network.state_dict()
    require_weights(weights, _shapes(config).state_dict(), folder)
    write_model_folder(folder, config, weights, card, overwrite=overwrite)


def load_bundle(folder: Path) -> Bundle:
    """Load a trained model from its folder.

    Parameters
    ----------
    folder : Path
        A folder with ``config.json``, ``model.safetensors`` and ``README.md``.

    Returns
    -------
    Bundle
        The model, on the CPU.

    Raises
    ------
    BundleError
        If a file is missing, the configuration does not follow the schema, or the weights are
        not finite tensors of just the names, shapes and types that it calls for.
    """
    found = read_model_folder(folder)
    config = found.parse(BundleConfig)
    network = _shapes(config)
    found.require_weights(network.state_dict())
    network.load_state_dict(found.weights, assign=True)
    lay_out(network)
    return Bundle(config=config, network=network.eval(), fingerprint=found.fingerprint)


def available_bundles() -> tuple[str, ...]:
    """Name the bundles that are installed with this package, sorted."""
    return tuple(sorted(_embedded()))


def bundle_path(name: str) -> Path:
    """Find a bundle that is installed with this package.

    Parameters
    ----------
    name : str
        One of :func:`available_bundles`.

    Returns
    -------
    Path
        Its folder.

    Raises
    ------
    BundleError
        If there is none of that name.
    """
    embedded = _embedded()
    if name not in embedded:
        raise BundleError(
            f"no bundle named {name!r} is installed; there are: {', '.join(sorted(embedded))}"
        )
    return embedded[name]


def _embedded() -> dict[str, Path]:
    with resources.as_file(resources.files("wsi_models") / "bundles") as root:
        return {path.parent.name: path.parent for path in root.glob(f"*/{CONFIG_FILE}")}


def _shapes(config: BundleConfig) -> PatchNetwork:
    try:
        return network_shapes(config.network, len(config.class_names), config.patch_px)
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"the network of {config.name} cannot be built: {error}") from error
