"""The command line: every command parses, calls one public function and prints.

Sole home of click and rich, and the place where the pipeline meets ``wsi_models``. Heavy
libraries are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import click

from wsi_files.cores import limit_linear_algebra
from wsi_pipeline.cli.cluster import cluster
from wsi_pipeline.cli.config import config
from wsi_pipeline.cli.demo import demo
from wsi_pipeline.cli.encoders import encoders
from wsi_pipeline.cli.evaluate import evaluate
from wsi_pipeline.cli.explain import explain
from wsi_pipeline.cli.export import export
from wsi_pipeline.cli.features import features
from wsi_pipeline.cli.heatmap import heatmap
from wsi_pipeline.cli.info import info
from wsi_pipeline.cli.ingest import ingest
from wsi_pipeline.cli.learn import learn
from wsi_pipeline.cli.mil import mil
from wsi_pipeline.cli.predict import predict
from wsi_pipeline.cli.preprocess import preprocess
from wsi_pipeline.cli.report import report
from wsi_pipeline.cli.run import run
from wsi_pipeline.cli.train import train
from wsi_pipeline.cli.verify import verify
from wsi_pipeline.cli.view import view


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="wsi-pipeline")
def main() -> None:
    """Turn whole-slide images into H/E patches, patch labels and heatmaps.

    \b
    A first look, with a slide that is made for you:
        wsi-pipeline demo --out demo-out
    Your own slides, in one step:
        wsi-pipeline run slides/ --out results --model my-bundle
    Or in two: patches first, then any number of models:
        wsi-pipeline preprocess slides/ --out results --mpp 0.5
        wsi-pipeline predict results --model my-bundle

    A slide can be SVS, NDPI, MRXS, SCN, BIF, DICOM, (pyramidal) TIFF, OME-TIFF, PNG or JPEG.
    """
    limit_linear_algebra()


for _command in (
    info,
    preprocess,
    predict,
    heatmap,
    explain,
    export,
    run,
    view,
    learn,
    report,
    verify,
    ingest,
    train,
    evaluate,
    encoders,
    features,
    mil,
    config,
    cluster,
    demo,
):
    main.add_command(_command)
