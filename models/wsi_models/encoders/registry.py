"""The encoders there are: rows of ``cards.toml``, a card file of one's own, and entry points.

Loading one builds its network and puts its weights in, all of them and nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from wsi_models.encoders.base import LoadedEncoder, PatchEncoder, digest_tensors
from wsi_models.encoders.card import EncoderCard, Pooling
from wsi_models.encoders.errors import EncoderError
from wsi_models.encoders.layouts import to_module
from wsi_models.encoders.lite_network import LiteEncoder
from wsi_models.encoders.onnx_network import OnnxEncoder
from wsi_models.encoders.timm_network import TimmEncoder
from wsi_models.encoders.weights import Weights, read_encoder_weights
from wsi_models.parts.shapes import without_values

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "wsi_pipeline.encoders"
"""Entry points of other packages that are encoders, or make one when called."""

ONNX = "onnx:"
"""What begins the name of an encoder that is a file."""

_LIBRARIES: Mapping[str, Callable[[EncoderCard], PatchEncoder]] = {
    "timm": TimmEncoder,
    "efficientnet-lite": LiteEncoder,
}


def available_encoders() -> dict[str, PatchEncoder]:
    """Find the encoders that are registered.

    Returns
    -------
    dict of str to PatchEncoder
        By name: the rows of ``cards.toml``, then those that other packages bring.

    Raises
    ------
    EncoderError
        If two have one name, or what a package brings is no encoder.
    """
    text = (resources.files("wsi_models.encoders") / "cards.toml").read_text(encoding="utf-8")
    found = read_cards(text, "cards.toml")
    for entry in entry_points(group=GROUP):
        encoder = _from_entry(entry)
        if encoder.card.name in found:
            raise EncoderError(
                f"there are two encoders {encoder.card.name!r}, one of them from {entry.value}; "
                "uninstall one, or give it another name"
            )
        found[encoder.card.name] = encoder
    return found


def find_encoder(name: str) -> PatchEncoder:
    """Find an encoder by its name, or by a card file of one's own.

    Parameters
    ----------
    name : str
        A name of :func:`available_encoders`; a TOML file with one row like those of
        ``cards.toml``; or ``onnx:FILE``, a network with such a TOML file beside it.

    Returns
    -------
    PatchEncoder
        The encoder, not yet built.

    Raises
    ------
    EncoderError
        If there is none of that name, or the card is not valid.
    """
    if name.startswith(ONNX):
        file = Path(name.removeprefix(ONNX))
        return OnnxEncoder(_only_card(file.with_suffix(".toml")), file)
    if name.endswith(".toml"):
        return _of_card(_only_card(Path(name)), name)
    encoders = available_encoders()
    if name not in encoders:
        raise EncoderError(
            f"there is no encoder {name!r}; there are: {', '.join(sorted(encoders))}. "
            "'wsi-pipeline encoders' says more of each; a TOML file with a card of your own will "
            "do as well"
        )
    return encoders[name]


def read_cards(text: str, origin: str) -> dict[str, PatchEncoder]:
    """Read encoders from a table of cards.

    Parameters
    ----------
    text : str
        TOML, one table per encoder under its name. A name that occurs twice is no TOML.
    origin : str
        What to call it in messages.

    Returns
    -------
    dict of str to PatchEncoder
        By name.

    Raises
    ------
    EncoderError
        If it is no TOML, or a card is not valid, naming its fields.
    """
    try:
        rows = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EncoderError(f"{origin} cannot be read as TOML: {error}") from error
    cards = (_parse(name, row, origin) for name, row in rows.items())
    return {card.name: _of_card(card, origin) for card in cards}


@dataclass(frozen=True, slots=True)
class _Recut:
    """An encoder of another package, with tiles of another size."""

    encoder: PatchEncoder
    card: EncoderCard

    def build(self) -> nn.Module:
        """Build its network."""
        return self.encoder.build()


def with_choices(
    encoder: PatchEncoder, *, pooling: Pooling | None = None, tile_px: int | None = None
) -> PatchEncoder:
    """Choose how an encoder pools, and from which tiles its input is made.

    Parameters
    ----------
    encoder : PatchEncoder
        The encoder.
    pooling : {"class", "mean", "class+mean"} or None
        As published if None.
    tile_px : int or None
        Side of the tiles, px, which are resized to its input; as published if None.

    Returns
    -------
    PatchEncoder
        The encoder, with another card where something else was chosen.

    Raises
    ------
    ValueError
        If it pools on its own, or a tile has no pixels.
    """
    card = encoder.card
    card = card if pooling is None else card.pooled(pooling)
    card = card if tile_px is None else card.cut_from(tile_px)
    if card is encoder.card:
        return encoder
    if card.library in _LIBRARIES:
        return _LIBRARIES[card.library](card)
    return _Recut(encoder, card)


def load_encoder(
    encoder: PatchEncoder,
    weights: Path | None = None,
    *,
    allow_download: bool = False,
    initial: bool = False,
) -> LoadedEncoder:
    """Build an encoder and put its weights in.

    Parameters
    ----------
    encoder : PatchEncoder
        Of :func:`find_encoder`, or one of your own.
    weights : Path or None
        File or folder with its weights; see :func:`~wsi_models.encoders.read_encoder_weights`.
    allow_download : bool
        Whether they may be fetched from the hub.
    initial : bool
        Leave the weights as they are built, for an encoder that has none.

    Returns
    -------
    LoadedEncoder
        Ready to encode.

    Raises
    ------
    EncoderError
        If the weights cannot be had, or are not just those of the network, all finite.
    """
    card = encoder.card
    if card.weights is None or initial:
        return _ready(card, encoder.build(), None)
    found = read_encoder_weights(card, weights, allow_download=allow_download)
    with without_values():
        module = encoder.build()
    _fill(module, card, found)
    return _ready(card, module, found)


def _ready(card: EncoderCard, module: nn.Module, weights: Weights | None) -> LoadedEncoder:
    digest = digest_tensors(module.state_dict())
    convert_conv2d_weight_memory_format(module, torch.channels_last)
    return LoadedEncoder(
        card=card,
        module=module.eval(),
        weights_file="" if weights is None else weights.path.name,
        weights_sha256="" if weights is None else weights.sha256,
        weights_digest=digest,
    )


def _fill(module: nn.Module, card: EncoderCard, weights: Weights) -> None:
    """Put tensors into a network that has none, after checking that they are its own."""
    assert card.weights is not None
    kept = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if not name.startswith(card.weights.left_out)
    }
    given = to_module(kept, card.weights.layout)
    expected = module.state_dict()
    # files older than torch 0.4.1 do not count batches, and nothing rests on that count
    for name in expected.keys() - given.keys():
        if name.endswith("num_batches_tracked"):
            given[name] = torch.zeros((), dtype=torch.int64)
    _require_same(expected, given, f"{weights.path} for encoder {card.name}")
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in given.items()}
    module.load_state_dict(typed, assign=True)
    _fill_buffers(module, card)


def _fill_buffers(module: nn.Module, card: EncoderCard) -> None:
    """Refuse a network with constants that no file holds: they have no value yet."""
    empty = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if empty:
        raise EncoderError(
            f"encoder {card.name} holds constants that its weights do not: {', '.join(empty[:3])}"
        )


def _require_same(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str) -> None:
    for what, names in (
        ("lacks", expected.keys() - given.keys()),
        ("has unknown", given.keys() - expected.keys()),
        (
            "reshapes",
            {n for n in expected.keys() & given.keys() if expected[n].shape != given[n].shape},
        ),
        ("has values that are no numbers in", {n for n, w in given.items() if not _finite(w)}),
    ):
        if names:
            listed = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise EncoderError(
                f"{origin} {what} {len(names)} tensors ({listed}); give the file that the card "
                "names ('wsi-pipeline encoders NAME')"
            )


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _parse(name: str, row: Any, origin: str) -> EncoderCard:  # noqa: ANN401 -- not yet checked
    values = row if isinstance(row, dict) else {}
    try:
        return EncoderCard.model_validate({**values, "name": name})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'card'}: {item['msg']}"
            for item in error.errors(include_url=False)
        )
        raise EncoderError(f"card {name!r} of {origin} is not valid: {problems}") from error


def _of_card(card: EncoderCard, origin: str) -> PatchEncoder:
    if card.library not in _LIBRARIES:
        raise EncoderError(
            f"card {card.name!r} of {origin} does not say what builds it; library must be one of: "
            f"{', '.join(_LIBRARIES)}"
        )
    return _LIBRARIES[card.library](card)


def _only_card(path: Path) -> EncoderCard:
    """Read the one card of a file."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise EncoderError(f"{path} cannot be read: {error}") from error
    if len(rows) != 1:
        raise EncoderError(
            f"{path} must hold one card, a table under the encoder's name; it has {len(rows)}"
        )
    ((name, row),) = rows.items()
    return _parse(name, row, str(path))


def _from_entry(entry: EntryPoint) -> PatchEncoder:
    refused = f"the entry point {entry.name!r} of group {GROUP} ({entry.value}) is no encoder"
    try:
        found = entry.load()
        encoder = found() if callable(found) else found
    except (ImportError, AttributeError, TypeError) as error:
        raise EncoderError(f"{refused}: {error}; mend or uninstall its package") from error
    card = getattr(encoder, "card", None)
    if not isinstance(card, EncoderCard) or not callable(getattr(encoder, "build", None)):
        raise EncoderError(f"{refused}; it needs a card and build()")
    checked: PatchEncoder = encoder
    return checked
