"""The headers of a store <-> their checksums, in the attributes of its root.

Chunks and shards carry checksums of their own; what says how to read them did not. A file beside
them would be no part of a Zarr group, and libraries would say so.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import StoreError
from wsi_pipeline.files import replace_atomically

CHECKSUMS = "checksums"
"""Attribute with the SHA-256 of each header; of the root's own, of its attributes but this one."""

HEADER = "zarr.json"


def write_sums(path: Path) -> None:
    """Take down the checksums of all headers of a store that is complete."""
    root = json.loads((path / HEADER).read_bytes())
    attributes = without_sums(root["attributes"])
    root["attributes"] = {**attributes, CHECKSUMS: _sums(path, attributes)}
    with replace_atomically(path / HEADER) as partial:
        partial.write_text(json.dumps(root, indent=2), encoding="utf-8")


def check_sums(path: Path) -> None:
    """Compare the headers of a store with their checksums, where it has any.

    Raises
    ------
    StoreError
        Naming the headers that differ or are missing.
    """
    try:
        attributes = json.loads((path / HEADER).read_bytes())["attributes"]
        known = attributes[CHECKSUMS]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # made before there were any, or no header at all, which others say better
    found = _sums(path, without_sums(attributes))
    if found != known:
        names = found.keys() | known.keys() if isinstance(known, dict) else found.keys()
        known = known if isinstance(known, dict) else {}
        wrong = sorted(name for name in names if found.get(name) != known.get(name))
        raise StoreError(
            f"{path}: {', '.join(wrong)} is damaged or missing: it does not agree with its "
            f"checksum; preprocess the slide again with --overwrite"
        )


def without_sums(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes as they were before the checksums were added."""
    return {key: value for key, value in attributes.items() if key != CHECKSUMS}


def _sums(path: Path, attributes: dict[str, Any]) -> dict[str, str]:
    own = json.dumps(attributes, sort_keys=True, separators=(",", ":")).encode()
    arrays = sorted(path.glob(f"*/{HEADER}"))
    return {
        HEADER: _digest(own),
        **{file.relative_to(path).as_posix(): _digest(file.read_bytes()) for file in arrays},
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
