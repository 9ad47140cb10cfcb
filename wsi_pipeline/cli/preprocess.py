"""``wsi-pipeline preprocess``: slides -> patch stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors, progress_bars
from wsi_pipeline.cli.finish import finish_run
from wsi_pipeline.cli.options import (
    add_label_map,
    config_options,
    input_argument,
    label_options,
    resolve_config,
    run_options,
)


@click.command()
@input_argument
@run_options
@label_options
@config_options("read", "tissue", "tile", "label", "stain", "store")
def preprocess(
    inputs: tuple[str, ...], out: Path, as_json: bool, quiet: bool, **values: Any
) -> None:
    """Cut slides into hematoxylin/eosin patches, one Zarr store per slide.

    \b
        wsi-pipeline preprocess slide.svs --out results
        wsi-pipeline preprocess 'slides/*.svs' --out results --mpp 0.5 --patch-size 256
        wsi-pipeline preprocess slides.csv --out results --keep-rgb     # columns path, mpp
        wsi-pipeline preprocess slides/ --out train --labels areas/ --label-map classes.toml

    Each slide leaves OUT/<slide_id>/patches.zarr and qc.png (what was kept, and why the rest was
    not). A run that was interrupted goes on where it stopped; one bad slide does not stop the
    others. The exit code is 1 when a slide failed.
    """
    from wsi_pipeline.inputs import find_slides
    from wsi_pipeline.pipeline import RunOptions, run_slides

    with explained_errors():
        roi, workers, overwrite = (values.pop(key) for key in ("roi", "workers", "overwrite"))
        labels = values.pop("labels")
        add_label_map(values, values.pop("label_map"))
        options = RunOptions(
            out=out,
            config=resolve_config(values),
            workers=workers,
            overwrite=overwrite,
        )
        jobs = find_slides(inputs, roi, labels)
        with progress_bars(quiet or as_json) as progress:
            report = run_slides(jobs, options, progress=progress)
    finish_run(report, out, as_json=as_json)
