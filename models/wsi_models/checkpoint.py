"""The state of a training run <-> one file, written whole or not at all.

Holds tensors and plain values only, so that loading runs no code; what the values mean is the
loop's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from wsi_files.whole import replace_atomically
from wsi_models.errors import TrainingError
from wsi_models.parts.imagenet import UNREADABLE

VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, replacing an older file in one step."""
    with replace_atomically(path) as partial, partial.open("wb") as file:
        # given a name, torch would write it into the file: equal states, other bytes
        torch.save({"version": VERSION, **state}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, onto the CPU.

    Raises
    ------
    TrainingError
        If the file is missing, damaged, or of another version.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = state.pop("version")
    except UNREADABLE as error:
        raise TrainingError(
            f"{path} is not a checkpoint that can be gone on with ({error!r}); train anew"
        ) from error
    if version != VERSION:
        raise TrainingError(f"{path} has version {version}, this program reads {VERSION}")
    return state
