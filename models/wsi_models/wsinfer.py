"""A bundle on RGB patches -> a folder as WSInfer has it, which QuPath's WSInfer extension runs.

The network becomes TorchScript, and what is known of it ``config.json`` in WSInfer's words.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_files.whole import replace_atomically
from wsi_models.bundle import BundleError

if TYPE_CHECKING:
    from wsi_models.bundle import Bundle

CONFIG_NAME = "config.json"
NETWORK_NAME = "torchscript_model.pt"
CARD_NAME = "README.md"


class Step(BaseModel):
    """One step that turns a patch into the input of the network."""

    model_config = ConfigDict(extra="forbid")
    name: Literal["Resize", "ToTensor", "Normalize"]
    arguments: dict[str, Any] = {}


class WSInferConfig(BaseModel):
    """What WSInfer must know of a model, by its schema of version 1.0.

    Source: model-config.schema.json of wsinfer-zoo.
    """

    spec_version: Literal["1.0"] = "1.0"
    architecture: str = Field(min_length=1)
    num_classes: Annotated[int, Field(ge=1)]
    class_names: tuple[str, ...]
    patch_size_pixels: Annotated[int, Field(ge=1)]
    spacing_um_px: Annotated[float, Field(gt=0)]
    transform: tuple[Step, ...]

    @model_validator(mode="after")
    def _names_are_one_per_class(self) -> Self:
        if len(set(self.class_names)) != self.num_classes:
            raise ValueError(f"{self.num_classes} classes need as many different names")
        return self


def describe_for_wsinfer(bundle: Bundle) -> WSInferConfig:
    """Say what the model of a bundle expects and gives, in WSInfer's words."""
    config = bundle.config
    return WSInferConfig(
        architecture=config.network.encoder.name,
        num_classes=len(config.class_names),
        class_names=config.class_names,
        patch_size_pixels=config.patch_px,
        spacing_um_px=config.mpp,
        transform=(
            Step(name="Resize", arguments={"size": config.patch_px}),
            Step(name="ToTensor"),
            Step(name="Normalize", arguments={"mean": config.mean, "std": config.std}),
        ),
    )


def write_wsinfer(bundle: Bundle, folder: Path) -> dict[str, Path]:
    """Write a model for WSInfer and for QuPath's WSInfer extension.

    Parameters
    ----------
    bundle : Bundle
        A model that takes RGB patches.
    folder : Path
        Where to; made when missing. For QuPath it goes among the extension's user models.

    Returns
    -------
    dict of str to Path
        ``torchscript_model.pt``, ``config.json`` and ``README.md``, by kind.

    Raises
    ------
    BundleError
        If the model takes stains: WSInfer gives colours.
    """
    config = bundle.config
    if config.input != "rgb":
        raise BundleError(
            f"{config.name} takes hematoxylin and eosin, but WSInfer gives its models RGB; export "
            "a bundle whose network is trained on RGB, such as one of supervised.toml"
        )
    files = {name: folder / name for name in (NETWORK_NAME, CONFIG_NAME, CARD_NAME)}
    example = torch.zeros(1, 3, config.patch_px, config.patch_px)
    with warnings.catch_warnings():
        # deprecated in torch, but what WSInfer and the extension load
        warnings.simplefilter("ignore", DeprecationWarning)
        network = torch.jit.trace(bundle.classifier(), example)  # type: ignore[no-untyped-call]
        with replace_atomically(files[NETWORK_NAME]) as partial:
            torch.jit.save(network, partial)
    about = describe_for_wsinfer(bundle).model_dump_json(indent=2)
    card = (
        f"# {config.name}\n\nTrained on: {config.training.data}\n\nClasses: "
        f"{', '.join(config.class_names)}. Weights: {bundle.fingerprint}.\n\nNot a medical device: "
        "for research.\n"
    )
    for name, text in ((CONFIG_NAME, about + "\n"), (CARD_NAME, card)):
        with replace_atomically(files[name]) as partial:
            partial.write_text(text, encoding="utf-8")
    return files
