"""Class probabilities -> more decided ones, as pseudo-labels need them.

Forwards through networks and the decision which patches to trust are made elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sharpen(prob: Tensor, temperature: float) -> Tensor:
    """Raise probabilities to the power 1 / T and scale them to sum to one again.

    Parameters
    ----------
    prob : Tensor of shape (..., C)
        Probabilities, summing to one over the last axis.
    temperature : float
        T > 0; 1 changes nothing, towards 0 the largest takes all.

    Returns
    -------
    Tensor of shape (..., C)
        Probabilities.

    Notes
    -----
    The largest probability is divided out first, so that no power underflows for all classes.

    References
    ----------
    .. [1] D. Berthelot et al., MixMatch, NeurIPS 2019, equation 7.
    """
    powers = (prob / prob.amax(dim=-1, keepdim=True)) ** (1 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True)
