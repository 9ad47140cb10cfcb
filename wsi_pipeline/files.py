"""Files and folders that are whole and on disk before they count, and one writer at a time.

Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import socket
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
from filelock import FileLock, SoftFileLock, Timeout

from wsi_pipeline.errors import OutputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
"""File that says who writes into a folder."""

SOFT_SUFFIX = ".held"
"""Ending of the lock where the file system has none: the file exists while it is held."""

NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
"""What file systems without locks answer, such as NFS without its lock service."""

_PARTIAL = ".partial"
_BLOCK_BYTES = 1 << 20
_SYNCS_AT_ONCE = 16


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
        is removed if the block raises. Its bytes are on disk before it gets its name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
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
    partial = _beside(path)
    try:
        yield partial
        take_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def take_place(new: Path, path: Path) -> None:
    """Rename a complete folder to ``path``; one that has the name goes only afterwards.

    Parameters
    ----------
    new : Path
        The folder. All its bytes are on disk before it gets its name.
    path : Path
        Its final name. Whatever fails, the old folder or the new one has it in the end.
    """
    sync_tree(new)
    old = path.with_name(f"{path.name}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def set_aside(path: Path) -> Iterator[None]:
    """Make a folder anew in the block; the old one has its name again if the block raises.

    After a crash, :func:`restore_folder` does that.
    """
    old = path.with_name(f"{path.name}.old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    try:
        yield
    except BaseException:
        restore_folder(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def restore_folder(path: Path) -> None:
    """Give a folder its name back that a crash had left aside in :func:`take_place`."""
    old = path.with_name(f"{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)


def sync_tree(folder: Path) -> None:
    """Wait until every file below a folder, and every folder, is on disk."""
    found = list(os.walk(folder, topdown=False))
    files = [Path(place, name) for place, _, names in found for name in names]
    # side by side, since a disk answers many that wait at once
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
        deque(pool.map(_sync, files), maxlen=0)
    for place, _, _ in found:
        _sync(Path(place))


def checksum(*parts: bytes) -> int:
    """Return the CRC-32C of bytes, those of one part after those of another."""
    value = 0
    for part in parts:
        value = google_crc32c.extend(value, part)
    return value


def file_checksum(path: Path) -> int:
    """Return the CRC-32C of a file, read a block at a time."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            value = google_crc32c.extend(value, block)
    return value


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


def _beside(path: Path) -> Path:
    """Return a hidden name beside ``path`` that no other writer has and no file system refuses."""
    return path.with_name(f".{secrets.token_hex(8)}{_PARTIAL}{path.suffix}")


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left in a folder; nobody may be writing into it."""
    for entry in folder.glob(f".*{_PARTIAL}*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do it for folders
            raise
    finally:
        os.close(handle)
