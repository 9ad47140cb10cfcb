"""The description of a network -> the network: what a bundle keeps beside the weights.

A method builds what it trains from the same description, so that both always agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, overload

from pydantic import Field

from wsi_models.networks.class_m import ClassMNetwork
from wsi_models.networks.cluster_network import ClusterNetwork
from wsi_models.networks.rgb_network import EmbeddingNetwork, RgbNetwork
from wsi_models.parts.backbone import MAX_WIDTH, EncoderConfig, build_encoder, untrained
from wsi_models.parts.choices import Choices
from wsi_models.parts.shapes import without_values

if TYPE_CHECKING:
    from wsi_models.parts.patch_network import PatchNetwork

PatchInput = Literal["he", "rgb"]
"""What a network sees of a patch: its two stains, or its colours."""

JudgedBy = Literal["logits", "neighbours"]
"""What tells how good a network is: its own outputs, or its features' nearest neighbours."""


class NetworkChoices(Choices):
    """The sizes of a network, and what those that use it have to know.

    Attributes
    ----------
    input : {"he", "rgb"}
        What it sees of a patch.
    judged_by : {"logits", "neighbours"}
        Whether its outputs are the classes of labels, or its features are what it is for.
    """

    input: ClassVar[PatchInput] = "rgb"
    judged_by: ClassVar[JudgedBy] = "logits"


class StainPairConfig(NetworkChoices):
    """Two encoders of one shape, one per stain, and a linear layer on their average."""

    input: ClassVar[PatchInput] = "he"

    kind: Literal["stain-pair"] = Field("stain-pair", description="Which network.")
    encoder: EncoderConfig = Field(description="The encoder that each stain has one of.")


class RgbClassifierConfig(NetworkChoices):
    """An encoder of RGB patches and a linear layer."""

    kind: Literal["rgb"] = Field("rgb", description="Which network.")
    encoder: EncoderConfig = Field(description="The encoder of RGB patches.")


class RgbEmbeddingConfig(NetworkChoices):
    """An encoder of RGB patches, a linear layer to an embedding, and one to the classes."""

    kind: Literal["rgb-embedding"] = Field("rgb-embedding", description="Which network.")
    encoder: EncoderConfig = Field(description="The encoder of RGB patches.")
    embedding: int = Field(64, ge=1, le=MAX_WIDTH, description="Features of the embedding.")


class RgbClusterConfig(NetworkChoices):
    """An encoder of RGB patches, a projector, and a head whose outputs are clusters."""

    judged_by: ClassVar[JudgedBy] = "neighbours"

    kind: Literal["rgb-clusters"] = Field("rgb-clusters", description="Which network.")
    encoder: EncoderConfig = Field(description="The encoder of RGB patches.")
    projected: int = Field(ge=1, le=MAX_WIDTH, description="Length of a projection.")
    hidden: int = Field(ge=1, le=MAX_WIDTH, description="Width of the head.")


NetworkConfig = Annotated[
    StainPairConfig | RgbClassifierConfig | RgbEmbeddingConfig | RgbClusterConfig,
    Field(discriminator="kind"),
]
"""Which network."""


@overload
def build_network(config: StainPairConfig, class_count: int, patch_px: int) -> ClassMNetwork: ...
@overload
def build_network(config: RgbClassifierConfig, class_count: int, patch_px: int) -> RgbNetwork: ...
@overload
def build_network(config: RgbClusterConfig, class_count: int, patch_px: int) -> ClusterNetwork: ...
@overload
def build_network(
    config: RgbEmbeddingConfig, class_count: int, patch_px: int
) -> EmbeddingNetwork: ...
@overload
def build_network(config: NetworkConfig, class_count: int, patch_px: int) -> PatchNetwork: ...
def build_network(config: NetworkConfig, class_count: int, patch_px: int) -> PatchNetwork:
    """Build a network with its starting weights.

    Parameters
    ----------
    config : StainPairConfig, RgbClassifierConfig or RgbClusterConfig
        Which one, and what its encoders start from.
    class_count : int
        Number C of outputs.
    patch_px : int
        Side of the input, px.

    Returns
    -------
    PatchNetwork
        On the CPU, in training mode.

    Raises
    ------
    WeightsError
        If starting weights cannot be had.
    ValueError
        If there are fewer than two classes, or the encoder cannot be cut for the input.
    """
    match config:
        case StainPairConfig():
            pair = [build_encoder(config.encoder, 1, patch_px) for _ in range(2)]
            return ClassMNetwork(class_count, pair[0], pair[1])
        case RgbClassifierConfig():
            return RgbNetwork(build_encoder(config.encoder, 3, patch_px), class_count)
        case RgbEmbeddingConfig():
            encoder = build_encoder(config.encoder, 3, patch_px)
            return EmbeddingNetwork(encoder, config.embedding, class_count)
        case RgbClusterConfig():
            encoder = build_encoder(config.encoder, 3, patch_px)
            return ClusterNetwork(
                encoder, class_count, projected=config.projected, hidden=config.hidden
            )


def network_shapes(config: NetworkConfig, class_count: int, patch_px: int) -> PatchNetwork:
    """Build a network without values, which takes no memory and leaves the random state alone.

    Parameters and errors are those of :func:`build_network`; no starting weights are sought.
    """
    with without_values():
        return build_network(without_weights(config), class_count, patch_px)


def without_weights(config: NetworkConfig) -> NetworkConfig:
    """Return a description that names no starting weights, for networks that are given theirs."""
    return config.model_copy(update={"encoder": untrained(config.encoder)})
