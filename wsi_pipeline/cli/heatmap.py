"""The command ``wsi-pipeline heatmap``: predictions -> a picture on the slide."""

from __future__ import annotations

from pathlib import Path

import click

from wsi_pipeline.cli.console import explained_errors


@click.command()
@click.argument("predictions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture to write (PNG).  [default: heatmap.png beside the predictions]",
)
@click.option(
    "--store",
    type=click.Path(exists=True, path_type=Path),
    help="Patch store of the slide.  [default: patches.zarr in the folder above]",
)
@click.option(
    "--class",
    "class_name",
    help="Show the probability of this class alone.  [default: the most probable class]",
)
def heatmap(
    predictions: Path, out: Path | None, store: Path | None, class_name: str | None
) -> None:
    """Draw predictions over the slide, with legend and scale bar.

    \b
        wsi-pipeline heatmap results/slide-1/demo/predictions.parquet
        wsi-pipeline heatmap predictions.parquet --class tumor --out tumor.png
    """
    from wsi_pipeline.results.views import redraw_heatmap

    with explained_errors():
        written = redraw_heatmap(
            predictions,
            store or predictions.parent.parent / "patches.zarr",
            out or predictions.with_name("heatmap.png"),
            class_name=class_name,
        )
    click.echo(written)
