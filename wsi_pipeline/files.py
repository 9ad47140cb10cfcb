"""Writing files so that what exists is whole: temporary name first, then one rename.

Knows nothing of what is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside ``path``, and rename it to ``path`` on success.

    Parameters
    ----------
    path : Path
        Final name of a file; its folder is made when missing, an old file is replaced.

    Yields
    ------
    Path
        Where to write. It keeps the suffix of ``path``, since writers choose formats by it, and
        is removed if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
