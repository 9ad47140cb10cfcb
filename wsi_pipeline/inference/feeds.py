"""Stored or freshly read patches -> the normalised input of a network.

A feed says how patches are read on the host, and holds the module that makes input of them on the
device, to which bytes travel as they are. What the network does with it is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wsi_pipeline.inference.stages import CentreCrop, Normalise, Resize, Unmix

if TYPE_CHECKING:
    from wsi_pipeline.inference.read_ahead import ReadRange
    from wsi_pipeline.types import EncoderSpec, PatchSpec, StainMatrix

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
    patch_px : int
        Side of the centre of each patch that is used, px.
    to_input : Module
        Makes network input of what ``read`` gives, on any device.
    readers : int or None
        Threads that call ``read``; a few, by the kind of device, if None.
    """

    count: int
    read: ReadRange
    channels: int
    patch_px: int
    to_input: nn.Module
    readers: int | None = None


def he_feed(count: int, read: ReadRange, spec: PatchSpec, *, readers: int | None = None) -> Feed:
    """Feed H/E patches as they are stored, shape (n, 2, P, P), uint8 or float16."""
    return Feed(
        count=count,
        read=read,
        channels=2,
        patch_px=spec.patch_px,
        to_input=Normalise(spec),
        readers=readers,
    )


def rgb_feed(count: int, read: ReadRgb, spec: PatchSpec, *, readers: int | None = None) -> Feed:
    """Feed RGB patches to a network that takes colours."""
    return Feed(
        count=count,
        read=_channels_first(read),
        channels=3,
        patch_px=spec.patch_px,
        to_input=Normalise(spec),
        readers=readers,
    )


def unmixing_feed(
    count: int,
    read: ReadRgb,
    spec: PatchSpec,
    stains: StainMatrix,
    *,
    readers: int | None = None,
) -> Feed:
    """Feed RGB patches to a network that takes stains; they are unmixed on the device."""
    return Feed(
        count=count,
        read=_channels_first(read),
        channels=3,
        patch_px=spec.patch_px,
        to_input=nn.Sequential(Unmix(stains), Normalise(spec)),
        readers=readers,
    )


def encoder_feed(
    count: int,
    read: ReadRgb,
    spec: EncoderSpec,
    restain: nn.Module | None = None,
    *,
    readers: int | None = None,
) -> Feed:
    """Feed RGB patches to an encoder that resizes or crops them; stained anew first if given."""
    steps: list[nn.Module] = [] if restain is None else [restain]
    if spec.resize_px not in (None, spec.patch_px):
        steps.append(Resize(spec.resize_px or spec.patch_px, spec.interpolation))
    if spec.input_px is not None:
        steps.append(CentreCrop(spec.input_px))
    return Feed(
        count=count,
        read=_channels_first(read),
        channels=3,
        patch_px=spec.patch_px,
        to_input=nn.Sequential(*steps, Normalise(spec)),
        readers=readers,
    )


def _channels_first(read: ReadRgb) -> ReadRange:
    """Turn the axes, not the memory: torch's ``channels_last``."""
    return lambda start, stop: read(start, stop).transpose(0, 3, 1, 2)
