"""``wsi-pipeline ingest``: labelled images -> a patch store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.options import config_options, output_options, resolve_config


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path), metavar="IMAGES")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Patch store to make, such as lc25000.zarr.",
)
@click.option(
    "--mpp",
    required=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Resolution of the images, um/px. Image files do not state it; models rely on it.",
)
@click.option("--path-column", default="path", show_default=True, help="Table: image file.")
@click.option("--label-column", default="label", show_default=True, help="Table: class.")
@click.option("--group-column", help="Table: patient, slide or prototype.")
@click.option(
    "--group-pattern",
    help="Regular expression that finds the group in each image's path, such as "
    "'TCGA-..-....'.  [default: every image is a group of its own]",
)
@click.option(
    "--patch-size",
    "patch_px",
    type=click.IntRange(min=8, max=4096),
    help="Side of the patches, px.  [default: that of the first image]",
)
@click.option(
    "--fit",
    type=click.Choice(["exact", "crop", "resize"]),
    default="exact",
    show_default=True,
    help="Images of another size: refuse them, cut the middle out, or resample the middle square.",
)
@click.option(
    "--stain",
    type=click.Choice(["group", "pooled"]),
    default="group",
    show_default=True,
    help="One stain matrix per group where it can be trusted, or one for all images.",
)
@click.option(
    "--min-group-images",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Groups with fewer images share the pooled stain matrix.",
)
@config_options("stain", "store")
@click.option("--overwrite", is_flag=True, help="Replace a store made of other images or options.")
@output_options
def ingest(source: Path, out: Path, **values: Any) -> None:
    """Turn labelled images into a patch store to train on.

    \b
    A folder (or zip of one) with a subfolder per class:
        wsi-pipeline ingest NCT-CRC-HE-100K/ --out crc.zarr --mpp 0.5
    A table (or a folder or zip with labels.csv) with the columns path, label and a group:
        wsi-pipeline ingest tiles.zip --out tiles.zarr --mpp 0.5 --group-column slide

    Name the group (patient, slide or prototype) wherever there is one: training splits by it, and
    copies of one tissue in two parts make every result worthless.
    """
    from wsi_pipeline.preprocess.group_stains import StainScope
    from wsi_pipeline.preprocess.image_store import Fit, IngestOptions, ingest_images
    from wsi_pipeline.preprocess.labelled_images import TableColumns, find_images

    columns = TableColumns(
        path=values.pop("path_column"),
        label=values.pop("label_column"),
        group=values.pop("group_column"),
    )
    pattern, overwrite = values.pop("group_pattern"), values.pop("overwrite")
    as_json, quiet = values.pop("as_json"), values.pop("quiet")
    options = IngestOptions(
        mpp=values.pop("mpp"),
        patch_px=values.pop("patch_px"),
        fit=Fit(values.pop("fit")),
        stain=StainScope(values.pop("stain")),
        min_group_images=values.pop("min_group_images"),
    )
    with explained_errors(), progress_bars(quiet or as_json) as progress:
        config = resolve_config(values)
        images = find_images(source, columns, group_pattern=pattern)
        store = ingest_images(images, out, options, config, overwrite=overwrite, progress=progress)
    summary = {
        "store": str(store.path),
        "patches": len(store),
        "patch_px": store.patch_px,
        "mpp": store.mpp,
        "classes": {
            name: int((store.label == code).sum()) for code, name in enumerate(store.label_names)
        },
        "unlabelled": int((store.label < 0).sum()),
        "groups": len(set(store.group)),
        "stain": store.stain.verdict.value,
        "own_stain": sum(stain is not store.stain for stain in store.patch_stains),
    }
    if as_json:
        print_json(summary)
        return
    for key, value in summary.items():
        shown = (
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        )
        click.echo(f"{key:12} {shown}")
