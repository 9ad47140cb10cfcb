"""A network in training -> the running average of its weights, which is what gets evaluated.

What becomes of its buffers is said, not implied; the optimizer is not this module's business.
"""

from __future__ import annotations

import copy
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

BufferPolicy = Literal["average", "copy"]
"""What the average does with running statistics: average them too, or take the latest."""

TargetPolicy = BufferPolicy | Literal["own"]
"""The same, or nothing: an average that is run in training mode measures statistics of its own."""

Network = TypeVar("Network", bound=nn.Module)


class Ema(nn.Module, Generic[Network]):
    """The exponential moving average of a network.

    Parameters
    ----------
    network : Module
        The network that is trained; copied, not kept.
    decay : float
        Share of the average that an update keeps, from 0 to 1.
    buffers : {"average", "copy", "own"}
        CLASS-M averages the running statistics of batch normalisation, TEAR copies them, and the
        target of BYOL, which is run in training mode, keeps its own. Buffers of whole numbers,
        such as counts of batches, are copied unless all are its own.

    Notes
    -----
    The average starts as the network itself and follows from the first update on. Torch's own
    ``AveragedModel`` copies at the first update, and averages counts of batches into zero.
    """

    def __init__(
        self, network: Network, decay: float, *, buffers: TargetPolicy = "average"
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and less than 1, got {decay}")
        self._average: Network = copy.deepcopy(network).requires_grad_(requires_grad=False)
        self._decay = decay
        self._buffers_policy = buffers

    @property
    def network(self) -> Network:
        """The average, a network of the same kind, in evaluation mode."""
        return self._average.eval()

    @torch.no_grad()
    def update(self, network: nn.Module, decay: float | None = None) -> None:
        """Move the average towards the network by one step, with another decay if one is given."""
        mine: list[Tensor] = list(self._average.parameters())
        theirs: list[Tensor] = list(network.parameters())
        for own, other in zip(self._average.buffers(), network.buffers(), strict=True):
            if self._buffers_policy == "own":
                continue
            if self._buffers_policy == "average" and own.is_floating_point():
                mine.append(own)
                theirs.append(other)
            else:
                own.copy_(other)
        torch._foreach_lerp_(mine, theirs, 1 - (self._decay if decay is None else decay))

    @torch.no_grad()
    def restart(self, network: nn.Module) -> None:
        """Make the average a copy of the network."""
        self._average.load_state_dict(network.state_dict())


@torch.no_grad()
def decay_weights(network: nn.Module, share: float) -> None:
    """Shrink all parameters of a network by a share of themselves; buffers stay as they are.

    The CLASS-M release shrinks the running statistics of batch normalisation as well, which is a
    side effect of going through all its state and distorts what they estimate.
    """
    parameters: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
    torch._foreach_mul_(parameters, 1 - share)
