"""Features of patches whose class is known -> the class of others, by their nearest neighbour.

Judges features without training anything on them; that reference and judged patches come from
different slides is the split's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.1
"""What cosines are divided by to be read as logits; changes confidences, never the class."""

CHUNK = 16_384
"""References compared with one chunk of queries at a time."""


@dataclass(frozen=True, slots=True)
class References:
    """What patches are compared with.

    Attributes
    ----------
    features : Tensor of shape (N, F)
        Of any length each; only their direction counts.
    label : Tensor of shape (N,), int64
        Their classes, all known.
    classes : int
        Number C of classes.
    """

    features: Tensor
    label: Tensor
    classes: int

    def __post_init__(self) -> None:
        """Refuse features and labels that do not belong together."""
        if self.features.ndim != 2 or self.label.shape != self.features.shape[:1]:
            raise ValueError(
                f"features {tuple(self.features.shape)} and label {tuple(self.label.shape)} must "
                "be (N, F) and (N,)"
            )
        if len(self.label) == 0:
            raise ValueError("nearest neighbours need at least one labelled reference, got none")
        low, high = (int(value) for value in self.label.aminmax())
        if low < 0 or high >= self.classes:
            raise ValueError(
                f"labels of references go from {low} to {high}; they must be classes 0 to "
                f"{self.classes - 1}"
            )


def neighbour_logits(queries: Tensor, references: References, *, chunk: int = CHUNK) -> Tensor:
    """Compute the logits of the top-1 nearest-neighbour classifier.

    Parameters
    ----------
    queries : Tensor of shape (n, F)
        Features of the patches to be classified; on the device where it is to be computed.
    references : References
        What they are compared with.
    chunk : int
        References and queries in one product of matrices: memory is its square.

    Returns
    -------
    Tensor of shape (n, C), float32
        The cosine of the nearest reference of each class over :data:`TEMPERATURE`, so that the
        greatest logit is the class of the nearest reference of all. A class without reference
        has the cosine -1, which nothing can be less like.

    Notes
    -----
    The paper of CluSiam [1]_ judges by the nearest neighbour and does not say by which distance;
    it is the cosine here. The temperature only serves those who ask for confidences.

    References
    ----------
    .. [1] W. Wu et al., Improving Representation Learning for Histopathologic Images with Cluster
       Constraints, ICCV 2023.
    """
    found = [_nearest(part, references, chunk) for part in torch.split(_unit(queries), chunk)]
    cosines = torch.cat(found) if found else queries.new_empty((0, references.classes))
    return cosines / TEMPERATURE


def _nearest(queries: Tensor, references: References, chunk: int) -> Tensor:
    """Find the greatest cosine with a reference of each class, shape (n, C)."""
    best = queries.new_full((len(queries), references.classes), -1.0)
    parts = zip(
        torch.split(references.features, chunk), torch.split(references.label, chunk), strict=True
    )
    for features, label in parts:
        cosines = queries @ _unit(features.to(queries.device)).T
        columns = label.to(queries.device).expand(len(queries), -1)
        best.scatter_reduce_(1, columns, cosines, "amax")
    return best


def _unit(features: Tensor) -> Tensor:
    return functional.normalize(features.to(torch.float32), dim=1)
