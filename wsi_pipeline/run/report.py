"""The records of a folder -> ``run.json``, ``summary.csv`` and ``index.html``, for people.

The page is a file among the results: it loads nothing from elsewhere, and runs no script but its
own, which sorts and filters. All three are views, made anew from every record in the folder,
whichever run left it; how often, is bounded by what they cost.
"""

from __future__ import annotations

import gc
import hashlib
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from wsi_pipeline.errors import ConfigError, OutputError, ReportError
from wsi_pipeline.files import locked, replace_atomically
from wsi_pipeline.run.labels import count_labels, judge_labels, name_patients
from wsi_pipeline.run.outcome import RunReport, SlideOutcome, Status
from wsi_pipeline.run.records import Records
from wsi_pipeline.run.remote import RemoteFolder
from wsi_pipeline.run.summary import write_summary
from wsi_pipeline.run.timing import Timing, merge_timings
from wsi_pipeline.types import STAIN_NAMES, StainPair

RECORD_NAME = "run.json"
PAGE_NAME = "index.html"
SUMMARY_NAME = "summary.csv"

MANY_CLASSES = 12
"""Classes above which those that a slide does not have go unmentioned."""

NO_COLOR = "#888888"

VIEW_ADDRESS = "http://127.0.0.1:8765/"
"""Where ``wsi-pipeline view`` serves its page unless told otherwise."""

SLIDE_FACTS = frozenset({"size_wh", "mpp", "mpp_source", "reader", "vendor"})
"""What the page says of a slide; a record of other facts shows none."""

LOCK_SECONDS = 120
"""How long a run waits at its end while others make the views, which takes a second or two."""

REST = 20
"""How many times as long as it took to make the views no others are made while slides end."""


class Card(SimpleNamespace):
    """What a template shows: it finds attributes much faster than the keys of a dictionary."""


class Publisher:
    """Makes the views of a folder while a run goes on.

    Parameters
    ----------
    records : Records
        The records of the folder; where they are kept in a bucket too, the views go there.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._next = 0.0

    def soon(self) -> None:
        """Make the views, unless that was done a short while ago or another process is at it."""
        if time.monotonic() < self._next:
            return
        began = time.monotonic()
        with suppress(OutputError):
            self._publish(wait_seconds=0)
        self._next = time.monotonic() + REST * (time.monotonic() - began)

    def now(self) -> RunReport:
        """Make the views.

        Returns
        -------
        RunReport
            What they show.

        Raises
        ------
        ConfigError
            If they cannot be written.
        """
        try:
            self._records.fetch()  # other machines may have added to them
            return self._publish(wait_seconds=LOCK_SECONDS)
        except OSError as error:
            raise ConfigError(
                f"results cannot be written to {self._records.out}: {error}"
            ) from error

    def _publish(self, wait_seconds: float) -> RunReport:
        # whoever holds the lock last sees the records of all, since records come before views
        with locked(self._records.folder, wait_seconds=wait_seconds), _uncollected():
            report = write_views(self._records)
            if self._records.remote is not None:
                for name in (RECORD_NAME, SUMMARY_NAME, PAGE_NAME):
                    self._records.remote.write(name, self._records.out / name)
        return report


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let Python's collector of cycles rest: of ten thousands of values that stay it finds none.

    It looked at all of them again and again, a third of the time that the views took.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_views(records: Records) -> RunReport:
    """Write ``run.json``, ``summary.csv`` and ``index.html`` of all records of a folder.

    Parameters
    ----------
    records : Records
        The records, with at least one run.

    Returns
    -------
    RunReport
        What was written: the last run, with the outcomes of all.

    Raises
    ------
    ReportError
        If neither a run nor a slide is on record.
    """
    runs = records.runs()
    outcomes = tuple(records.shown())
    if not runs and outcomes:  # their records are damaged, those of the slides are not
        runs = [RunReport(command="", started="", config={}, model={}, versions={}, outcomes=())]
    if not runs:
        raise ReportError(f"there is no report of a run in {records.out}; check the folder")
    report = replace(runs[-1], outcomes=outcomes, timing=_timing(runs, outcomes))
    report.write(records.out / RECORD_NAME)
    write_summary(records.out / SUMMARY_NAME, outcomes)
    write_report(records.out / PAGE_NAME, report)
    return report


def republish_report(out: Path, bucket: str | None = None) -> RunReport:
    """Write the views of a folder anew.

    Parameters
    ----------
    out : Path
        Folder of the run, or an empty one for the report of a run in a bucket.
    bucket : str or None
        ``s3://bucket/prefix`` to read the records from and to write to.

    Returns
    -------
    RunReport
        The last run, with the outcomes of all.

    Raises
    ------
    ReportError
        If there is no report.
    """
    records = Records(out, None if bucket is None else RemoteFolder(bucket))
    records.adopt(out / RECORD_NAME)
    records.fetch()
    if not records.folder.is_dir():
        raise ReportError(f"there is no report of a run in {bucket or out}; check the name")
    return Publisher(records).now()


def _timing(runs: Sequence[RunReport], outcomes: Sequence[SlideOutcome]) -> dict[str, Any]:
    """Return where the time of the last run went; of a run in parts, that of all its parts."""
    last = runs[-1]
    if last.share[1] == 1:
        return last.timing
    parts = {run.share[0]: run for run in runs if run.share[1] == last.share[1] and run.timing}
    if not parts:
        return {}
    names = {run.run for run in parts.values()}
    own = [outcome for outcome in outcomes if outcome.run in names]
    timings = [Timing.from_dict(run.timing) for run in parts.values()]
    return merge_timings(timings, own).to_dict()


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
    source = resources.files("wsi_pipeline.run") / "templates" / "report.js"
    script = source.read_text(encoding="utf-8")
    labels = count_labels(report.outcomes)
    page = templates.get_template("report.html").render(
        report=report,
        counts=_counts(report),
        legend=_legend(report),
        labels=[
            {
                "name": count.name,
                "tiles": sum(count.tiles.values()),
                "mm2": f"{count.mm2:.3g}",
                "slides": count.slides,
                "patients": name_patients(count),
            }
            for count in labels
        ],
        lacking=judge_labels(labels),
        slides=[_card(outcome) for outcome in sorted(report.outcomes, key=_urgency)],
        stages=_stages(report),
        wall=_duration(report.timing.get("wall", 0.0)),
        script=Markup(script),  # ours, and the only one that the page allows
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=SUMMARY_NAME,
    )
    with replace_atomically(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _legend(report: RunReport) -> list[tuple[str, str]]:
    """Return the classes of all models with their colours; nothing where there are too many."""
    colors = {name: color for o in report.outcomes for name, color in o.class_colors.items()}
    return list(colors.items()) if len(colors) <= MANY_CLASSES else []


def _urgency(outcome: SlideOutcome) -> int:
    """Put first what somebody must look at; the order of slides stays otherwise."""
    if outcome.status is Status.FAILED:
        return 0
    if outcome.status is Status.UNFINISHED:
        return 1
    doubtful = outcome.doubts or outcome.stain.get("verdict") in ("flagged", "fallback")
    return 2 if doubtful else 3


def _counts(report: RunReport) -> list[tuple[str, int]]:
    """Count slides by status, and those whose stains are doubtful."""
    counts = [(status.value, report.count(status)) for status in Status]
    for verdict in ("flagged", "fallback"):
        found = sum(outcome.stain.get("verdict") == verdict for outcome in report.outcomes)
        counts.append((verdict, found))
    counts.append(("doubted", sum(bool(outcome.doubts) for outcome in report.outcomes)))
    return [(name, count) for name, count in counts if count]


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


def _card(outcome: SlideOutcome) -> Card:
    """Gather what the page shows of one slide, as text and links."""
    kept = outcome.funnel.get("kept", 0)
    slide = outcome.slide if outcome.slide.keys() >= SLIDE_FACTS else {}
    shares = _shares(outcome)
    files = {name: quote(path) for name, path in outcome.files.items()}
    return Card(
        outcome=outcome,
        anchor=quote(f"{outcome.slide_id}/{outcome.model}".rstrip("/")),
        view=f"{VIEW_ADDRESS}#slide={quote(outcome.slide_id, safe='')}"
        + (f"&map={quote(outcome.model, safe='')}" if outcome.model else ""),
        kept=kept,
        candidates=sum(outcome.funnel.values()),
        verdict=outcome.stain.get("verdict", ""),
        mpp=f"{slide['mpp']:.4g}" if slide else "",
        tissue=f"{outcome.tissue_mm2:.3g}" if slide else "",
        summary=", ".join(f"{share.name} {share.percent} %" for share in shares),
        shares=shares,
        small=files.get("heatmap_small") or files.get("qc_small"),
        pictures=[
            Card(
                href=href,
                small=files.get(f"{name}_small", href),
                alt=f"{name} of {outcome.slide_id}",
            )
            for name, href in files.items()
            if href.endswith(".png")
        ],
        files=[
            Card(href=href, name=name)
            for name, href in files.items()
            if not name.endswith("_small")
        ],
        facts=_facts(slide),
        stains=_stains(outcome.stain),
    )


def _shares(outcome: SlideOutcome) -> list[Card]:
    """Describe the classes of a slide: their shares of the classified tissue, and mm2."""
    shares = outcome.class_shares
    return [
        Card(
            name=name,
            percent=f"{100 * share:.1f}",
            mm2=f"{share * outcome.classified_mm2:.3g}" if outcome.classified_mm2 else "",
            color=outcome.class_colors.get(name, NO_COLOR),
        )
        for name, share in shares.items()
        if share > 0 or len(shares) <= MANY_CLASSES
    ]


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


def _stains(stain: dict[str, Any]) -> list[Card]:
    """Describe each stain vector, with the colour it has at a concentration of 0.5."""
    if not stain:
        return []
    matrix = stain["matrix"]
    return [
        Card(
            name=name,
            vector=", ".join(f"{value:.3f}" for value in vector),
            maximum=f"{maximum:.2f}",
            color="#" + "".join(f"{round(255 * 10 ** (-0.5 * value)):02x}" for value in vector),
        )
        for name, vector, maximum in zip(
            stain.get("names", STAIN_NAMES[StainPair.HE]),
            matrix["vectors"],
            matrix["max_concentration"],
            strict=True,
        )
    ]
