"""A generator -> the random numbers of a step, on the device where they are used.

Every draw names its generator, which may live on another device than the result; the global
generators of torch and numpy are never touched.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def uniform(
    shape: tuple[int, ...],
    low: float,
    high: float,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Draw float32 values from U[low, high)."""
    draws = torch.rand(shape, generator=generator, device=generator.device)
    return (low + (high - low) * draws).to(device)


def normal(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw float32 values from N(0, 1)."""
    return torch.randn(shape, generator=generator, device=generator.device).to(device)


def integers(
    shape: tuple[int, ...], count: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw int64 values from 0 to ``count - 1``."""
    draws = torch.randint(count, shape, generator=generator, device=generator.device)
    return draws.to(device)


def permutation(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw an order of ``count`` items, int64."""
    return torch.randperm(count, generator=generator, device=generator.device).to(device)


def gumbel(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    """Draw float32 values from the standard Gumbel distribution."""
    waiting = torch.empty(shape, device=generator.device).exponential_(generator=generator)
    return -waiting.log().to(device)


def beta(alpha: float, generator: torch.Generator) -> float:
    """Draw one value from Beta(alpha, alpha).

    Torch samples this distribution from its global generator only, so one integer of the given
    generator seeds numpy's.
    """
    seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
    return float(np.random.default_rng(int(seed)).beta(alpha, alpha))
