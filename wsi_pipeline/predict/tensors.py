"""Arrays -> files of tensors, as programs read them that train on nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def save_tensor(path: Path, values: NDArray[np.float32]) -> None:
    """Write an array as a file of :func:`torch.save` that holds one tensor of the same type."""
    torch.save(torch.from_numpy(values), path)
