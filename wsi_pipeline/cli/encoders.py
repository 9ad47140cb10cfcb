"""``wsi-pipeline encoders``: which encoders there are, and all that is published of one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json, print_table
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_models.encoders import EncoderCard

BYTES_PER_PARAMETER = 4


@click.command()
@click.argument("name", required=False)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder to look for weights in.  [default: the hub's own cache]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def encoders(name: str | None, weights: Path | None, as_json: bool) -> None:
    """List the encoders of 'features', or show all that is published of one.

    \b
        wsi-pipeline encoders
        wsi-pipeline encoders uni2-h

    Weights are on this machine or not; nothing is fetched. Those of a gated encoder are given to
    accounts that accepted its terms at the hub.
    """
    from wsi_models.encoders import EncoderError, available_encoders, find_encoder

    with explained_errors():
        try:
            if name is not None:
                _show(find_encoder(name).card, weights, as_json=as_json)
                return
            cards = [encoder.card for encoder in available_encoders().values()]
        except EncoderError as error:
            raise ConfigError(str(error)) from error
    if as_json:
        print_json([_summary(card, weights) for card in cards])
        return
    rows = [
        (
            card.name,
            str(card.features),
            f"{card.tile_px} px, {card.mpp:g} um/px",
            _megabytes(card),
            ("gated, " if card.gated else "") + card.licence,
            "yes" if card.commercial else "no",
            "here" if _weights_file(card, weights) else "",
        )
        for card in cards
    ]
    print_table(
        ("encoder", "features", "tile", "size", "licence", "commercial use", "weights"), rows
    )


def _weights_file(card: EncoderCard, folder: Path | None) -> str | None:
    """Find the weights of an encoder on this machine."""
    from wsi_models.encoders import EncoderError, find_weights

    if card.weights is None:
        return None
    try:
        found = find_weights(card, None if card.weights.package else folder)
    except EncoderError:  # not in the folder, or its package is not installed
        return None
    return None if found is None else str(found)


def _megabytes(card: EncoderCard) -> str:
    return f"{card.parameters * BYTES_PER_PARAMETER / 1e6:,.0f} MB"


def _summary(card: EncoderCard, folder: Path | None) -> dict[str, Any]:
    return {**card.model_dump(mode="json"), "weights_file": _weights_file(card, folder)}


def _show(card: EncoderCard, folder: Path | None, *, as_json: bool) -> None:
    from wsi_models.encoders import where

    if as_json:
        print_json(_summary(card, folder))
        return
    transform = card.transform
    resized = f", resized to {transform.resize_px} px ({transform.interpolation})"
    facts = {
        "encoder": f"{card.name} ({card.title})",
        "paper": card.paper,
        "network": f"{card.architecture or card.library}, {card.parameters:,} parameters",
        "tile": f"{card.tile_px} px at {card.mpp:g} um/px"
        + (resized if transform.resize_px else "")
        + f", centre of {transform.input_px} px",
        "colours": f"mean {_numbers(transform.mean)}, deviation {_numbers(transform.std)}",
        "features": f"{card.features}, pooling: {card.pooling}",
        "precision": card.precision,
        "licence": card.licence + (", commercial use allowed" if card.commercial else ""),
        "weights": "none needed" if card.weights is None else where(card),
        "sha256": "" if card.weights is None else card.weights.sha256 or "not known",
        "on this machine": _weights_file(card, folder) or "no",
        "note": card.note,
    }
    for key, value in facts.items():
        if value:
            click.echo(f"{key:16} {value}")
    click.echo("where each fact is from")
    for key, value in card.sources.items():
        click.echo(f"  {key:14} {value}")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
