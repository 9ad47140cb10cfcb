"""A classifier of patches in an ONNX file, with what a TOML file beside it says of it."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsi_models.bundle import BundleError
from wsi_models.encoders.errors import EncoderError
from wsi_models.encoders.onnx_network import OnnxNetwork, read_network

if TYPE_CHECKING:
    from torch import nn

Rgb = tuple[float, float, float]


class OnnxClassifierCard(BaseModel):
    """All that must be known to use a classifier on patches; it takes colours."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Names the folder of predictions."
    )
    class_names: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=2, description="One per output, in order."
    )
    class_colors: tuple[Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")], ...] = Field(
        description="One per class."
    )
    mpp: float = Field(ge=0.01, le=1000, description="Resolution of its patches, um/px.")
    patch_px: int = Field(ge=32, le=4096, description="Side of its input, px.")
    mean: Rgb = Field(description="Subtracted from RGB in [0, 1].")
    std: Rgb = Field(description="Then divided by.")
    trained_on: str = Field(min_length=1, description="In words: what it may be trusted with.")

    @model_validator(mode="after")
    def _classes_agree(self) -> Self:
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError(f"class_names repeat: {', '.join(self.class_names)}")
        if len(self.class_colors) != len(self.class_names):
            raise ValueError("class_colors must be one per class")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std}")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxClassifier:
    """A classifier that is ready to predict.

    Attributes
    ----------
    card : OnnxClassifierCard
        What is said of it.
    module : Module
        Maps (B, 3, P, P) patches, normalised as the card says, to (B, C) logits.
    fingerprint : str
        Hash of the network and of what is said of it.
    """

    card: OnnxClassifierCard
    module: nn.Module
    fingerprint: str


def is_classifier(file: Path) -> bool:
    """Tell whether the TOML file beside a network says that it gives classes."""
    try:
        said = tomllib.loads(file.with_suffix(".toml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return "class_names" in said


def read_onnx_classifier(file: Path) -> OnnxClassifier:
    """Read a classifier.

    Parameters
    ----------
    file : Path
        ``.onnx``; a TOML file of the same name lies beside it.

    Returns
    -------
    OnnxClassifier
        The classifier.

    Raises
    ------
    BundleError
        If a file is missing or malformed, or ONNX Runtime is not installed.
    """
    beside = file.with_suffix(".toml")
    try:
        card = OnnxClassifierCard.model_validate(tomllib.loads(beside.read_text(encoding="utf-8")))
        content = read_network(file)
        module = OnnxNetwork(content, str(file)).eval()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise BundleError(f"{beside} does not say what {file.name} is: {error}") from error
    except EncoderError as error:
        raise BundleError(str(error)) from error
    said = card.model_dump_json().encode()
    return OnnxClassifier(
        card=card, module=module, fingerprint=hashlib.sha256(content + said).hexdigest()
    )
