"""Writing files so that what exists is whole, and folders so that one process writes at a time.

Knows nothing of what is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from wsi_pipeline.errors import OutputError


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


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Lend the name of a temporary folder beside ``path``, and give it that name on success.

    Parameters
    ----------
    path : Path
        Final name; a folder that has it is replaced.

    Yields
    ------
    Path
        Folder to make and fill. It is removed if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        yield Path(scratch) / "new"
        if path.exists():
            path.rename(Path(scratch) / "old")
        (Path(scratch) / "new").rename(path)


@contextmanager
def locked(folder: Path, *, wait_seconds: float = 0) -> Iterator[None]:
    """Keep other processes from writing into a folder while the block runs.

    The system lifts the lock when the process ends, however it ends.

    Parameters
    ----------
    folder : Path
        Made when missing; it holds the empty file ``.lock`` from then on.
    wait_seconds : float
        How long to wait for another process.

    Raises
    ------
    OutputError
        If another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=wait_seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"another process is writing into {folder}; wait for it, or choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
