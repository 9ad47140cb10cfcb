"""A run's report -> ``run.json`` and ``index.html``, the page that a person opens first.

The page is a file among the results: it loads nothing from elsewhere and runs no script. Parts of
a run that work side by side each keep a report of their own, and all of them make the page.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from wsi_pipeline.errors import ReportError
from wsi_pipeline.files import locked, replace_atomically
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.remote import RemoteFolder
from wsi_pipeline.run.timing import Timing, merge_timings

if TYPE_CHECKING:
    from wsi_pipeline.slide.inputs import Share

RECORD_NAME = "run.json"
PAGE_NAME = "index.html"
PARTS_FOLDER = "shards"

MANY_CLASSES = 12
"""Classes above which those that a slide does not have go unmentioned."""

LOCK_SECONDS = 120
"""How long a part waits while others merge the parts, which takes well below a second."""


def publish_report(out: Path, report: RunReport, share: Share, bucket: str | None = None) -> None:
    """Write the report of a run, or that of a part and, with it, that of all parts so far.

    Parameters
    ----------
    out : Path
        Folder of the run.
    report : RunReport
        What came of the run or the part.
    share : Share
        Which part it is.
    bucket : str or None
        ``s3://bucket/prefix`` where the report goes too.
    """
    remote = None if bucket is None else RemoteFolder(bucket)
    out.mkdir(parents=True, exist_ok=True)
    if share.count == 1:
        shutil.rmtree(out / PARTS_FOLDER, ignore_errors=True)  # of an earlier run in parts
        _write_whole(out, report, remote)
        return
    part = out / PARTS_FOLDER / f"{share.index:04d}-of-{share.count:04d}.json"
    report.write(part)
    if remote is not None:
        remote.write(f"{PARTS_FOLDER}/{part.name}", part)
        remote.download(PARTS_FOLDER, out / PARTS_FOLDER)
    _merge(out, remote)


def republish_report(out: Path, bucket: str | None = None) -> RunReport:
    """Write ``run.json`` and ``index.html`` anew, of all parts of a run.

    Parameters
    ----------
    out : Path
        Folder of the run, or an empty one for the report of a run in a bucket.
    bucket : str or None
        ``s3://bucket/prefix`` to read the parts from and to write to.

    Returns
    -------
    RunReport
        Of the whole run.

    Raises
    ------
    ReportError
        If there is no report.
    """
    remote = None if bucket is None else RemoteFolder(bucket)
    if remote is not None:
        remote.download(PARTS_FOLDER, out / PARTS_FOLDER)
        if not _parts(out):
            _fetch_record(remote, out)
    if _parts(out):
        return _merge(out, remote)
    report = RunReport.read(out / RECORD_NAME)
    _write_whole(out, report, remote)
    return report


def _fetch_record(remote: RemoteFolder, out: Path) -> None:
    try:
        content = remote.read(RECORD_NAME)
    except FileNotFoundError as error:
        raise ReportError(f"there is no report of a run in {remote.url}") from error
    (out / RECORD_NAME).write_bytes(content)


def _merge(out: Path, remote: RemoteFolder | None) -> RunReport:
    # every part writes its own report before it comes here, so the last to hold the lock sees all
    with locked(out / PARTS_FOLDER, wait_seconds=LOCK_SECONDS):
        report = merge_reports([RunReport.read(part) for part in _parts(out)])
        _write_whole(out, report, remote)
    return report


def _parts(out: Path) -> list[Path]:
    """Return the reports of the parts; of runs in several ways of parting, those of the last."""
    parts = sorted((out / PARTS_FOLDER).glob("*-of-*.json"))
    if not parts:
        return []
    newest = max(parts, key=lambda part: part.stat().st_mtime)
    count = newest.stem.rpartition("-")[2]
    return [part for part in parts if part.stem.endswith(f"-of-{count}")]


def merge_reports(parts: list[RunReport]) -> RunReport:
    """Make one report of those of the parts of a run.

    Parameters
    ----------
    parts : list of RunReport
        At least one.

    Returns
    -------
    RunReport
        The slides of all, sorted by id; command, configuration and model are those of the first.
    """
    outcomes = sorted((o for part in parts for o in part.outcomes), key=lambda o: o.slide_id)
    timings = [Timing.from_dict(part.timing) for part in parts if part.timing]
    return replace(
        parts[0],
        started=min(part.started for part in parts),
        outcomes=tuple(outcomes),
        timing=merge_timings(timings, outcomes).to_dict() if timings else {},
    )


def _write_whole(out: Path, report: RunReport, remote: RemoteFolder | None) -> None:
    report.write(out / RECORD_NAME)
    write_report(out / PAGE_NAME, report)
    if remote is not None:
        remote.write(RECORD_NAME, out / RECORD_NAME)
        remote.write(PAGE_NAME, out / PAGE_NAME)


def write_report(path: Path, report: RunReport) -> None:
    """Write the report as a web page.

    Parameters
    ----------
    path : Path
        File to write, ``index.html`` in the folder of the run: pictures and files are linked
        relative to it.
    report : RunReport
        What came of the run.
    """
    templates = Environment(
        loader=PackageLoader("wsi_pipeline.run"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    colors = dict(
        zip(report.model.get("class_names", ()), report.model.get("class_colors", ()), strict=True)
    )
    slides = [_card(outcome, colors) for outcome in report.outcomes]
    page = templates.get_template("report.html").render(
        report=report,
        counts=_counts(report),
        slides=slides,
        stages=_stages(report),
        wall=_duration(report.timing.get("wall", 0.0)),
    )
    with replace_atomically(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _counts(report: RunReport) -> list[tuple[str, int]]:
    return [(status.value, report.count(status)) for status in Status if report.count(status)]


def _stages(report: RunReport) -> list[dict[str, str]]:
    """Describe the stages of a run, the longest first, those that count for nothing left out."""
    stages: dict[str, float] = report.timing.get("stages", {})
    longest = max(stages.values(), default=0.0)
    return [
        {"name": name, "percent": f"{100 * spent / longest:.1f}", "seconds": _duration(spent)}
        for name, spent in stages.items()
        if spent > 0.005 * longest
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else str(timedelta(seconds=round(seconds)))


def _card(outcome: SlideOutcome, colors: dict[str, str]) -> dict[str, Any]:
    """Gather what the page shows of one slide, as text and links."""
    kept = outcome.funnel.get("kept", 0)
    shares = [
        {"name": name, "percent": f"{100 * share:.1f}", "color": colors[name]}
        for name, share in outcome.class_shares.items()
        if share > 0 or len(outcome.class_shares) <= MANY_CLASSES
    ]
    return {
        "outcome": outcome,
        "anchor": quote(outcome.slide_id),
        "kept": f"{kept} of {sum(outcome.funnel.values())}" if outcome.funnel else "",
        "verdict": outcome.stain.get("verdict", ""),
        "mpp": f"{outcome.slide['mpp']:.4g} ({outcome.slide['mpp_source']})"
        if outcome.slide
        else "",
        "summary": ", ".join(f"{share['name']} {share['percent']} %" for share in shares),
        "shares": shares,
        "pictures": [
            {"href": quote(path), "alt": f"{name} of {outcome.slide_id}"}
            for name, path in outcome.files.items()
            if path.endswith(".png")
        ],
        "files": [{"href": quote(path), "name": name} for name, path in outcome.files.items()],
        "facts": _facts(outcome.slide),
        "stains": _stains(outcome.stain),
    }


def _facts(slide: dict[str, Any]) -> list[str]:
    if not slide:
        return []
    width, height = slide["size_wh"]
    flagged = ", an estimate: check it" if slide["mpp_source"] == "objective" else ""
    return [
        f"{width} x {height} px",
        f"{slide['mpp']:.5g} um/px, from {slide['mpp_source']}{flagged}",
        f"read by {slide['reader']} ({slide['vendor']})",
    ]


def _stains(stain: dict[str, Any]) -> list[dict[str, str]]:
    """Describe each stain vector, with the colour it has at a concentration of 0.5."""
    if not stain:
        return []
    matrix = stain["matrix"]
    return [
        {
            "name": name,
            "vector": ", ".join(f"{value:.3f}" for value in vector),
            "maximum": f"{maximum:.2f}",
            "color": "#" + "".join(f"{round(255 * 10 ** (-0.5 * value)):02x}" for value in vector),
        }
        for name, vector, maximum in zip(
            ("hematoxylin", "eosin"), matrix["vectors"], matrix["max_concentration"], strict=True
        )
    ]
