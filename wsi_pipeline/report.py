"""A run's report -> ``index.html``: one page that a person opens first.

The page is a file among the results: it loads nothing from elsewhere and runs no script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from wsi_pipeline.files import replace_atomically
from wsi_pipeline.outcome import RunReport, SlideOutcome, Status


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
        loader=PackageLoader("wsi_pipeline"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    colors = dict(
        zip(report.model.get("class_names", ()), report.model.get("class_colors", ()), strict=True)
    )
    slides = [_card(outcome, colors) for outcome in report.outcomes]
    page = templates.get_template("report.html").render(
        report=report, counts=_counts(report), slides=slides
    )
    with replace_atomically(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _counts(report: RunReport) -> list[tuple[str, int]]:
    return [(status.value, report.count(status)) for status in Status if report.count(status)]


def _card(outcome: SlideOutcome, colors: dict[str, str]) -> dict[str, Any]:
    """Gather what the page shows of one slide, as text and links."""
    kept = outcome.funnel.get("kept", 0)
    shares = [
        {"name": name, "percent": f"{100 * share:.1f}", "color": colors[name]}
        for name, share in outcome.class_shares.items()
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
