"""How vectors were made -> plain values that every file of features carries, and whether two agree.

Knows no file: reading and writing passports is the business of :mod:`wsi_pipeline.store.features`
and of the exports.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError

KEY = "wsi_pipeline_passport"
"""Name under which files carry the passport, as JSON text."""

VERSION = 1

MPP_TOLERANCE = 0.01
"""Relative difference of the resolutions that tiles really have, from rounding to whole pixels."""

DECISIVE = {
    "identity": "weights, transform or pooling",
    "encoder": "encoder",
    "weights_digest": "weights",
    "transform": "transform",
    "pooling": "pooling",
    "features": "length of a vector",
    "mpp": "resolution asked for, um/px",
    "stain": "stain normalisation",
}
"""What two files must have in common to be mixed, and its name in words."""

ROUNDING = {"precision": "arithmetic"}
"""What may differ: vectors then do by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passport:
    """How the vectors of a slide were made.

    Attributes
    ----------
    encoder : str
        Name of the encoder.
    identity : str
        Hash of all that decides a vector besides its patch and the arithmetic.
    weights : dict
        ``file``, ``sha256`` (of the file) and ``digest`` (of the tensors, whatever the file).
    transform : dict
        ``tile_px``, ``resize_px``, ``input_px``, ``interpolation``, ``mean``, ``std``.
    pooling : str
        How tokens became one vector.
    features : int
        Length of a vector.
    precision : str
        Arithmetic it was computed with.
    mpp, mpp_read : float
        Resolution the encoder asks for, and the one the tiles really have, um/px.
    stain : dict
        ``normalise`` (``none`` or ``macenko``), and then the slide's matrix and the target's.
    slide : dict
        ``id``, ``fingerprint``, ``mpp``, ``mpp_source``, ``reader``.
    options : str
        Hash of the options that chose the tiles.
    software : dict
        Versions of the packages that decide the vectors.
    device : str
        Kind of device.
    content : str
        Digest of the vectors, their places and all above: what a file is checked against. Empty for
        files that were written before there were any.
    """

    encoder: str
    identity: str
    weights: dict[str, str]
    transform: dict[str, Any]
    pooling: str
    features: int
    precision: str
    mpp: float
    mpp_read: float
    stain: dict[str, Any]
    slide: dict[str, Any]
    options: str
    software: dict[str, str] = field(default_factory=dict)
    device: str = ""
    content: str = field(default="", compare=False)

    def digest_of(self, features: NDArray[np.float32], xy: NDArray[np.int64] | None) -> str:
        """Digest vectors (N, F), their places (N, 2) and what the passport says of them."""
        said = {name: value for name, value in asdict(self).items() if name != "content"}
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for values, dtype in ((features, "<f4"), (xy, "<i8")):
            if values is not None:
                digest.update(f"{dtype} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values, dtype=dtype).data)
        return digest.hexdigest()

    def to_json(self) -> str:
        """Return it as JSON text, with the version of its schema first."""
        return json.dumps({"passport": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        FeaturesError
            If the text is no passport, or one of another version.
        """
        try:
            values = json.loads(text)
            if values.pop("passport") != VERSION:
                raise FeaturesError("its passport is of another version; compute features anew")
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FeaturesError(f"its passport cannot be read: {error}") from error

    def decisive(self) -> dict[str, Any]:
        """Return what two files must have in common to be mixed, by name."""
        values = asdict(self) | {"weights_digest": self.weights.get("digest", "")}
        values["stain"] = {
            key: value for key, value in self.stain.items() if key in ("normalise", "target")
        }
        return {name: values[name] for name in DECISIVE}

    def made_by(self) -> dict[str, Any]:
        """Return what decides the vectors of this slide: a file with the same need not be made."""
        return {
            **self.decisive(),
            "precision": self.precision,
            "fingerprint": self.slide.get("fingerprint"),
            "options": self.options,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What some files have in another way than most.

    Attributes
    ----------
    what : str
        In words.
    usual : str
        What most have.
    odd : dict of str to str
        What the others have, by file.
    forbids : bool
        Whether they may therefore not be mixed.
    """

    what: str
    usual: str
    odd: dict[str, str]
    forbids: bool

    def __str__(self) -> str:
        shown = ", ".join(f"{name}: {value}" for name, value in list(self.odd.items())[:5])
        more = f" and {len(self.odd) - 5} more" if len(self.odd) > 5 else ""
        return f"{self.what}: most have {self.usual}, but {shown}{more}"


def compare_passports(passports: Mapping[str, Passport]) -> list[Difference]:
    """Tell in what files of features differ, as far as it matters to mixing them.

    Parameters
    ----------
    passports : mapping of str to Passport
        By file.

    Returns
    -------
    list of Difference
        Those that forbid mixing first; none if all agree. That slides differ is no difference.
    """
    found = [
        difference
        for name, words in DECISIVE.items()
        if (
            difference := _difference(
                words, {file: p.decisive()[name] for file, p in passports.items()}, forbids=True
            )
        )
    ]
    if len(found) > 1:
        # the identity says that something differs; the others say what
        found = [difference for difference in found if difference.what != DECISIVE["identity"]]
    rounding = _difference(
        ROUNDING["precision"], {file: p.precision for file, p in passports.items()}, forbids=False
    )
    resolutions = _resolutions(passports)
    return [*found, *(d for d in (rounding, resolutions) if d is not None)]


def _difference(what: str, values: Mapping[str, Any], *, forbids: bool) -> Difference | None:
    texts = {file: _text(value) for file, value in values.items()}
    if len(set(texts.values())) < 2:
        return None
    usual = Counter(texts.values()).most_common(1)[0][0]
    odd = {file: text for file, text in texts.items() if text != usual}
    return Difference(what=what, usual=usual, odd=odd, forbids=forbids)


def _resolutions(passports: Mapping[str, Passport]) -> Difference | None:
    """Tell of tiles whose resolution is not quite the one asked for: slides of other scanners."""
    off = {
        file: f"{passport.mpp_read:.4g} um/px"
        for file, passport in passports.items()
        if abs(passport.mpp_read / passport.mpp - 1) > MPP_TOLERANCE
    }
    if not off or len(off) == len(passports):
        return None
    return Difference(
        what="resolution of the tiles", usual="the one asked for", odd=off, forbids=False
    )


def _text(value: Any) -> str:  # noqa: ANN401 -- any plain value
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
