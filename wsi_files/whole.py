"""Files and folders that are whole and on disk before they count.

Knows nothing of what is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import google_crc32c

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
