"""The name of a file -> a name for the folder of its results, and what such a name cannot be."""

from __future__ import annotations

import os
import re
from pathlib import Path

_FIRST = re.compile(r"\A.", re.DOTALL)
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\udc80-\udcff]")

VIEWS = frozenset({"run.json", "index.html", "summary.csv"})
"""Files that a run keeps beside the folders of its slides."""

MAX_ID_BYTES = 250
"""What file systems take as the name of a folder, less a little."""


def wrong_with(slide_id: str) -> str | None:
    """Say why a slide id cannot be the name of a folder among the results, if so."""
    if "/" in slide_id or os.sep in slide_id:
        return "holds a path"
    if slide_id.startswith("."):
        return "begins with a dot"
    if _NO_TEXT.search(slide_id):
        return "holds what is no text"
    if slide_id.casefold() in VIEWS:
        return "is the name of a file of the run"
    if len(slide_id.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        return f"is longer than {MAX_ID_BYTES} bytes"
    return None


def readable(name: str) -> str:
    """Write what is no text, such as bytes of names from other systems, as ``%ff``.

    So is the first letter of names that results cannot have, such as ``..`` of a file ``...tif``.
    """
    decoded = os.fsencode(name).decode("utf-8", "surrogateescape")
    text = _NO_TEXT.sub(_escape, decoded)
    return _FIRST.sub(_escape, text) if text.startswith(".") or text.casefold() in VIEWS else text


def _escape(found: re.Match[str]) -> str:
    return f"%{ord(found[0]) & 0xFF:02x}"


def slide_stem(path: Path) -> str:
    """Return the file name without its slide suffixes: ``a.ome.tif`` gives ``a``."""
    if path.is_dir():
        return path.name
    stem = path.stem
    return stem[: -len(".ome")] if stem.lower().endswith(".ome") else stem
