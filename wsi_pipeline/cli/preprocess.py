"""``wsi-pipeline preprocess``: slides -> patch stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.options import (
    add_label_map,
    config_options,
    input_argument,
    label_options,
    resolve_config,
)
from wsi_pipeline.cli.runs import execute_run, run_options


@click.command()
@input_argument
@run_options
@label_options
@config_options("read", "tissue", "tile", "label", "stain", "store")
def preprocess(inputs: tuple[str, ...], label_map: Path | None, **values: Any) -> None:
    """Cut slides into hematoxylin/eosin patches, one Zarr store per slide.

    \b
        wsi-pipeline preprocess slide.svs --out results
        wsi-pipeline preprocess 'slides/*.svs' --out results --mpp 0.5 --patch-size 256
        wsi-pipeline preprocess slides.csv --out results --keep-rgb     # columns path, mpp
        wsi-pipeline preprocess slides/ --out train --labels areas/ --label-map classes.toml
    Many machines (docs/clusters.md has the recipes):
        wsi-pipeline preprocess slides/ --out results --scheduler tcp://head-node:8786
        wsi-pipeline preprocess slides/ --out s3://bucket/results --slides-at-once 4

    Each slide leaves OUT/<slide_id>/patches.zarr and qc.png (what was kept, and why the rest was
    not). A run that was interrupted goes on where it stopped; one bad slide does not stop the
    others. The exit code is 1 when a slide failed.
    """
    with explained_errors():
        add_label_map(values, label_map)
        config = resolve_config(values)
        execute_run(inputs, config, values)
