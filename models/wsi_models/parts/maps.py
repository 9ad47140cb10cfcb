"""An encoder and patches -> the map of features whose average over places is the feature vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class MapsPatches(Protocol):
    """An encoder that gives its map itself."""

    def maps(self, patches: Tensor) -> Tensor:
        """Compute the map, shape (B, F, h, w), of patches of shape (B, channels, P, P)."""


def feature_map(encoder: nn.Module, patches: Tensor) -> Tensor:
    """Compute the last map of an encoder.

    Parameters
    ----------
    encoder : Module
        Made by :func:`wsi_models.parts.backbone.build_encoder`.
    patches : Tensor of shape (B, channels, P, P)
        As the encoder takes them.

    Returns
    -------
    Tensor of shape (B, F, h, w)
        Its mean over the last two axes is what the encoder gives.
    """
    if isinstance(encoder, MapsPatches):
        return encoder.maps(patches)
    seen: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    # residual networks average their last map in a module of that name
    with encoder.get_submodule("avgpool").register_forward_pre_hook(keep):
        encoder(patches)
    return seen[0]
