"""The seam for encoders: what one must be, and what it is once its weights are in.

An encoder takes patches and gives features. It needs no classes, and says itself which tiles it
wants and what is done to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsi_models.encoders.card import EncoderCard


class PatchEncoder(Protocol):
    """An encoder that can be built."""

    @property
    def card(self) -> EncoderCard:
        """What is published of it."""

    def build(self) -> nn.Module:
        """Build its network, weights not yet loaded.

        Returns
        -------
        Module
            Maps (B, 3, p, p) float patches, transformed as the card says, to (B, F) features;
            p = ``card.transform.input_px``, F = ``card.features``.

        Raises
        ------
        EncoderError
            If a package that it needs is not installed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEncoder:
    """An encoder that is ready to encode.

    Attributes
    ----------
    card : EncoderCard
        What is published of it, with the pooling that was chosen.
    module : Module
        The network with its weights, in evaluation mode, on the CPU.
    weights_file : str
        Name of the file the weights are from; empty where it has none.
    weights_sha256 : str
        SHA-256 of that file; empty where it has none.
    weights_digest : str
        Digest of the tensors, the same whatever file they came in.
    """

    card: EncoderCard
    module: nn.Module
    weights_file: str
    weights_sha256: str
    weights_digest: str

    @property
    def identity(self) -> str:
        """What the vectors rest on; see :meth:`EncoderCard.identity`."""
        return self.card.identity(self.weights_digest)


def digest_tensors(state: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, shape, type and value, whatever their order.

    Parameters
    ----------
    state : mapping of str to Tensor
        The tensors, on the CPU.

    Returns
    -------
    str
        SHA-256, hexadecimal.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous()
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
