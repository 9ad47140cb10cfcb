"""A segmentation network in an ONNX file -> a tissue segmenter. Sole home of ONNX Runtime here.

The file holds a graph and numbers, no code of its own; a TOML file beside it says what it was
trained for.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsi_pipeline.config import read_toml
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.types import Area

CORE_PX = 512
"""Side of the blocks whose areas are used; a network is given a margin around each."""

MARGIN_PX = 64
"""How far a network looks around a block, px of the overview."""

AreaName = Literal["glass", "tissue", "pen", "black", "edge", "fold", "blur", "bubble"]
Rgb = tuple[float, float, float]


class OnnxSegmenterCard(BaseModel):
    """What the TOML file beside a network says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mpp: float = Field(gt=0, description="Resolution it was trained at, um/px.")
    mean: Rgb = Field((0.0, 0.0, 0.0), description="Subtracted from RGB in [0, 1].")
    std: Rgb = Field((1.0, 1.0, 1.0), description="Then divided by.")
    areas: tuple[AreaName, ...] = Field(
        min_length=2, description="What each of its outputs shows, in order."
    )


class OnnxSegmenter:
    """Lets a network name the area of every pixel.

    Parameters
    ----------
    file : Path
        ``.onnx``; one input (B, 3, h, w) of RGB, one output (B, K, h, w) of scores, or (B, 1, h, w)
        of logits of the second of two areas. A TOML file of the same name lies beside it.

    Raises
    ------
    ConfigError
        If a file is missing or malformed, or ONNX Runtime is not installed.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._card, self._content = _read(file)

    @property
    def version(self) -> str:
        """Hash of the network and of what is said of it."""
        text = self._card.model_dump_json().encode()
        return hashlib.sha256(self._content + text).hexdigest()[:16]

    @property
    def mpp(self) -> float:
        """Resolution it was trained at, um/px."""
        return self._card.mpp

    def segment(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
        """Name what each pixel of ``rgb``, shape (h, w, 3), shows."""
        codes = np.array([Area[name.upper()] for name in self._card.areas], dtype=np.uint8)
        height, width, _ = rgb.shape
        block = self._network.block_px
        core = block - 2 * MARGIN_PX
        down, right = (-(-length // core) * core - length for length in (height, width))
        margins = ((MARGIN_PX, MARGIN_PX + down), (MARGIN_PX, MARGIN_PX + right), (0, 0))
        # glass around a slide is glass; tissue that its border cuts goes on unchanged
        padded = np.pad(rgb, margins, mode="edge")
        found = np.empty((height + down, width + right), dtype=np.uint8)
        for y, x in product(range(0, height, core), range(0, width, core)):
            chosen = self._choose(padded[y : y + block, x : x + block])
            inner = slice(MARGIN_PX, MARGIN_PX + core)
            found[y : y + core, x : x + core] = codes[chosen[inner, inner]]
        return found[:height, :width]

    def _choose(self, rgb: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Return the index of the strongest output of each pixel."""
        mean, std = (np.array(v, dtype=np.float32) for v in (self._card.mean, self._card.std))
        pixels = ((rgb / np.float32(255) - mean) / std).transpose(2, 0, 1)[None]
        (scores,) = self._network.session.run(None, {self._network.name: pixels})
        count = len(self._card.areas)
        if scores.shape == (1, 1, *rgb.shape[:2]) and count == 2:
            return np.asarray(scores[0, 0] > 0, dtype=np.intp)
        if scores.shape != (1, count, *rgb.shape[:2]):
            raise ConfigError(
                f"{self._file} gave an output of shape {scores.shape} for a picture of "
                f"{rgb.shape[:2]} px and {count} areas, expected {(1, count, *rgb.shape[:2])}; "
                "correct the list 'areas' in the TOML file beside it"
            )
        return np.asarray(scores[0].argmax(axis=0))

    @cached_property
    def _network(self) -> _Network:
        return _open(self._file, self._content)


class _Network(NamedTuple):
    session: Any
    name: str
    block_px: int


def _read(file: Path) -> tuple[OnnxSegmenterCard, bytes]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}; give an .onnx file") from error
    beside = file.with_suffix(".toml")
    try:
        return OnnxSegmenterCard.model_validate(read_toml(beside)), content
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise ConfigError(f"{beside} does not say what {file.name} is: {problems}") from error


def _open(file: Path, content: bytes) -> _Network:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"{file} needs ONNX Runtime; run: pip install 'wsi-pipeline[onnx]'"
        ) from error
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # it raises its own kinds, which have no common base
        raise ConfigError(f"{file} is no network that ONNX Runtime opens: {error}") from error
    (given,) = session.get_inputs()
    fixed = given.shape[-1] if isinstance(given.shape[-1], int) else 0
    if fixed and fixed <= 2 * MARGIN_PX:
        raise ConfigError(
            f"{file} takes pictures of {fixed} px, too few for blocks with a margin of "
            f"{MARGIN_PX} px; export it for any size"
        )
    return _Network(session, given.name, fixed or CORE_PX + 2 * MARGIN_PX)
