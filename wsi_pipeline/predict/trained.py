"""A network that is ready to predict, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from wsi_pipeline.types import EncoderSpec, ModelSpec, Predictions

LEAST_DOUBTFUL = 0.1
"""Share of unfamiliar tiles up to which a slide is never doubted."""

DOUBTFUL_TIMES = 3.0
"""How many times the usual share makes a slide doubtful."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """A network that is ready to predict.

    Attributes
    ----------
    module : torch.nn.Module
        Takes (B, 2, P, P) normalised H/E patches and gives (B, K) logits.
    spec : ModelSpec
        What it expects and gives.
    fingerprint : str
        Hash of its weights.
    trained_on : str
        What it learnt from, in words: what it may be trusted with.
    usual_share : float or None
        Share of the patches of other slides like those that lie beyond 99 % of the patches that it
        learnt from; None where it was not measured.
    caveat : str or None
        What everyone who sees its classes must be told.
    """

    module: nn.Module
    spec: ModelSpec
    fingerprint: str
    trained_on: str
    usual_share: float | None = None
    caveat: str | None = None

    def judged(self, predictions: Predictions) -> Predictions:
        """Return its predictions of a slide with the doubts that there are about them."""
        doubts = (self.caveat, self.doubt(predictions.unfamiliar_share))
        return replace(predictions, doubts=tuple(doubt for doubt in doubts if doubt))

    def doubt(self, unfamiliar_share: float | None) -> str | None:
        """Say why its labels on a slide are not to be trusted, if so much of it is unfamiliar.

        Parameters
        ----------
        unfamiliar_share : float or None
            :attr:`~wsi_pipeline.types.Predictions.unfamiliar_share` of the slide.

        Returns
        -------
        str or None
            A sentence for people; None where nothing speaks against it, or nothing is known.
        """
        if unfamiliar_share is None or self.usual_share is None:
            return None
        if unfamiliar_share <= max(LEAST_DOUBTFUL, DOUBTFUL_TIMES * self.usual_share):
            return None
        return (
            f"{unfamiliar_share:.0%} of the tiles look unlike what model {self.spec.name} was "
            f"trained on ({self.usual_share:.0%} are usual): do not trust its labels here"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedEncoder:
    """A network that is ready to encode patches; it has no classes.

    Attributes
    ----------
    module : torch.nn.Module
        Takes patches as the specification says and gives (B, F) features.
    spec : EncoderSpec
        What it expects and gives.
    fingerprint : str
        Hash of all that decides a vector besides its patch: weights, transform, pooling.
    trained_on : str
        What it is, in words: what it may be trusted with.
    origin : dict of str to str
        Where its weights are from: ``title``, ``weights_file``, ``weights_sha256``,
        ``weights_digest``, ``licence``, as far as there are any.
    """

    module: nn.Module
    spec: EncoderSpec
    fingerprint: str
    trained_on: str
    origin: dict[str, str] = field(default_factory=dict)
