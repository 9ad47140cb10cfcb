"""Stored or freshly read patches -> the normalised input of a network.

A feed says how patches are read on the host, and holds the module that makes input of them on the
device, to which bytes travel as they are. What the network does with it is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_pipeline.stain import HeEncoder, unpack_counts

if TYPE_CHECKING:
    from wsi_pipeline.dataset import ReadRange
    from wsi_pipeline.types import ModelSpec, StainMatrix

ReadRgb = Callable[[int, int], NDArray[np.uint8]]
"""Reads the patches ``start`` to ``stop``, shape (stop - start, P, P, 3), RGB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """How patches reach a network.

    Attributes
    ----------
    count : int
        Number of patches.
    read : callable
        Reads the patches ``start`` to ``stop``, shape (stop - start, C, P, P), uint8 or float16.
    channels : int
        Channels C of what ``read`` gives.
    to_input : Module
        Makes network input of what ``read`` gives, on any device.
    readers : int or None
        Threads that call ``read``; a few, by the kind of device, if None.
    """

    count: int
    read: ReadRange
    channels: int
    to_input: nn.Module
    readers: int | None = None


def he_feed(count: int, read: ReadRange, spec: ModelSpec, *, readers: int | None = None) -> Feed:
    """Feed H/E patches as they are stored, shape (n, 2, P, P), uint8 or float16."""
    return Feed(count=count, read=read, channels=2, to_input=Normalise(spec), readers=readers)


def rgb_feed(count: int, read: ReadRgb, spec: ModelSpec, *, readers: int | None = None) -> Feed:
    """Feed RGB patches to a network that takes colours."""
    return Feed(
        count=count,
        read=_channels_first(read),
        channels=3,
        to_input=Normalise(spec),
        readers=readers,
    )


def unmixing_feed(
    count: int,
    read: ReadRgb,
    spec: ModelSpec,
    stains: StainMatrix,
    *,
    readers: int | None = None,
) -> Feed:
    """Feed RGB patches to a network that takes stains; they are unmixed on the device."""
    return Feed(
        count=count,
        read=_channels_first(read),
        channels=3,
        to_input=nn.Sequential(Unmix(stains), Normalise(spec)),
        readers=readers,
    )


def _channels_first(read: ReadRgb) -> ReadRange:
    """Turn the axes, not the memory: torch's ``channels_last``."""
    return lambda start, stop: read(start, stop).transpose(0, 3, 1, 2)


class Normalise(nn.Module):
    """Stored values -> ``(v / 255 - mean) / std``, float32, shape (B, C, P, P), channels last.

    Parameters
    ----------
    spec : ModelSpec
        Mean and deviation per channel, for values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(spec.mean))
        self.register_buffer("std", torch.tensor(spec.std))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise uint8 values of 0 to 255, or floating point values of 0 to 1."""
        unit = 255.0 if values.dtype == torch.uint8 else 1.0
        pixels = values.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        width, channels = pixels.shape[2:]
        # row by row, and not by channel, which would take a processor ten times as long
        mean, std = (unit * self.mean).repeat(width), (unit * self.std).repeat(width)
        rows = pixels.flatten(2).float().sub_(mean).div_(std)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)


class Unmix(nn.Module):
    """RGB patches (B, 3, P, P) -> H/E patches (B, 2, P, P), both uint8, on any device.

    The table and the integers of :class:`wsi_pipeline.stain.HeEncoder`, so every value is the same.

    Parameters
    ----------
    stains : StainMatrix
        Stain vectors and maxima of the slide the patches are from.
    """

    table: Tensor

    def __init__(self, stains: StainMatrix) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(HeEncoder(stains).table))

    def forward(self, rgb: Tensor) -> Tensor:
        """Unmix a batch."""
        red, green, blue = (
            row.take(rgb[:, channel].long()) for channel, row in enumerate(self.table)
        )
        planes = torch.stack(unpack_counts(red + green + blue), dim=1)
        return planes.clamp_(0, 255).to(torch.uint8)
