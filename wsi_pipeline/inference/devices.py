"""Names of devices and precisions -> devices that are there and the arithmetic to use on them.

Decides only; nothing is moved or computed here.
"""

from __future__ import annotations

import torch

from wsi_pipeline.config import Precision
from wsi_pipeline.errors import ConfigError

_UNUSABLE = (RuntimeError, AssertionError, NotImplementedError, ImportError)
"""What torch raises of a name that it does not know (the first), of a kind that it was built
without (the others, depending on the kind), and of a GPU number that is not there (the first)."""


def choose_devices(name: str) -> tuple[torch.device, ...]:
    """Resolve the name of a device, or of all of a kind.

    Parameters
    ----------
    name : str
        ``cuda``: every visible GPU; ``cuda:1``: that one; any other torch device; ``auto``: every
        visible GPU, or the processor where there is none.

    Returns
    -------
    tuple of torch.device
        Devices that are there, at least one.

    Raises
    ------
    ConfigError
        If the name is none of torch's, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" is made anywhere, but holds no values
    except _UNUSABLE as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}; use --device auto, or one that this "
            "machine has"
        ) from error
    if device.type == "cuda" and device.index is None:
        return tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count()))
    return (device,)


def arithmetic(device: torch.device, precision: Precision, published: str = "") -> Precision:
    """Choose the arithmetic of matrix products and convolutions.

    Parameters
    ----------
    device : torch.device
        Where the network runs.
    precision : Precision
        What is asked for.
    published : str
        What the network was published with, if anybody said so: ``AUTO`` is that on a GPU, and
        float32 on a processor, whose values are then the same everywhere but for rounding. Of
        other networks, ``AUTO`` is bfloat16 on GPUs with such arithmetic and on processors with
        tiles for it (AMX). Vector instructions for it alone (AVX512-BF16) are no gain: see
        ``docs/adr/0010``.

    Returns
    -------
    Precision
        Any but ``AUTO``.
    """
    if precision is not Precision.AUTO:
        return precision
    if published:
        return Precision(published) if device.type == "cuda" else Precision.FLOAT32
    if device.type == "cuda":
        gains = bool(torch.cuda.is_bf16_supported(including_emulation=False))
    else:
        tiles = torch.cpu.get_capabilities().get("amx_bf16", False)
        gains = device.type == "cpu" and bool(tiles)
    return Precision.BFLOAT16 if gains else Precision.FLOAT32
