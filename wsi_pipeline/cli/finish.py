"""What commands do with the report of a run: print it and choose the exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.cli.console import print_json, print_report
from wsi_pipeline.outcome import Status

if TYPE_CHECKING:
    from wsi_pipeline.outcome import RunReport


def finish_run(report: RunReport, out: Path, *, as_json: bool) -> None:
    """Print the report, and exit with 1 if a slide failed."""
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report, str(out))
    if report.count(Status.FAILED):
        raise SystemExit(1)
