"""What a model expects and gives: its description, probabilities of patches, a heatmap."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.types.stains import STAIN_CONVENTION

PatchInput = Literal["he", "rgb"]
"""What a model sees of a patch: its two stains, or its colours."""

Interpolation = Literal["bilinear", "bicubic"]
"""How patches are resized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSpec:
    """What patches a network expects.

    Attributes
    ----------
    name : str
        Names the network, and the folder of what it gives.
    mpp : float
        Resolution of the patches it was trained on, um/px.
    patch_px : int
        Side of the patches it is given, px; larger ones are cropped to their centre.
    mean, std : tuple of float
        Normalisation of each channel after scaling to [0, 1].
    input : {"he", "rgb"}
        Whether it takes the two stains of a patch, (B, 2, P, P), or its colours, (B, 3, P, P).
    stain_convention : str
        Must equal :data:`STAIN_CONVENTION` of the store.
    gives_distance : bool
        Whether it gives one output more than classes: how far a patch lies from those that it was
        trained on, 1 where 99 % of these lie nearer.
    """

    name: str
    mpp: float
    patch_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input: PatchInput = "he"
    stain_convention: str = STAIN_CONVENTION
    gives_distance: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What predictions were made of.

    Attributes
    ----------
    slide_id : str
        Name of the slide.
    mpp : float
        Resolution at level 0, um/px: the unit of places.
    model : str
        Name of the model.
    model_fingerprint, slide_fingerprint, config_hash : str
        Hashes of its weights, of the slide file and of what decided the patches.
    """

    slide_id: str
    mpp: float
    model: str
    model_fingerprint: str
    slide_fingerprint: str
    config_hash: str

    @property
    def run_id(self) -> str:
        """Name of what decides the predictions: slide, patches and weights; 16 hex digits.

        Equal work has equal names, whenever and wherever it is done.
        """
        parts = (self.slide_fingerprint, self.config_hash, self.model_fingerprint)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, the name of the run among them."""
        return {**asdict(self), "run_id": self.run_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(PatchSpec):
    """What a trained model expects and gives, as the pipeline needs to know it.

    Attributes
    ----------
    class_names : tuple of str
        One per output, in order.
    class_colors : tuple of str
        ``#rrggbb`` per class.
    """

    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec(PatchSpec):
    """What an encoder expects and gives: patches in, features out, no classes.

    Attributes
    ----------
    features : int
        Length of the vector that it gives of a patch.
    resize_px : int or None
        Patches are resized to this side first, against aliasing and to whole counts; not at all
        if None.
    input_px : int or None
        Then their centre of this side is cut out; the whole if None.
    interpolation : {"bilinear", "bicubic"}
        How they are resized.
    pooling : str
        How its tokens became one vector, in words.
    precision : str
        Arithmetic it was published with, which GPUs use; empty for that of any other network.
    """

    features: int
    resize_px: int | None = None
    input_px: int | None = None
    interpolation: Interpolation = "bilinear"
    pooling: str = ""
    precision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Class probabilities of the patches of one slide.

    Attributes
    ----------
    prob : ndarray of shape (N, K), float32
        Rows sum to 1.
    xy : ndarray of shape (N, 2), int64
        Top-left corners, level-0 px.
    rc : ndarray of shape (N, 2), int32
        Lattice indices.
    shape : tuple of int
        Rows and columns of the lattice.
    extent, pitch : float
        Side of a tile and distance between tiles, level-0 px.
    class_names, class_colors : tuple of str
        One per column of ``prob``.
    origin : Origin or None
        What they were made of, where it is known.
    piece : ndarray of shape (N,), int32, or None
        Number of the piece of tissue that each patch belongs to, from 1.
    cores : tuple of str
        Name of each piece, in order of their numbers, on a tissue microarray; empty for a piece
        that is no core. No names at all on other slides.
    distance : ndarray of shape (N,), float32, or None
        How far each patch lies from those that the model was trained on: 99 % of these lie within
        1. None where the model does not know.
    doubts : tuple of str
        Why the classes are not to be trusted on this slide, in sentences for people.
    """

    prob: NDArray[np.float32]
    xy: NDArray[np.int64]
    rc: NDArray[np.int32]
    shape: tuple[int, int]
    extent: float
    pitch: float
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
    origin: Origin | None = None
    piece: NDArray[np.int32] | None = None
    cores: tuple[str, ...] = ()
    distance: NDArray[np.float32] | None = None
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n, k = self.prob.shape
        if k != len(self.class_names) or k != len(self.class_colors):
            raise ValueError(f"prob has {k} columns for {len(self.class_names)} classes")
        if self.xy.shape != (n, 2) or self.rc.shape != (n, 2):
            raise ValueError(f"xy {self.xy.shape} and rc {self.rc.shape} do not match {n} patches")
        if self.piece is not None and self.piece.shape != (n,):
            raise ValueError(f"piece {self.piece.shape} does not match {n} patches")

    def __len__(self) -> int:
        return len(self.prob)

    @property
    def core(self) -> list[str | None] | None:
        """Name of the core that each patch lies in; None where the slide is no microarray."""
        if not self.cores or self.piece is None:
            return None
        names = [name or None for name in self.cores]
        return [names[number - 1] for number in self.piece.tolist()]

    @property
    def unfamiliar_share(self) -> float | None:
        """Share of the patches that lie beyond 99 % of those the model was trained on."""
        if self.distance is None or not len(self):
            return None
        return float((self.distance > 1).mean())

    @property
    def label(self) -> NDArray[np.int64]:
        """Index of the most probable class, shape (N,)."""
        return np.asarray(self.prob.argmax(axis=1), dtype=np.int64)

    @property
    def entropy(self) -> NDArray[np.float32]:
        """Shannon entropy of each row in nats, shape (N,)."""
        p = self.prob.astype(np.float64)
        logs = np.log(p, out=np.zeros_like(p), where=p > 0)
        return np.asarray(-(p * logs).sum(axis=1), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap:
    """Class probabilities painted on the slide.

    Attributes
    ----------
    values : ndarray of shape (rows, cols, K), float32
        Mean probability of the tiles covering each cell; NaN where there is none.
    cell_px : float
        Side of a cell, level-0 px; the top-left cell starts at (0, 0).
    class_names, class_colors : tuple of str
        One per class.
    """

    values: NDArray[np.float32]
    cell_px: float
    class_names: tuple[str, ...]
    class_colors: tuple[str, ...]
