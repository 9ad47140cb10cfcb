"""Tensors as a checkpoint names them -> the same tensors as the encoder's module names them.

DINOv2 encoders are published by transformers, whose names differ and change between its versions.
Their tensors load into timm's networks, which compute the same; so that transformers is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from wsi_models.encoders.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor

    from wsi_models.encoders.card import Layout

_DINOV2_NAMES = {
    r"embeddings\.cls_token": "cls_token",
    r"embeddings\.position_embeddings": "pos_embed",
    r"embeddings\.register_tokens": "reg_token",
    r"embeddings\.patch_embeddings\.projection\.(weight|bias)": r"patch_embed.proj.\1",
    r"encoder\.layer\.(\d+)\.norm([12])\.(weight|bias)": r"blocks.\1.norm\2.\3",
    r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)": (
        r"blocks.\1.attn.\2.\3"
    ),
    r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)": r"blocks.\1.attn.proj.\2",
    r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1": r"blocks.\1.ls\2.gamma",
    r"encoder\.layer\.(\d+)\.mlp\.(fc[12])\.(weight|bias)": r"blocks.\1.mlp.\2.\3",
    r"encoder\.layer\.(\d+)\.mlp\.weights_in\.(weight|bias)": r"blocks.\1.mlp.fc1.\2",
    r"encoder\.layer\.(\d+)\.mlp\.weights_out\.(weight|bias)": r"blocks.\1.mlp.fc2.\2",
    r"layernorm\.(weight|bias)": r"norm.\1",
}
"""Names in a checkpoint of transformers' ``Dinov2Model``, and timm's for the same."""

_UNUSED = "embeddings.mask_token"
_PARTS = ("query", "key", "value")


def to_module(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Rename tensors as the module of an encoder has them, whose network is a part of it.

    Parameters
    ----------
    state : mapping of str to Tensor
        Tensors of a checkpoint.
    layout : {"own", "network", "dinov2"}
        Whose names they have.

    Returns
    -------
    dict of str to Tensor
        The tensors. Of DINOv2, query, key and value become one; and where there are registers, as
        which timm gives positions to patches alone, that of the class token is added to it.

    Raises
    ------
    EncoderError
        If a name is none of the layout's.
    """
    if layout == "own":
        return dict(state)
    timms = state if layout == "network" else _from_dinov2(state)
    return {f"network.{name}": tensor for name, tensor in timms.items()}


def _from_dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {_rename(name): w for name, w in state.items() if name != _UNUSED}
    fused = {name: w for name, w in renamed.items() if not _part_of(name)}
    for name in renamed:
        if _part_of(name) == "query":
            parts = [renamed.get(name.replace("query", part)) for part in _PARTS]
            if any(part is None for part in parts):
                raise EncoderError(f"the weights have {name} without key or value; fetch them anew")
            fused[name.replace("query", "qkv")] = torch.cat([p for p in parts if p is not None])
    if "reg_token" in fused and "pos_embed" in fused and "cls_token" in fused:
        position = fused["pos_embed"]
        fused["cls_token"] = fused["cls_token"] + position[:, :1]
        fused["pos_embed"] = position[:, 1:]
    return fused


def _rename(name: str) -> str:
    for pattern, timms in _DINOV2_NAMES.items():
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(timms)
    raise EncoderError(
        f"the weights hold {name!r}, which no DINOv2 network of transformers has; give the file "
        "that the card names"
    )


def _part_of(name: str) -> str | None:
    return next((part for part in _PARTS if f".attn.{part}." in name), None)
