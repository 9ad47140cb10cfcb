"""Features of patches -> how far they lie from those a model was trained on.

A network names a class for anything it is shown. How far the features of a slide lie from those
of the training set tells whether its answer rests on anything; what is done then is decided
elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

if TYPE_CHECKING:
    from wsi_models.parts.patch_network import PatchNetwork

PERCENTILE = 0.99
"""Share of the training patches that lie within the limit."""

LEAST_SCALE = 1e-3
"""Least deviation of a feature, as a share of the mean deviation: some features never vary."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Row = Annotated[tuple[Finite, ...], Field(min_length=1)]


class Familiarity(BaseModel):
    """Where the features of the training set lie: around one centre for each class.

    The distance of a patch is ``sqrt(mean_f (((x_f - c_f) / s_f)^2))`` from the nearest centre, in
    units of the distance within which 99 % of the training patches lie.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    centres: tuple[Row, ...] = Field(
        min_length=1, description="Mean features of the training patches given each class."
    )
    scale: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        min_length=1, description="Deviation of each feature around its centre."
    )
    limit: float = Field(
        gt=0, allow_inf_nan=False, description="99th percentile of the distances in training."
    )
    usual: float = Field(
        ge=0,
        le=1,
        description="Share of the patches of groups not trained on that lie beyond the limit.",
    )

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        widths = {len(row) for row in (*self.centres, self.scale)}
        if len(widths) > 1:
            raise ValueError(f"centres and scale are of {sorted(widths)} features; one is wrong")
        return self

    def distance(self, features: Tensor) -> Tensor:
        """Measure features of shape (B, F); gives (B,), 1 at the limit."""
        distance: Tensor = _Distance(self)(features)
        return distance

    def share_beyond(self, features: Tensor) -> float:
        """Share of the features of shape (B, F), B >= 1, that lie beyond the limit."""
        return float((self.distance(features) > 1).double().mean())


def measure_familiarity(features: Tensor, label: Tensor, others: Tensor) -> Familiarity:
    """Find where the features of a training set lie.

    Parameters
    ----------
    features : Tensor of shape (N, F)
        Of training patches, N >= 2.
    label : Tensor of shape (N,), int64
        The output of the model that is largest for each.
    others : Tensor of shape (M, F)
        Features of patches of groups not trained on, to say what is usual there; M may be 0.

    Returns
    -------
    Familiarity
        Centres of the outputs that occur.
    """
    features = features.double()
    found, code = torch.unique(label, return_inverse=True)
    centres = torch.stack([features[code == value].mean(dim=0) for value in range(len(found))])
    around = features - centres[code]
    scale = around.square().mean(dim=0).sqrt()
    scale = scale.clamp(min=LEAST_SCALE * float(scale.mean().clamp(min=1e-12)))
    rough = Familiarity(centres=_rows(centres), scale=_rows(scale[None])[0], limit=1.0, usual=0.0)
    limit = float(torch.quantile(rough.distance(features), PERCENTILE).clamp(min=1e-12))
    measured = rough.model_copy(update={"limit": limit})
    usual = measured.share_beyond(others) if len(others) else 0.0
    return measured.model_copy(update={"usual": usual})


class Assessor(nn.Module):
    """A network that gives, beside its logits, the distance of each patch from its training set.

    Parameters
    ----------
    network : PatchNetwork
        The network; its parameters are shared, not copied.
    familiarity : Familiarity
        Of the training set.
    """

    def __init__(self, network: PatchNetwork, familiarity: Familiarity) -> None:
        super().__init__()
        self.network = network
        self.distance = _Distance(familiarity)

    def forward(self, patches: Tensor) -> Tensor:
        """Compute logits and distance, shape (B, C + 1), of normalised patches, in one pass."""
        features, logits = self.network.features_and_logits(patches)
        distance = self.distance(features.float())
        return torch.cat([logits, distance[:, None].to(logits.dtype)], dim=1)


class _Distance(nn.Module):
    centres: Tensor
    scale: Tensor

    def __init__(self, familiarity: Familiarity) -> None:
        super().__init__()
        # as tensors of the module they follow it to its device
        scale = torch.tensor(familiarity.scale, dtype=torch.float64) * familiarity.limit
        centres = torch.tensor(familiarity.centres, dtype=torch.float64)
        self.register_buffer("scale", scale.float())
        self.register_buffer("centres", (centres / scale).float())

    def forward(self, features: Tensor) -> Tensor:
        scaled = features.to(self.scale.dtype) / self.scale
        apart = torch.cdist(scaled, self.centres).amin(dim=1)
        distance: Tensor = apart / self.centres.shape[1] ** 0.5
        return distance


def _rows(values: Tensor) -> tuple[tuple[float, ...], ...]:
    """Keep six digits: a bundle holds these as text."""
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in values.tolist())
