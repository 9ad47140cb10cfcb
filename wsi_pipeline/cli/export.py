"""The command ``wsi-pipeline export``: finished results -> files of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.options import config_options, resolve_config
from wsi_pipeline.cli.results import classes_option, each_result, of_model_option, results_argument
from wsi_pipeline.errors import ConfigError

WSINFER = "wsinfer"
"""What a bundle is exported to; all other exports are of results."""


@click.command()
@results_argument
@click.option(
    "--to",
    "names",
    required=True,
    multiple=True,
    metavar="EXPORT",
    help="What to write; repeatable.",
)
@click.option(
    "--features",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="anndata, spatialdata: folder of 'wsi-pipeline features', whose vectors become the "
    "matrix; else the probabilities do.",
)
@classes_option
@of_model_option
@config_options("results")
def export(
    results: tuple[Path, ...],
    names: tuple[str, ...],
    features: Path | None,
    model_name: str | None,
    **values: Any,
) -> None:
    """Write what was found for other programs.

    RESULTS is a folder of results, or of one slide, or a predictions.parquet. Nothing is predicted
    anew.

    \b
        wsi-pipeline export results --to regions --to areas
        wsi-pipeline export results --to regions --threshold 0.8 --classes tumor
        wsi-pipeline export results --to anndata --features features

    \b
    EXPORT is one of
        geojson         every tile with its probabilities, for QuPath
        regions         classes as outlines with holes, clipped to tissue, in mm2, for QuPath
        tissue          pieces of tissue, to edit in QuPath and give back with --tissue-mask
        tissue-png      the same as a picture
        cores           cores of a tissue microarray by the names of their grid, for QuPath
        areas           CSV: mm2 of tissue and classes, per slide and piece
        csv             CSV: probabilities of tiles as WSInfer writes them
        ome-tiff        probabilities, a channel per class; ome-tiff-float: as 32-bit numbers
        ome-zarr        OME-Zarr 0.5: stains, tissue, classes and probabilities
        anndata         .h5ad: a row per tile, for scanpy and squidpy
                        (pip install 'wsi-pipeline[anndata]')
        spatialdata     the same with thumbnail, tissue and tiles as shapes, in um
                        (pip install 'wsi-pipeline[spatialdata]')
        dicom           DICOM segmentation of probabilities
                        (pip install 'wsi-pipeline[dicom]')
    or that of an installed package (docs/extending.md).

    Files lie beside the predictions, those that need none beside the patch store.

    A trained bundle on RGB patches can be given to QuPath's WSInfer extension:

    \b
        wsi-pipeline export runs/first/bundle --to wsinfer    # writes runs/first/bundle-wsinfer
    """
    if names == (WSINFER,):
        with explained_errors():
            for bundle in results:
                click.echo(_write_wsinfer(bundle))
        return
    from wsi_pipeline.files import slide_folder
    from wsi_pipeline.results.export.registry import EXPORTS
    from wsi_pipeline.results.finished import find_finished, find_slide_features
    from wsi_pipeline.results.views import rule_of, write_exports

    with explained_errors():
        rule = rule_of(resolve_config(values).results)
        needed = any(EXPORTS.get(name).needs_model for name in names)
        found = find_finished(results, model_name, predicted=needed)
        vectors = find_slide_features(features)

        def write(index: int) -> list[Path]:
            item = found[index]
            model = None if item.predictions is None else item.predictions.parent.name
            with slide_folder(item.folder):
                written = write_exports(item.open(rule, vectors), item.folder, model, names)
            return list(written.values())

        each_result([str(item.folder) for item in found], write)


def _write_wsinfer(folder: Path) -> Path:
    """Write the model of a bundle for WSInfer, beside the bundle."""
    from wsi_models.bundle import BundleError, load_bundle
    from wsi_models.wsinfer import write_wsinfer

    out = folder.with_name(f"{folder.absolute().name}-{WSINFER}")
    try:
        write_wsinfer(load_bundle(folder), out)
    except BundleError as error:
        raise ConfigError(str(error)) from error
    return out
