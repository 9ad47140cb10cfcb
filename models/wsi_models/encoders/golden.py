"""Golden vectors: what encoders give for one tile that anyone can make, kept to be compared with.

They tell whether an encoder, its weights and its transform are here what they were elsewhere. One
file holds a table per encoder; ``golden.toml`` those that were made with this package.
"""

from __future__ import annotations

import json
import math
import tomllib
from importlib import resources
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_models.encoders.errors import EncoderError

KEPT = 16
"""Values of a vector that are kept, besides its norm: enough to tell vectors apart."""

TOLERANCE = 1e-3
"""Allowed difference in parts of the root mean square. Processors and releases of torch differ by
1e-5; a transform by another library, or a resolution off by one pixel, by 1e-2."""


def golden_tile(side_px: int) -> NDArray[np.uint8]:
    """Make the tile: integer arithmetic alone, so that it is the same everywhere.

    Parameters
    ----------
    side_px : int
        Its side.

    Returns
    -------
    ndarray of shape (side_px, side_px, 3), uint8
        Waves, blocks and edges of every colour.
    """
    y, x = np.indices((side_px, side_px), dtype=np.int64)
    waves = (x * x + 3 * y * y) // 97
    blocks = ((x // 16) ^ (y // 24)) * 37
    channels = [(waves * (c + 2) + blocks + (5 - c) * x + c * y) % 256 for c in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


class GoldenVector(BaseModel):
    """What an encoder gives for :func:`golden_tile`, on a processor in float32.

    ``identity`` is what a passport says: weights, transform, pooling and tiles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    identity: str = Field(min_length=1)
    features: Annotated[int, Field(ge=1)]
    norm: Annotated[float, Field(ge=0)]
    first: Annotated[tuple[float, ...], Field(min_length=1, max_length=KEPT)]

    @classmethod
    def of(cls, vector: NDArray[np.float32], identity: str) -> Self:
        """Keep a vector, shape (F,)."""
        wide = vector.astype(np.float64)
        return cls(
            identity=identity,
            features=len(wide),
            norm=float(f"{np.linalg.norm(wide):.7g}"),
            first=tuple(float(f"{value:.7g}") for value in wide[:KEPT]),
        )

    def difference(self, other: GoldenVector) -> float:
        """Return the largest difference, in parts of the root mean square; infinite by length."""
        if (self.features, len(self.first)) != (other.features, len(other.first)):
            return math.inf
        scale = max(self.norm, other.norm) / math.sqrt(self.features)
        values = [abs(a - b) for a, b in zip(self.first, other.first, strict=True)]
        values.append(abs(self.norm - other.norm) / math.sqrt(self.features))
        return max(values) / scale if scale else 0.0


def kept_vectors() -> dict[str, GoldenVector]:
    """Read the golden vectors that were made with this package, by name of the encoder."""
    text = (resources.files("wsi_models.encoders") / "golden.toml").read_text(encoding="utf-8")
    return read_golden(text, "golden.toml")


def read_golden(text: str, origin: str) -> dict[str, GoldenVector]:
    """Read golden vectors.

    Parameters
    ----------
    text : str
        TOML, one table per encoder.
    origin : str
        What to call it in messages.

    Returns
    -------
    dict of str to GoldenVector
        By name of the encoder.

    Raises
    ------
    EncoderError
        If it is not such a file.
    """
    try:
        rows = tomllib.loads(text)
        return {name: GoldenVector.model_validate(row) for name, row in rows.items()}
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise EncoderError(
            f"{origin} holds no golden vectors: {error}; make one with 'wsi-pipeline features "
            "check NAME --out FILE'"
        ) from error


def write_golden(vectors: dict[str, GoldenVector]) -> str:
    """Write golden vectors as :func:`read_golden` reads them."""
    return "\n".join(
        "\n".join(
            [
                f"[{json.dumps(name)}]",
                f"identity = {json.dumps(vector.identity)}",
                f"features = {vector.features}",
                f"norm = {vector.norm!r}",
                f"first = {list(vector.first)!r}",
                "",
            ]
        )
        for name, vector in sorted(vectors.items())
    )
