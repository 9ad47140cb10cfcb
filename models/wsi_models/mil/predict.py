"""A trained model and the features of a slide -> its class, and what the decision rests on.

Reads and draws nothing; attention is put on the slide by others.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_files.tables import text_cell
from wsi_files.whole import replace_atomically
from wsi_models.mil.train import decide
from wsi_models.model_folder import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
    risk : float or None
        Logarithm of the hazard, of a model of survival.
    attention : ndarray of shape (N, A), float32
        Share of each patch; columns sum to 1.
    attention_names : tuple of str
        One per column: ``attention``, or ``attention_<class>`` where classes have their own.
    """

    slide_id: str
    prob: NDArray[np.float32]
    label: int
    risk: float | None
    attention: NDArray[np.float32]
    attention_names: tuple[str, ...]

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the row of a table: slide, class and probabilities; or risk and group."""
        if self.risk is not None:
            risk = round(self.risk, 6)
            return {"slide_id": self.slide_id, "risk": risk, "group": class_names[self.label]}
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
        logits = scores.logits.cpu()
        prob = head.probabilities(logits)
        attention = scores.attention.cpu().numpy()
    own = attention.shape[1] > 1
    return Judgement(
        slide_id=slide_id,
        prob=prob.numpy(),
        label=int(decide(prob.unsqueeze(0), model.config.threshold)),
        risk=float(logits[0]) if model.config.target == "survival" else None,
        attention=attention,
        attention_names=tuple(f"attention_{name}" for name in names) if own else ("attention",),
    )


def judge_slides(
    model: SlideModel, name: str, slides: Sequence[tuple[NDArray[np.float32], str | None]]
) -> tuple[Judgement, list[NDArray[np.float32]]]:
    """Judge several slides together, as one bag.

    Parameters
    ----------
    model : SlideModel
        The model, on any device.
    name : str
        What the bag is called, mostly a patient.
    slides : sequence of tuple
        Features of each slide, shape (N, F), and the fingerprint of their encoder.

    Returns
    -------
    Judgement
        Of all of them.
    list of ndarray of shape (N, A)
        The attention of each slide's patches; over all slides, columns sum to 1.

    Raises
    ------
    BundleError
        As :func:`judge_slide`, or if the slides come from several encoders.
    """
    encoders = {encoder for _, encoder in slides if encoder is not None}
    if len(encoders) > 1:
        raise BundleError(
            f"the features of {name} come from {len(encoders)} encoders; compute them with one"
        )
    together = np.concatenate([features for features, _ in slides])
    judgement = judge_slide(model, name, together, next(iter(encoders), None))
    ends = np.cumsum([len(features) for features, _ in slides])[:-1]
    return judgement, np.split(judgement.attention, ends)


def write_judgements(
    path: Path, judgements: Sequence[Judgement], class_names: Sequence[str]
) -> Path:
    """Write one row per slide as CSV; return the path."""
    rows = [judgement.to_dict(class_names) for judgement in judgements]
    columns = list(rows[0]) if rows else ["slide_id"]
    with replace_atomically(path) as partial, partial.open("w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, columns)
        table.writeheader()
        for row in rows:
            table.writerow({k: text_cell(v) if isinstance(v, str) else v for k, v in row.items()})
    return path
