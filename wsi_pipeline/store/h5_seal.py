"""HDF5 files <-> checksums in their user block, compared before HDF5 sees a byte.

HDF5 has none for its own structures, and a few changed bytes in them end the process that reads
them. The user block is room at the start of a file that HDF5 leaves to others.
"""

from __future__ import annotations

from pathlib import Path

import google_crc32c

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.files import checksum

USER_BLOCK = 512
HEAD_BYTES = 1 << 16
"""Structures come first in files that are written with blocks of this size for them."""

LAYOUT = {"userblock_size": USER_BLOCK, "meta_block_size": HEAD_BYTES}
"""How ``h5py.File`` must be asked for a file that is sealed."""

_MAGIC = b"wsi-pipeline CRC-32C of the structures and of all that follows: "
_BLOCK_BYTES = 1 << 20


def seal_h5(path: Path) -> None:
    """Write the checksums of a complete file into its user block."""
    head, whole = _sums(path, whole=True)
    text = _MAGIC + f"{head:08x} {whole:08x}\n".encode()
    with path.open("r+b") as file:
        file.write(text)


def is_sealed(path: Path) -> bool:
    """Whether a file says that it carries checksums, as those written here do."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def require_seal(path: Path, *, whole: bool) -> None:
    """Compare a file with its checksums; files of other programs have none.

    Parameters
    ----------
    path : Path
        The file.
    whole : bool
        Read all of it, not its structures alone.

    Raises
    ------
    FeaturesError
        If it is damaged.
    """
    with path.open("rb") as file:
        block = file.read(USER_BLOCK)
    if not block.startswith(_MAGIC):
        return
    stated = block[len(_MAGIC) :].split(b"\n")[0].split()
    found = [f"{value:08x}".encode() for value in _sums(path, whole=whole)]
    if stated[: 1 + whole] != found[: 1 + whole]:
        raise FeaturesError(
            f"{path} is damaged: its content does not agree with its checksum; compute the "
            f"features again"
        )


def _sums(path: Path, *, whole: bool) -> tuple[int, int]:
    """Return the checksums of the structures and, if asked for, of all but the user block."""
    with path.open("rb") as file:
        file.seek(USER_BLOCK)
        block = file.read(HEAD_BYTES)
        value = head = checksum(block)
        while whole and (block := file.read(_BLOCK_BYTES)):
            value = google_crc32c.extend(value, block)
    return head, value
