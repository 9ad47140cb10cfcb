"""Rows of words and figures -> a Markdown table, and a report whose sections can be replaced.

What the figures mean is left to those who measured them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SECTION = re.compile(r"<!-- begin (?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- end -->\n", re.DOTALL)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out rows under the names of their columns."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in lines)


def sections(report: str) -> dict[str, str]:
    """Take a report apart: the text of each section, by name."""
    return {found["name"]: found["body"] for found in _SECTION.finditer(report)}


def report(introduction: str, parts: Iterable[tuple[str, str]]) -> str:
    """Put sections together, named so that :func:`sections` finds them."""
    named = (f"<!-- begin {name} -->\n{body}<!-- end -->\n" for name, body in parts)
    return "\n".join([introduction, *named])
