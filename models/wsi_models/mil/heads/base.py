"""What every classifier of bags has in common: standardised features, outputs, losses.

How a bag becomes logits is the business of each head; how heads are trained lives elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class BagScores:
    """What a head says of a bag of N instances.

    Attributes
    ----------
    logits : Tensor of shape (K,)
        One per output; of two classes, that of the second.
    attention : Tensor of shape (N, A)
        Share of each instance in the decision; columns sum to 1. A is 1, or K where every output
        has its own attention.
    """

    logits: Tensor
    attention: Tensor


class Head(nn.Module, ABC):
    """A classifier of bags.

    Parameters
    ----------
    feature_count : int
        Length F of the vector of an instance.
    class_count : int
        Number C of classes.
    per_class : bool
        Give two classes an output each. Otherwise they share one (K = 1); more have K = C.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, feature_count: int, class_count: int, *, per_class: bool = False) -> None:
        super().__init__()
        self.class_count = class_count
        self.outputs = 1 if class_count == 2 and not per_class else class_count
        self.register_buffer("mean", torch.zeros(feature_count))
        self.register_buffer("std", torch.ones(feature_count))

    @abstractmethod
    def score(self, bag: Tensor) -> BagScores:
        """Judge a bag, shape (N, F), N > 0, as it came from the encoder."""

    @abstractmethod
    def loss(self, bag: Tensor, label: int) -> Tensor:
        """Compute the loss of a bag of class ``label``, a scalar."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits, shape (K,), into probabilities of the classes, shape (C,)."""
        if self.outputs == 1:
            positive = logits.sigmoid()
            return torch.cat([1 - positive, positive])
        return logits.softmax(dim=0)

    def standardised(self, bag: Tensor) -> Tensor:
        """Bring a bag to the mean and deviation of the training instances."""
        return (bag - self.mean) / self.std

    def target(self, label: int) -> Tensor:
        """Return what the outputs should be after a sigmoid, shape (K,)."""
        if self.outputs == 1:
            return self.mean.new_tensor([float(label)])
        return functional.one_hot(torch.tensor(label), self.class_count).to(self.mean)

    def classification_loss(self, logits: Tensor, label: int) -> Tensor:
        """Cross-entropy of classes that exclude each other."""
        if self.outputs == 1:
            return functional.binary_cross_entropy_with_logits(logits, self.target(label))
        return functional.cross_entropy(logits, self.target(label))
