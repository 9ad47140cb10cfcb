"""The outputs of a linear classifier of instances -> their mean or maximum over the bag.

The simplest heads: what attention is worth is measured against them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from wsi_models.mil.heads.base import BagScores, Head

if TYPE_CHECKING:
    from wsi_models.mil.config import PoolingConfig


class PoolingHead(Head):
    """The mean or the maximum of the logits of instances.

    The attention of the mean is equal for all instances; that of the maximum is 1 for the
    instance that decides each output.
    """

    def __init__(self, config: PoolingConfig, feature_count: int, class_count: int) -> None:
        super().__init__(feature_count, class_count)
        self.classifier = nn.Linear(feature_count, self.outputs)
        self.takes_maximum = config.model == "max"

    def score(self, bag: Tensor) -> BagScores:
        """Pool the logits of the instances."""
        instances = self.classifier(self.standardised(bag))
        pooled = instances.amax(dim=0) if self.takes_maximum else instances.mean(dim=0)
        return BagScores(pooled, self._attention(instances))

    def loss(self, bag: Tensor, label: int) -> Tensor:
        """Cross-entropy of the pooled logits."""
        return self.classification_loss(self.score(bag).logits, label)

    def _attention(self, instances: Tensor) -> Tensor:
        count = len(instances)
        if self.takes_maximum:
            return functional.one_hot(instances.argmax(dim=0), count).T.to(instances)
        return instances.new_full((count, 1), 1 / count)
