"""The command ``wsi-pipeline demo``: the whole job on a slide whose truth is known."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.console import explained_errors, print_json
from wsi_pipeline.cli.display import run_display
from wsi_pipeline.cli.options import output_options


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-out"),
    show_default=True,
    help="Folder for the slide and the results.",
)
@click.option(
    "--size", type=click.IntRange(min=1024), default=6144, show_default=True, help="Side, px."
)
@click.option("--seed", type=int, default=2026, show_default=True, help="Another slide per seed.")
@output_options
def demo(out: Path, size: int, seed: int, as_json: bool, quiet: bool) -> None:
    """Make a synthetic H&E slide, run everything on it, and compare with the truth.

    \b
        wsi-pipeline demo --out demo-out

    The last line is the share of tiles that got the right label, among those that lie in one
    class (95 % of their area). The model was not trained on this slide.
    """
    from wsi_pipeline.demo import run_demo
    from wsi_pipeline.models import load_model

    with explained_errors(), run_display(quiet, as_json=as_json) as monitor:
        result = run_demo(out, load_model("demo"), size_px=size, seed=seed, monitor=monitor)
    if as_json:
        print_json(result.to_dict())
        return
    for name, path in result.files.items():
        click.echo(f"{name:12} {path}")
    click.echo(f"tiles in one class {result.judged} of {result.tiles}")
    click.echo(f"label accuracy {result.accuracy:.2f}")
