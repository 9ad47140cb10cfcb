"""The features of a bag -> their average, weighted by learnt attention, and logits of it.

One network for both models: an embedding of each instance, attention, and a classifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsi_models.mil.heads.base import BagScores, Head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsi_models.mil.config import AbmilConfig, ClamSbConfig


class AttentionNetwork(nn.Module):
    """Embeds instances, averages them by their attention, and classifies the average.

    The attention of an embedded instance h is the softmax over the bag of
    ``w . (tanh(V h + b) * sigmoid(U h + c))``, without the second factor if it is not gated.

    Parameters
    ----------
    embedding : Module
        Shortens features of shape (N, F) to (N, D).
    width : int
        Their length D.
    attention : int
        Rows of V and U.
    gated : bool
        Multiply by the sigmoid.
    outputs : int
        Logits of a bag.

    References
    ----------
    .. [1] M. Ilse, J. Tomczak, M. Welling, "Attention-based deep multiple instance learning",
       ICML 2018: equations 7 to 9.
    """

    def __init__(
        self, embedding: nn.Module, width: int, *, attention: int, gated: bool, outputs: int
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.signal = nn.Linear(width, attention)
        self.gate = nn.Linear(width, attention) if gated else None
        self.weight = nn.Linear(attention, 1, bias=False)
        self.classifier = nn.Linear(width, outputs)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (K,), attention (N, 1) and embedded instances (N, D)."""
        embedded = self.embedding(bag)
        hidden = self.signal(embedded).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(embedded).sigmoid()
        attention = self.weight(hidden).softmax(dim=0)
        return self.classifier(attention[:, 0] @ embedded), attention, embedded


class AbmilHead(Head):
    """Attention-based pooling.

    References
    ----------
    .. [1] M. Ilse, J. Tomczak, M. Welling, "Attention-based deep multiple instance learning",
       ICML 2018: equations 7 to 9. The gate and the embedding are choices; the losses are those
       of C classes instead of two.
    """

    def __init__(self, config: AbmilConfig, feature_count: int, class_count: int) -> None:
        super().__init__(feature_count, class_count)
        embedding, width = _embedding(feature_count, config.embedding, config.dropout)
        self.network = AttentionNetwork(
            embedding,
            width,
            attention=config.attention,
            gated=config.gated,
            outputs=self.outputs,
        )

    def score(self, bag: Tensor) -> BagScores:
        """Classify the average of the instances, weighted by their attention."""
        logits, attention, _ = self.network(self.standardised(bag))
        return BagScores(logits, attention)

    def loss(self, bag: Tensor, label: int) -> Tensor:
        """Cross-entropy of the bag."""
        return self.classification_loss(self.score(bag).logits, label)


class ClamSbHead(Head):
    """Attention-based pooling whose attended instances are told from the least attended ones.

    References
    ----------
    .. [1] M. Lu et al., "Data-efficient and weakly supervised computational pathology on
       whole-slide images", Nature Biomedical Engineering 2021. As there, other classes learn from
       the attended instances only where classes exclude each other, and the smooth SVM loss of
       instances (temperature 1) is averaged over the classifiers used. A bag with fewer than
       twice the clustered instances has no such loss, since one would be attended most and least.
    """

    def __init__(self, config: ClamSbConfig, feature_count: int, class_count: int) -> None:
        super().__init__(feature_count, class_count)
        self.config = config
        embedding, width = _embedding(feature_count, config.embedding, config.dropout)
        self.network = AttentionNetwork(
            embedding, width, attention=config.attention, gated=True, outputs=self.outputs
        )
        self.instance_classifiers = nn.ModuleList(nn.Linear(width, 2) for _ in range(class_count))

    def score(self, bag: Tensor) -> BagScores:
        """Classify the average of the instances, weighted by their attention."""
        logits, attention, _ = self.network(self.standardised(bag))
        return BagScores(logits, attention)

    def loss(self, bag: Tensor, label: int) -> Tensor:
        """Weigh the cross-entropy of the bag and the losses of clustered instances."""
        logits, attention, embedded = self.network(self.standardised(bag))
        loss = self.config.bag_weight * self.classification_loss(logits, label)
        if len(bag) < 2 * self.config.instances:
            return loss
        instances = self._instance_loss(attention[:, 0], embedded, label)
        return loss + (1 - self.config.bag_weight) * instances

    def _instance_loss(self, attention: Tensor, embedded: Tensor, label: int) -> Tensor:
        count = self.config.instances
        most = embedded[attention.topk(count).indices]
        least = embedded[(-attention).topk(count).indices]
        classifiers = self.instance_classifiers
        own = classifiers[label](torch.cat([most, least]))
        losses = [_smooth_svm(own, [1] * count + [0] * count)]
        if self.config.exclusive:
            losses += [
                _smooth_svm(classifier(most), [0] * count)
                for other, classifier in enumerate(classifiers)
                if other != label
            ]
        return torch.stack(losses).mean()


def _smooth_svm(logits: Tensor, label: list[int]) -> Tensor:
    """Smooth top-1 SVM loss: cross-entropy with a margin of 1 added to the wrong classes.

    L. Berrada, A. Zisserman, M. Kumar, "Smooth loss functions for deep top-k classification",
    ICLR 2018, equation 7 for k = 1.
    """
    target = torch.tensor(label, device=logits.device)
    margin = 1 - functional.one_hot(target, logits.shape[1])
    return functional.cross_entropy(logits + margin, target)


def _embedding(feature_count: int, widths: Sequence[int], dropout: float) -> tuple[nn.Module, int]:
    """Return layers that shorten the features, and the width they end with."""
    layers: list[nn.Module] = []
    width = feature_count
    for wider in widths:
        layers += [nn.Linear(width, wider), nn.ReLU(), nn.Dropout(dropout)]
        width = wider
    return (nn.Sequential(*layers) if layers else nn.Identity()), width
