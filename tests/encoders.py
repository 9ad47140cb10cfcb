"""Encoders of the true architectures at a tiny size, and checkpoints in their public layouts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from wsi_models.encoders import EncoderCard, PatchEncoder
from wsi_models.encoders.timm_network import TimmEncoder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

WIDTH = 48
TINY = {"embed_dim": WIDTH, "depth": 2, "num_heads": 2}


def shrunk(encoder: PatchEncoder) -> PatchEncoder:
    """Make the transformer of an encoder small; another network stays as it is."""
    card = encoder.card
    if not isinstance(encoder, TimmEncoder) or not card.architecture.startswith("vit"):
        return encoder
    width = 2 * WIDTH if card.pooling == "class+mean" else WIDTH
    assert card.weights is not None
    tiny = card.model_copy(
        update={
            "arguments": {**card.arguments, **TINY},
            "features": width,
            "weights": card.weights.model_copy(update={"sha256": None}),
        }
    )
    return replace(encoder, card=tiny)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Give a network values that all matter: as built, layer scales would hide its blocks."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.2, generator=noise)
        for name, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.normal_(0, 0.2, generator=noise)
                if name.endswith("running_var"):
                    buffer.abs_().add_(0.5)


def write_checkpoint(encoder: PatchEncoder, folder: Path, seed: int = 0) -> Path:
    """Write random weights of an encoder as its authors publish them; not for DINOv2's names."""
    card = encoder.card
    assert card.weights is not None
    assert card.weights.layout == "network"
    module = encoder.build()
    randomise(module, seed)
    state = {
        name.removeprefix("network."): tensor.contiguous()
        for name, tensor in module.state_dict().items()
    }
    state |= {f"{beginning}weight": torch.ones(2) for beginning in card.weights.left_out}
    path = folder / card.name / card.weights.file
    path.parent.mkdir(parents=True, exist_ok=True)
    save(state, path)
    return path


def save(state: dict[str, Tensor], path: Path) -> None:
    """Write tensors in the format that the name of the file says."""
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def card_of(name: str, **changes: object) -> EncoderCard:
    """A small card."""
    values: dict[str, object] = {
        "name": name,
        "title": "A trial",
        "mpp": 0.5,
        "tile_px": 32,
        "transform": {"input_px": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)},
        "features": 6,
        "pooling": "own",
        "licence": "none",
    }
    return EncoderCard.model_validate({**values, **changes})
