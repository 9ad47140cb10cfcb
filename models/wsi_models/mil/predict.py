"""A trained model and the features of a slide -> its class, and what the decision rests on.

Reads and draws nothing; attention is put on the slide by others.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from wsi_models.atomic import replace_atomically
from wsi_models.mil.train import decide
from wsi_models.model_folder import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from wsi_models.mil.bundle import SlideModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a model says of a slide.

    Attributes
    ----------
    slide_id : str
        Name of the slide.
    prob : ndarray of shape (C,), float32
        Probabilities of the classes.
    label : int
        The class decided for.
    attention : ndarray of shape (N, A), float32
        Share of each patch; columns sum to 1.
    attention_names : tuple of str
        One per column: ``attention``, or ``attention_<class>`` where classes have their own.
    """

    slide_id: str
    prob: NDArray[np.float32]
    label: int
    attention: NDArray[np.float32]
    attention_names: tuple[str, ...]

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the row of a table: slide, class and probabilities."""
        probabilities = {
            f"prob_{name}": round(float(value), 6)
            for name, value in zip(class_names, self.prob, strict=True)
        }
        return {"slide_id": self.slide_id, "predicted": class_names[self.label], **probabilities}


def judge_slide(
    model: SlideModel, slide_id: str, features: NDArray[np.float32], encoder: str | None
) -> Judgement:
    """Judge a slide.

    Parameters
    ----------
    model : SlideModel
        The model, on any device.
    slide_id : str
        Name of the slide.
    features : ndarray of shape (N, F), float32
        Its patches, at least one.
    encoder : str or None
        Fingerprint of the encoder that made them, where it is known.

    Returns
    -------
    Judgement
        Class, probabilities and attention.

    Raises
    ------
    BundleError
        If there is no patch, or the features are not those that the model takes.
    """
    if not len(features):
        raise BundleError(f"{slide_id} has no patches to judge; leave its file out")
    model.require(features.shape[1], encoder, slide_id)
    head, names = model.head, model.config.class_names
    with torch.inference_mode():
        scores = head.score(torch.from_numpy(features).to(head.mean.device))
        prob = head.probabilities(scores.logits).cpu()
        attention = scores.attention.cpu().numpy()
    own = attention.shape[1] > 1
    return Judgement(
        slide_id=slide_id,
        prob=prob.numpy(),
        label=int(decide(prob.unsqueeze(0), model.config.threshold)),
        attention=attention,
        attention_names=tuple(f"attention_{name}" for name in names) if own else ("attention",),
    )


def write_judgements(
    path: Path, judgements: Sequence[Judgement], class_names: Sequence[str]
) -> Path:
    """Write one row per slide as CSV; return the path."""
    columns = ["slide_id", "predicted", *(f"prob_{name}" for name in class_names)]
    with replace_atomically(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, columns)
        table.writeheader()
        table.writerows(judgement.to_dict(class_names) for judgement in judgements)
    return path
