"""Risks, times and events -> the loss of Cox's model, concordance, and curves of survival.

Plain mathematics over arrays; who the patients are is not known here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def cox_loss(risk: Tensor, time: Tensor, event: Tensor) -> Tensor:
    """Negative logarithm of the partial likelihood, per event.

    ``-1/m sum_{i: event} (r_i - log sum_{j: t_j >= t_i} exp r_j)`` for m events; ties in time are
    treated as Breslow does.

    Parameters
    ----------
    risk : Tensor of shape (n,)
        Logarithms of hazards, up to a constant.
    time : Tensor of shape (n,)
        How long each was followed.
    event : Tensor of shape (n,), bool
        Whether the event was seen at that time.

    Returns
    -------
    Tensor
        A scalar; 0 without an event.

    References
    ----------
    .. [1] D. Cox, Regression models and life-tables, JRSS B 34 (1972), equation 12.
    """
    at_risk = time[None, :] >= time[:, None]
    everyone = risk[None, :].expand(len(risk), -1)
    total = everyone.masked_fill(~at_risk, -torch.inf).logsumexp(dim=1)
    return ((total - risk) * event).sum() / event.sum().clamp(min=1)


class Concordance(NamedTuple):
    """How well risks order patients.

    Attributes
    ----------
    value : float
        Share of comparable pairs in which the patient with the event first has the higher risk;
        equal risks count half. NaN without a pair.
    pairs : int
        Comparable pairs.
    """

    value: float
    pairs: int


def concordance(risk: Floats, time: Floats, event: NDArray[np.bool_]) -> Concordance:
    """Compare all pairs of which it is known who had the event first.

    Parameters
    ----------
    risk, time : ndarray of shape (n,)
        Risks and times of follow-up.
    event : ndarray of shape (n,), bool
        Whether the event was seen.

    Returns
    -------
    Concordance
        Share and number of pairs.

    References
    ----------
    .. [1] F. Harrell et al., Evaluating the yield of medical tests, JAMA 247 (1982).
    """
    right, comparable = _pairs(risk, time, event)
    pairs = int(comparable.sum())
    return Concordance(float(right.sum() / pairs) if pairs else float("nan"), pairs)


def concordance_interval(
    risk: Floats,
    time: Floats,
    event: NDArray[np.bool_],
    fold: NDArray[np.int64],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Concordance within folds, and its 95 % interval over resampled patients.

    Risks of different models have no common scale, so only patients of one fold are compared.

    Parameters
    ----------
    risk, time, event
        As for :func:`concordance`.
    fold : ndarray of shape (n,), int64
        Whose model judged each patient.
    resamples : int
        Samples of n patients, with replacement.
    seed : int
        Of the samples.

    Returns
    -------
    tuple of float
        Value, lower and upper end; NaN without a comparable pair.
    """
    right, comparable = _pairs(risk, time, event)
    together = fold[:, None] == fold[None, :]
    right, comparable = right * together, comparable * together
    if not comparable.any():
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    count = len(risk)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    pairs = np.einsum("ri,ij,rj->r", drawn, comparable, drawn, optimize=True)
    values = np.einsum("ri,ij,rj->r", drawn, right, drawn, optimize=True)[pairs > 0]
    low, high = np.percentile(values / pairs[pairs > 0], [2.5, 97.5])
    return float(right.sum() / comparable.sum()), float(low), float(high)


def kaplan_meier(time: Floats, event: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Estimate the share that has had no event at each time.

    Returns
    -------
    times, share : ndarray
        Steps of the curve, from time 0 with share 1.

    References
    ----------
    .. [1] E. Kaplan, P. Meier, Nonparametric estimation from incomplete observations,
       JASA 53 (1958).
    """
    times = np.unique(time[event])
    at_risk = (time[None, :] >= times[:, None]).sum(axis=1)
    died = ((time[None, :] == times[:, None]) & event[None, :]).sum(axis=1)
    share = np.cumprod(1 - died / np.maximum(at_risk, 1))
    return np.concatenate([[0.0], times]), np.concatenate([[1.0], share])


def _pairs(risk: Floats, time: Floats, event: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return, for all pairs (i, j), whether i is rightly the riskier, and whether i came first."""
    # of two at one time, the one whose event was seen came first if the other's was not
    first = time[:, None] < time[None, :]
    tied = (time[:, None] == time[None, :]) & ~event[None, :]
    comparable = event[:, None] & (first | tied)
    higher = (risk[:, None] > risk[None, :]) + 0.5 * (risk[:, None] == risk[None, :])
    return comparable * higher, comparable.astype(np.float64)
