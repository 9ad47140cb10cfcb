"""DSMIL as published: the critical instance of each class, and attention to what is like it.

Its modules are those of the public release, whose weights load into them. Training is that of
every head.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_models.errors import TrainingError
from wsi_models.mil.config import DsmilConfig
from wsi_models.mil.heads.base import BagScores, Head
from wsi_models.parts.imagenet import UNREADABLE

if TYPE_CHECKING:
    from pathlib import Path

RELEASED_NAMES = {
    "i_classifier.fc.0": "network.instance_classifier",
    "b_classifier.q.0": "network.query.0",
    "b_classifier.q.2": "network.query.2",
    "b_classifier.v.1": "network.value.1",
    "b_classifier.fcc": "network.bag_classifier",
}
"""Modules of the release, and what they are called here."""


class DualStreams(nn.Module):
    """Finds the critical instance of each output, and pools the bag around it.

    Parameters
    ----------
    feature_count : int
        Length F of the vector of an instance.
    outputs : int
        Logits K of a bag.
    config : DsmilConfig
        Length of queries, dropout, and whether values are transformed.
    """

    def __init__(self, feature_count: int, outputs: int, config: DsmilConfig) -> None:
        super().__init__()
        self.instance_classifier = nn.Linear(feature_count, outputs)
        self.query = nn.Sequential(
            nn.Linear(feature_count, config.attention),
            nn.ReLU(),
            nn.Linear(config.attention, config.attention),
            nn.Tanh(),
        )
        self.value: nn.Module = nn.Identity()
        if config.transform_values:
            linear = nn.Linear(feature_count, feature_count)
            self.value = nn.Sequential(nn.Dropout(config.dropout), linear, nn.ReLU())
        self.bag_classifier = nn.Conv1d(outputs, outputs, feature_count)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (K,), attention (N, K) and the logits of instances (N, K)."""
        instances = self.instance_classifier(bag)
        queries = self.query(bag)
        critical = queries[instances.argmax(dim=0)]
        attention = (queries @ critical.T / math.sqrt(queries.shape[1])).softmax(dim=0)
        pooled = attention.T @ self.value(bag)
        return self.bag_classifier(pooled[None]).reshape(-1), attention, instances


class DsmilHead(Head):
    """A stream of instances that finds the critical one, and a stream that pools around it.

    For each output c, m(c) is the instance with the highest logit; the attention of instance i is
    the softmax over i of q_i . q_m(c) / sqrt(d); the bag vectors B (K, F) of all outputs give the
    logits by a convolution over F. The loss is half the binary cross-entropy of the bag logits
    and half that of the highest instance logits. Several outputs are judged by one sigmoid each,
    as in the release; the probabilities of classes are these sigmoids, divided by their sum.
    Weights start orthogonal and biases at zero, without which attention may stay equal.

    References
    ----------
    .. [1] B. Li, Y. Li, K. Eliceiri, "Dual-stream multiple instance learning network for whole
       slide image classification with self-supervised contrastive learning", CVPR 2021:
       equations 2 to 7. Unlike the release, no epoch and no threshold is chosen on slides that
       test.
    """

    def __init__(self, config: DsmilConfig, feature_count: int, class_count: int) -> None:
        super().__init__(feature_count, class_count, per_class=config.per_class)
        self.network = DualStreams(feature_count, self.outputs, config)
        for module in self.network.modules():
            if isinstance(module, nn.Linear | nn.Conv1d):
                nn.init.orthogonal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type] # every layer here has one

    def score(self, bag: Tensor) -> BagScores:
        """Judge a bag by its critical instances and what resembles them."""
        logits, attention, _ = self.network(self.standardised(bag))
        return BagScores(logits, attention)

    def loss(self, bag: Tensor, label: int) -> Tensor:
        """Average the binary cross-entropies of both streams."""
        logits, _, instances = self.network(self.standardised(bag))
        target = self.target(label)
        critical = instances.amax(dim=0)
        return 0.5 * (
            functional.binary_cross_entropy_with_logits(logits, target)
            + functional.binary_cross_entropy_with_logits(critical, target)
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits, shape (K,), into probabilities of the classes, shape (C,)."""
        if self.outputs == 1:
            return super().probabilities(logits)
        each = logits.sigmoid()
        return each / each.sum()


def load_released_dsmil(path: Path) -> DsmilHead:
    """Load an aggregator of the public DSMIL release.

    Parameters
    ----------
    path : Path
        A ``.pth`` of the release: a dictionary of tensors. Nothing else in it is read.

    Returns
    -------
    DsmilHead
        In evaluation mode, with the sizes of its tensors. Features are used as they are.

    Raises
    ------
    TrainingError
        If the file is not a trained aggregator of the release.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise TrainingError(f"{path} is not a file of tensors: {error}") from error
    weights = {_renamed(name): tensor for name, tensor in state.items()}
    try:
        outputs, feature_count = weights["network.instance_classifier.weight"].shape
        config = DsmilConfig(
            standardise=False,
            attention=len(weights["network.query.2.weight"]),
            per_class=outputs > 1,
            transform_values="network.value.1.weight" in weights,
        )
        head = DsmilHead(config, feature_count, max(2, outputs))
        unit = {"mean": head.mean, "std": head.std}
        head.load_state_dict({**weights, **unit})
    except (KeyError, RuntimeError) as error:
        raise TrainingError(
            f"{path} is not a trained aggregator of the release ({error}); its files of initial "
            "weights hold only a part of one"
        ) from error
    return head.eval()


def _renamed(name: str) -> str:
    module, _, tensor = name.rpartition(".")
    return f"{RELEASED_NAMES.get(module, module)}.{tensor}"
