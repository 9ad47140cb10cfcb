"""ImageNet weights in torchvision's names -> an encoder of one stain channel, or of RGB.

Reads files and URLs with a checksum and never executes what it reads; it trains nothing.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

RESNET18_URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
RESNET18_SHA256 = "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"
"""The ImageNet weights of ResNet-18 that torchvision calls IMAGENET1K_V1, 45 MiB."""

UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
    # the restricted unpickler trips over bytes that are no pickle in all these ways
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)
"""What reading a file raises that does not hold weights."""

FIRST_CONV = "conv1.weight"
CLASSIFICATION_LAYER = frozenset({"fc.weight", "fc.bias"})


class WeightsError(ValueError):
    """Pretrained weights are missing, damaged, or of another network."""


def load_imagenet(
    encoder: nn.Module,
    source: str | Path,
    *,
    sha256: str | None = None,
    cache_dir: Path | None = None,
) -> None:
    """Start an encoder of one channel, or of RGB, from ImageNet weights of the same network.

    Parameters
    ----------
    encoder : Module
        As :func:`~wsi_models.parts.encoder.residual_network` makes it; changed in place.
    source : str or Path
        File (``.pth`` or ``.safetensors``) or http(s) URL of a torchvision state dict.
    sha256 : str or None
        Checksum of the file, 64 hexadecimal digits. Obligatory for a URL; checked before
        anything is loaded.
    cache_dir : Path or None
        Where downloads are kept; torch's own cache if not given.

    Raises
    ------
    WeightsError
        If the file cannot be had, its checksum differs, or it is not of this network.

    Notes
    -----
    For one channel the kernels of the first convolution are summed over RGB, so that a grey image
    gives the response that the same image repeated three times gives the original network. The
    classification layer is dropped.
    """
    if isinstance(source, str) and urlsplit(source).scheme in {"http", "https"}:
        path = _download(source, sha256, cache_dir)
    else:
        path = Path(source)
        if sha256 is not None:
            _require_checksum(path, sha256)
    load_rgb_weights(encoder, read_weights(path), origin=str(source))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a file without running code from it.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or a file of :func:`torch.save`.

    Returns
    -------
    dict of str to Tensor
        The tensors by name, on the CPU.

    Raises
    ------
    WeightsError
        If there is no such file or it holds anything but tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise WeightsError(
            f"{path} cannot be read as weights ({error}); give a .pth or .safetensors file that "
            "holds nothing but tensors"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"{path} holds {type(state).__name__}, not tensors by name; save "
            "model.state_dict() rather than the model or a checkpoint"
        )
    return dict(state)


def load_rgb_weights(encoder: nn.Module, state: Mapping[str, Tensor], *, origin: str) -> None:
    """Load the weights of a three-channel network into an encoder of one channel, or of RGB.

    Parameters
    ----------
    encoder : Module
        A residual network; changed in place.
    state : mapping of str to Tensor
        Weights in torchvision's names; the classification layer, if there, is ignored.
    origin : str
        What to call the weights in messages.

    Raises
    ------
    WeightsError
        If names or shapes differ from those of ``encoder``, or the input is not RGB.
    """
    weights = {name: w for name, w in state.items() if name not in CLASSIFICATION_LAYER}
    kernels = weights.get(FIRST_CONV)
    if kernels is None or kernels.ndim != 4 or kernels.shape[1] != 3:
        got = "none" if kernels is None else tuple(kernels.shape)
        raise WeightsError(
            f"{origin}: {FIRST_CONV} must have shape (C, 3, k, k), got {got}; give weights of a "
            "network that was trained on RGB images"
        )
    expected = encoder.state_dict()
    if FIRST_CONV in expected and expected[FIRST_CONV].shape[1] == 1:
        weights[FIRST_CONV] = kernels.sum(dim=1, keepdim=True)
    _require_match(expected, weights, origin)
    encoder.load_state_dict(weights)


def _require_match(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str
) -> None:
    # files older than torch 0.4.1 do not count batches, and nothing here rests on that count
    missing = {n for n in expected.keys() - given.keys() if not n.endswith("num_batches_tracked")}
    unexpected = given.keys() - expected.keys()
    reshaped = {n for n in expected.keys() & given.keys() if expected[n].shape != given[n].shape}
    for what, names in (("lacks", missing), ("has unknown", unexpected), ("reshapes", reshaped)):
        if names:
            listed = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise WeightsError(
                f"{origin} {what} {len(names)} tensors of the encoder ({listed}); give weights "
                "of the same residual network, in torchvision's names"
            )


def _download(url: str, sha256: str | None, cache_dir: Path | None) -> Path:
    """Fetch a file into the cache; it gets its name there only once its checksum is right."""
    if sha256 is None:
        raise WeightsError(f"{url} has no checksum; pass sha256, so that what is loaded is known")
    _require_digest(sha256)
    folder = cache_dir or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / f"{sha256.lower()}{Path(urlsplit(url).path).suffix}"
    if path.is_file():
        _require_checksum(path, sha256)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256.lower(), progress=False)
    except (URLError, OSError) as error:
        raise WeightsError(
            f"{url} cannot be fetched ({error}); fetch it by hand and give its path"
        ) from error
    except RuntimeError as error:  # how torch.hub reports another checksum
        raise WeightsError(f"{url} is not the file expected: {error}") from error
    return path


def _require_digest(sha256: str) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise WeightsError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")


def _require_checksum(path: Path, sha256: str) -> None:
    _require_digest(sha256)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if found != sha256.lower():
        raise WeightsError(
            f"{path} has sha256 {found}, expected {sha256.lower()}; delete it and fetch it again"
        )
