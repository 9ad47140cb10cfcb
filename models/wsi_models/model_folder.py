"""A trained model <-> a folder: ``config.json``, ``model.safetensors`` and its card ``README.md``.

Loading runs no code from the folder and takes nothing on trust. What a configuration means, and
which network has these weights, is the business of each kind of model.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from wsi_files.settings import explain_invalid

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"

Config = TypeVar("Config", bound=BaseModel)


class BundleError(ValueError):
    """A bundle is missing, incomplete, damaged, or not what it says it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """What a folder holds besides its card.

    Attributes
    ----------
    path : Path
        The folder.
    config : bytes
        The JSON text, not yet parsed.
    weights : dict of str to Tensor
        Tensors by name, on the CPU.
    fingerprint : str
        SHA-256 of the weights file.
    """

    path: Path
    config: bytes
    weights: dict[str, Tensor]
    fingerprint: str

    def parse(self, kind: type[Config]) -> Config:
        """Check the configuration.

        Raises
        ------
        BundleError
            If it does not follow the schema of ``kind``, naming each field.
        """
        try:
            return kind.model_validate_json(self.config)
        except ValidationError as error:
            raise BundleError(
                f"{self.path / CONFIG_FILE} does not follow its schema: "
                f"{explain_invalid(error, 'file')}"
            ) from error

    def require_weights(self, expected: Mapping[str, Tensor]) -> None:
        """Refuse tensors that are not just those expected, all finite.

        Raises
        ------
        BundleError
            Naming the first that differ.
        """
        require_weights(self.weights, expected, self.path)


def write_model_folder(
    folder: Path,
    config: BaseModel,
    weights: Mapping[str, Tensor],
    card: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write a model; the folder gets its name only once it is complete.

    Parameters
    ----------
    folder : Path
        The folder to make.
    config : BaseModel
        What the model is.
    weights : mapping of str to Tensor
        Its tensors, on any device.
    card : str
        Model card in Markdown: data, licence, metrics, limits.
    overwrite : bool
        Replace a folder of that name.

    Raises
    ------
    BundleError
        If the folder exists, or the card is empty.
    """
    if folder.exists() and not overwrite:
        raise BundleError(f"{folder} exists; choose another name, or pass overwrite=True")
    if not card.strip():
        raise BundleError(f"{folder} has no card; say what it was trained on and where it fails")
    plain = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        partial = Path(scratch) / "new"
        partial.mkdir()
        (partial / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", "utf-8")
        (partial / WEIGHTS_FILE).write_bytes(safetensors.torch.save(plain))
        (partial / CARD_FILE).write_text(card, encoding="utf-8")
        if folder.exists():
            shutil.move(folder, Path(scratch) / "old")
        partial.replace(folder)


def read_model_folder(folder: Path) -> ModelFolder:
    """Read a model.

    Parameters
    ----------
    folder : Path
        A folder with ``config.json``, ``model.safetensors`` and ``README.md``.

    Returns
    -------
    ModelFolder
        Its content, not yet checked against a network.

    Raises
    ------
    BundleError
        If a file is missing, or the weights are in no safetensors file.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder} has no {name}; a bundle is a folder of {CONFIG_FILE}, "
                f"{WEIGHTS_FILE} and {CARD_FILE}"
            )
    content = (folder / WEIGHTS_FILE).read_bytes()
    try:
        weights = safetensors.torch.load(content)
    except SafetensorError as error:
        raise BundleError(
            f"{folder / WEIGHTS_FILE} is not a safetensors file ({error}); no other format is "
            "read, since others can carry code"
        ) from error
    return ModelFolder(
        path=folder,
        config=(folder / CONFIG_FILE).read_bytes(),
        weights=weights,
        fingerprint=hashlib.sha256(content).hexdigest(),
    )


def require_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], folder: Path
) -> None:
    """Refuse tensors that are not just those expected, all finite.

    Parameters
    ----------
    weights : mapping of str to Tensor
        What there is.
    expected : mapping of str to Tensor
        What the configuration calls for; only shapes and types matter.
    folder : Path
        Named in the error.

    Raises
    ------
    BundleError
        Naming the first that differ.
    """
    for what, names in (
        ("lacks", expected.keys() - weights.keys()),
        ("has unknown", weights.keys() - expected.keys()),
    ):
        if names:
            raise BundleError(
                f"the model of {folder} {what} tensors: {', '.join(sorted(names)[:5])}; weights "
                f"and {CONFIG_FILE} must be of one training run"
            )
    for name, tensor in weights.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise BundleError(
                f"the model of {folder} has {name} as {tuple(tensor.shape)} {tensor.dtype}, but "
                f"{CONFIG_FILE} calls for {tuple(wanted.shape)} {wanted.dtype}"
            )
        if not torch.isfinite(tensor).all():
            raise BundleError(
                f"the model of {folder} has values in {name} that are no numbers; "
                "it was saved after its training diverged: train it again"
            )
