"""The command ``wsi-pipeline report``: the reports of all parts of a run -> one page."""

from __future__ import annotations

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.runs import finish_run, results_folder


@click.command()
@click.argument("out", metavar="FOLDER")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def report(out: str, as_json: bool) -> None:
    """Write run.json and index.html of a results folder anew, and print them.

    \b
        wsi-pipeline report results
        wsi-pipeline report s3://bucket/results

    FOLDER is the --out of a run. A run in parts (--shard-index) keeps a report of each part in
    FOLDER/shards and merges them by itself whenever a slide is done; this does it once more, for
    a run that was interrupted. The exit code is 1 when a slide failed.
    """
    from wsi_pipeline.run.report import republish_report

    with explained_errors(), results_folder(out) as (folder, bucket):
        whole = republish_report(folder, bucket)
    finish_run(whole, out, as_json=as_json)
