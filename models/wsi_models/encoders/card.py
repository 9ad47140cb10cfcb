"""What is published of an encoder, as one frozen record: a row of ``cards.toml``.

Data alone: nothing is built, read or fetched here.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Interpolation = Literal["bilinear", "bicubic"]
Pooling = Literal["class", "mean", "class+mean", "own"]
Precision = Literal["float32", "float16", "bfloat16"]
Layout = Literal["own", "network", "dinov2"]
Argument = bool | int | float | str

Pixels = Annotated[int, Field(ge=1)]
Rgb = tuple[float, float, float]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Transform(_Part):
    """What is done to a tile before the network sees it."""

    resize_px: Pixels | None = Field(
        None, description="The tile is resized to this side first, px; not at all if not given."
    )
    input_px: Pixels = Field(description="Then its centre of this side is cut out, px.")
    interpolation: Interpolation = Field(
        "bilinear", description="How it is resized, always against aliasing and to whole counts."
    )
    mean: Rgb = Field(description="Subtracted from RGB in [0, 1].")
    std: Rgb = Field(description="Then divided by.")


class WeightsSource(_Part):
    """Where the published weights are, and how to know them."""

    hub: str = Field("", description="Repository on the hub, as owner/name.")
    package: str = Field("", description="Or the installed package that holds them.")
    revision: str = Field("main", description="Its commit.")
    file: str = Field(min_length=1, description="File in it.")
    sha256: Digest | None = Field(None, description="Checksum of that file, where it is known.")
    layout: Layout = Field(
        "network",
        description="Names of its tensors: those of the library's network, those of transformers' "
        "DINOv2, or those of the module as it is built.",
    )
    left_out: tuple[str, ...] = Field(
        (), description="Beginnings of the names of tensors that the encoder does without."
    )

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if bool(self.hub) == bool(self.package):
            raise ValueError("weights are on the hub or in a package; name one of the two")
        return self


class EncoderCard(_Part):
    """What is published of an encoder.

    ``pooling`` says how the network's tokens become one vector: the class token, the mean of the
    patch tokens (registers left out), both one after the other; or, as the network itself does it.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="What it is called here.")
    title: str = Field(min_length=1, description="What its authors call it.")
    library: Literal["timm", "efficientnet-lite", "own"] = Field(
        "own", description="What builds the network."
    )
    architecture: str = Field("", description="Name of the network in that library.")
    arguments: dict[str, Argument] = Field({}, description="What the library is told besides.")
    weights: WeightsSource | None = Field(None, description="None where it has no weights.")
    mpp: float = Field(gt=0, description="Resolution of its tiles, um/px.")
    tile_px: Pixels = Field(description="Side of a tile, px.")
    transform: Transform
    pooling: Pooling = "class"
    features: int = Field(ge=1, description="Length of a vector.")
    precision: Precision = Field("float32", description="Arithmetic it was published with.")
    parameters: int = Field(0, ge=0, description="Number of parameters.")
    licence: str = Field(min_length=1, description="Licence of its weights.")
    commercial: bool = Field(False, description="Whether that allows commercial use.")
    gated: bool = Field(False, description="Whether its terms must be accepted on the hub first.")
    paper: str = Field("", description="Where it is described.")
    sources: dict[str, str] = Field({}, description="Where each fact is from.")
    note: str = Field("", description="What could not be verified, and what to know.")

    @model_validator(mode="after")
    def _transform_fits(self) -> Self:
        before = self.transform.resize_px or self.tile_px
        if self.transform.input_px > before:
            raise ValueError(
                f"input_px {self.transform.input_px} cannot be cut out of {before} px; resize the "
                "tile, or take a larger one"
            )
        return self

    def pooled(self, pooling: Pooling) -> EncoderCard:
        """Return the card of the same encoder with its tokens pooled in another way.

        Raises
        ------
        ValueError
            If the network pools on its own.
        """
        if pooling == self.pooling:
            return self
        if "own" in (pooling, self.pooling):
            raise ValueError(
                f"encoder {self.name} pools as its network does it and cannot be pooled by "
                f"{pooling!r}"
            )
        width = self.features // (2 if self.pooling == "class+mean" else 1)
        features = width * (2 if pooling == "class+mean" else 1)
        return self.model_copy(update={"pooling": pooling, "features": features})

    def cut_from(self, tile_px: int) -> EncoderCard:
        """Return the card of the same encoder for tiles of another size, resized to its input.

        This is what programs do that cut 256 px and resize to 224: the encoder then sees tissue at
        another resolution than it was published for.

        Raises
        ------
        ValueError
            If ``tile_px`` is below 1.
        """
        if tile_px < 1:
            raise ValueError(f"a tile has at least 1 px, got {tile_px}")
        if tile_px == self.tile_px:
            return self
        side = self.transform.resize_px or self.transform.input_px
        transform = self.transform.model_copy(update={"resize_px": side})
        return self.model_copy(update={"tile_px": tile_px, "transform": transform})

    def recipe(self) -> dict[str, Any]:
        """Return, as plain values, what decides a vector besides the tile and the weights."""
        recipe = self.model_dump(
            mode="json", include={"name", "mpp", "tile_px", "transform", "pooling", "features"}
        )
        if self.transform.resize_px in (None, self.tile_px):
            # nothing is interpolated, so that it does not matter how
            recipe["transform"] |= {"resize_px": None, "interpolation": None}
        return recipe

    def identity(self, weights_digest: str) -> str:
        """Identify what makes the vectors: two files of features may be mixed if this is equal.

        Parameters
        ----------
        weights_digest : str
            Digest of the tensors of the network.

        Returns
        -------
        str
            SHA-256 of the recipe but for the name, and the digest.
        """
        recipe = {key: value for key, value in self.recipe().items() if key != "name"}
        text = json.dumps({**recipe, "weights": weights_digest}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
