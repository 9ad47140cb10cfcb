"""Predictions of unlabelled patches -> the same, corrected for classes predicted too often.

Which predictions become labels is decided elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BATCHES = 32
"""Batches whose mean predictions are remembered, as published for TEAR."""

LEAST = 1e-6


class DistributionAlignment(nn.Module):
    """Divides class probabilities by their mean over the latest batches, and scales to sum 1.

    Parameters
    ----------
    classes : int
        Number C of classes.
    batches : int
        How many batches are remembered.

    Notes
    -----
    The mean is over fewer batches until as many were seen. It is part of the state, so that a
    resumed run goes on with it.

    References
    ----------
    .. [1] D. Berthelot et al., ReMixMatch, ICLR 2020, section 3.1; the wanted distribution is
       uniform here.
    """

    means: Tensor

    def __init__(self, classes: int, batches: int = BATCHES) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(batches, classes))

    @torch.no_grad()
    def update(self, prob: Tensor) -> None:
        """Remember a batch of probabilities, shape (U, C), and forget the oldest."""
        self.means.copy_(torch.cat([prob.mean(dim=0, keepdim=True), self.means[:-1]]))

    def forward(self, prob: Tensor) -> Tensor:
        """Correct probabilities, shape (U, C), by what was remembered."""
        # the sum will do for the mean: the factor between them goes when scaling to sum 1
        aligned = prob / self.means.sum(dim=0).clamp(min=LEAST)
        return aligned / aligned.sum(dim=1, keepdim=True)
