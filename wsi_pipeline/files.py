"""One writer at a time in a folder; and, for the whole package, how files are written whole.

Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, SoftFileLock, Timeout

from wsi_files.whole import (
    checksum,
    file_checksum,
    remove_leftovers,
    replace_atomically,
    replace_folder,
    restore_folder,
    set_aside,
    sync_tree,
    take_place,
)
from wsi_pipeline.errors import OutputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = [
    "checksum",
    "file_checksum",
    "locked",
    "remove_leftovers",
    "replace_atomically",
    "replace_folder",
    "require_inside",
    "restore_folder",
    "set_aside",
    "slide_folder",
    "sync_tree",
    "take_place",
]

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
"""File that says who writes into a folder."""

SOFT_SUFFIX = ".held"
"""Ending of the lock where the file system has none: the file exists while it is held."""

WAIT_SECONDS = 60
"""How long a step waits for the folder of a slide: the workers of a run that was killed end within
a second, those of a cluster when their step does."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
"""What file systems without locks answer, such as NFS without its lock service."""


@contextmanager
def locked(folder: Path, *, name: str = LOCK_NAME, wait_seconds: float = 0) -> Iterator[None]:
    """Keep other processes from writing into a folder while the block runs.

    The system lifts the lock when the process ends, however it ends. Where the file system has no
    locks, a file that exists takes its place, with a warning; it is taken over when its process is
    gone from this machine.

    Parameters
    ----------
    folder : Path
        Made when missing; it holds the lock from then on.
    name : str
        Name of the lock.
    wait_seconds : float
        How long to wait for another process.

    Raises
    ------
    OutputError
        If another process holds the lock, naming it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    try:
        lock = _acquire(path, wait_seconds)
    except Timeout as error:
        raise OutputError(
            f"another process is writing into {folder} ({_owner(path)}); wait for it, or choose "
            f"another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def slide_folder(folder: Path) -> Iterator[None]:
    """Write alone in the folder of a slide, rid of what a killed process left half written.

    Parameters
    ----------
    folder : Path
        Of the slide; made when missing.

    Raises
    ------
    OutputError
        If another process writes there all the while.
    """
    with locked(folder, wait_seconds=WAIT_SECONDS):
        remove_leftovers(folder)
        for entry in folder.iterdir():
            if entry.is_dir() and entry.suffix != ".zarr":
                remove_leftovers(entry)
        yield


def require_folder(out: Path) -> None:
    """Refuse what cannot become a folder of results.

    Raises
    ------
    OutputError
        If it is a file, or a link that leads nowhere.
    """
    if out.is_dir():
        return
    if out.is_symlink() and not out.exists():
        raise OutputError(
            f"{out} is a link to {out.readlink()}, which does not exist; mend it, mount what it "
            f"leads to, or choose another --out"
        )
    if out.exists():
        raise OutputError(f"{out} is a file; choose another --out")


def require_inside(out: Path, *paths: Path) -> None:
    """Refuse names in a folder that lead out of it, by way of a link.

    Raises
    ------
    OutputError
        Naming the first that does.
    """
    for path in paths:
        if path.resolve() != out.resolve() / path.relative_to(out):
            raise OutputError(
                f"{path} is a link that leads out of {out} or to another place in it; remove it, "
                f"or choose another --out"
            )


def _acquire(path: Path, wait_seconds: float) -> BaseFileLock:
    lock: BaseFileLock = FileLock(path, timeout=wait_seconds)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning(
            "the file system of %s has no locks (%s): a file takes their place; start no second "
            "run on another machine into the same folder",
            path.parent,
            error.strerror,
        )
        # it names its owner itself, and takes the place of one that is gone
        lock = SoftFileLock(path.with_name(path.name + SOFT_SUFFIX), timeout=wait_seconds)
        lock.acquire()
        return lock
    _sign(path)
    return lock


def _sign(path: Path) -> None:
    """Say in a lock who holds it; that it is held is known by the system."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    with suppress(OSError):  # a full disk is told of by what is written under the lock
        path.write_text(f"{os.getpid()}\n{socket.gethostname()}\n{now}\n", encoding="utf-8")


def _owner(path: Path) -> str:
    """Say who holds a lock, and of one that only exists, what to do if its owner is gone."""
    soft = path.with_name(path.name + SOFT_SUFFIX)
    held = soft if soft.exists() else path
    try:
        pid, host, *since = held.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return "its owner is not known"
    owner = f"process {pid} on {host}" + (f", since {since[0]}" if since and held is path else "")
    return f"{owner}; if that is gone, delete {soft}" if held is soft else owner
