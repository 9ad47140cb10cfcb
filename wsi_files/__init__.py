"""Files that people write -> plain values, or a word on what is wrong with them.

What both packages need, and neither may take from the other: tables and TOML, read with a limit on
their size, and without trusting what they hold. What the values mean is the business of the reader.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["UnreadableError", "read_bounded"]

_FAILURES = (
    OSError, ValueError, EOFError,
    # of an archive: a damaged member, one with a password, one of an unknown compression
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError,
)  # fmt: skip


class UnreadableError(ValueError):
    """A file is not what it should be; says which file, what is wrong and what to do."""


def read_bounded(path: Traversable, limit: int) -> bytes:
    """Read a file that must be small.

    Parameters
    ----------
    path : Path or Traversable
        The file, on disk or in an archive.
    limit : int
        Most bytes that it may have.

    Returns
    -------
    bytes
        Its content.

    Raises
    ------
    UnreadableError
        If it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content: bytes = file.read(limit + 1)
    except _FAILURES as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error
    if len(content) > limit:
        raise UnreadableError(f"{path} has more than {limit} bytes, so it is not what it should be")
    return content
