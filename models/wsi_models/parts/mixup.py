"""Two orders of one batch and a weight -> the batch in between.

Mixes tensors; which patches take part and what is learned from them is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_models.parts import draws

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mix:
    """How to mix a batch: item ``i`` becomes ``weight * x[i] + (1 - weight) * x[partner[i]]``.

    Attributes
    ----------
    weight : float
        At least 0.5, so that every item stays closer to itself than to its partner.
    partner : Tensor of shape (B,), int64
        A permutation of the batch.
    """

    weight: float
    partner: Tensor

    def __call__(self, items: Tensor) -> Tensor:
        """Mix items, shape (B, ...)."""
        return self.weight * items + (1 - self.weight) * items[self.partner]


def draw_mix(count: int, alpha: float, generator: torch.Generator, device: torch.device) -> Mix:
    """Draw partners, and for all one weight ``max(l, 1 - l)`` with ``l ~ Beta(alpha, alpha)``.

    Parameters
    ----------
    count : int
        Items B of the batch.
    alpha : float
        Parameter of the Beta distribution, > 0; the weight is drawn before the partners.
    generator : torch.Generator
        Source of both draws.
    device : torch.device
        Where the partners go.

    References
    ----------
    .. [1] D. Berthelot et al., MixMatch, NeurIPS 2019, equations 8 to 11.
    """
    drawn = draws.beta(alpha, generator)
    return Mix(max(drawn, 1 - drawn), draws.permutation(count, generator, device))
