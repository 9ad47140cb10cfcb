"""A trained model <-> a folder: configuration, weights, card and checksums.

Loading runs no code from the folder and takes nothing on trust. What a configuration means, and
which network has these weights, is the business of each kind of model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from wsi_files import UnreadableError, read_bounded
from wsi_files.settings import explain_invalid
from wsi_files.whole import replace_folder

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
SUMS_FILE = "SHA256SUMS"
"""Checksums of configuration and weights, as ``sha256sum`` writes and checks them."""

MAX_CONFIG_BYTES = 4 * 1024**2
"""Largest configuration that is read; one of a thousand classes has a hundredth of this."""

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
    contents = {
        CONFIG_FILE: (config.model_dump_json(indent=2) + "\n").encode(),
        WEIGHTS_FILE: safetensors.torch.save(plain),
    }
    sums = "".join(f"{_sum(content)}  {name}\n" for name, content in contents.items())
    with replace_folder(folder) as partial:
        partial.mkdir()
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        (partial / SUMS_FILE).write_text(sums, encoding="ascii")
        (partial / CARD_FILE).write_text(card, encoding="utf-8")


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
        If a file is missing, the weights are in no safetensors file, or a file does not agree with
        its checksum. Folders without checksums, made before there were any, are read too.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
        if not (folder / name).is_file():
            raise BundleError(
                f"{folder} has no {name}; a bundle is a folder of {CONFIG_FILE}, "
                f"{WEIGHTS_FILE} and {CARD_FILE}"
            )
    try:
        config = read_bounded(folder / CONFIG_FILE, MAX_CONFIG_BYTES)
        content = (folder / WEIGHTS_FILE).read_bytes()
    except (UnreadableError, OSError) as error:
        raise BundleError(f"{folder} cannot be read: {error}") from error
    _require_sums(folder, {CONFIG_FILE: config, WEIGHTS_FILE: content})
    try:
        weights = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise BundleError(
            f"{folder / WEIGHTS_FILE} is not a safetensors file ({error}); no other format is "
            "read, since others can carry code"
        ) from error
    return ModelFolder(
        path=folder,
        config=config,
        weights=weights,
        fingerprint=_sum(content),
    )


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _require_sums(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Compare files with the checksums beside them, if there are any."""
    if not (folder / SUMS_FILE).exists():
        return
    try:
        lines = read_bounded(folder / SUMS_FILE, MAX_CONFIG_BYTES).decode("ascii").splitlines()
    except (UnreadableError, UnicodeDecodeError):
        lines = []  # damaged, and so agrees with nothing
    stated = {name: value for value, _, name in (line.partition("  ") for line in lines)}
    for name, content in contents.items():
        if stated.get(name) != _sum(content):
            raise BundleError(
                f"{folder / name} does not agree with {SUMS_FILE}: it is damaged, copy the bundle "
                f"again; or changed on purpose, then run in it: sha256sum {' '.join(contents)} > "
                f"{SUMS_FILE}"
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
