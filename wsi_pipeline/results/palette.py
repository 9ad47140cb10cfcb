"""Colours of classes that nobody has chosen colours for."""

from __future__ import annotations

SAFE = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#f0e442", "#cc79a7", "#4d4d4d",
)  # fmt: skip
"""Eight colours that people with any colour vision tell apart (Okabe and Ito, 2008), those that are
least like hematoxylin and eosin first."""


def class_colors(count: int) -> tuple[str, ...]:
    """Return a colour for each of some classes, in their order; past eight they begin again."""
    return tuple(SAFE[index % len(SAFE)] for index in range(count))
