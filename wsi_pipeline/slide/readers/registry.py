"""The readers there are, by name: ours, and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.config import READERS, ReaderName
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_pipeline.slide.readers.base import Reader


@dataclass(frozen=True, slots=True)
class SlideFormat:
    """What a reader opens, and how.

    Attributes
    ----------
    open : callable
        Takes a file or folder and returns the open :class:`~wsi_pipeline.slide.readers.Reader`.
        Raises :class:`~wsi_pipeline.errors.UnsupportedSlideError` where it is none of its slides,
        so that the next reader is asked, and :class:`~wsi_pipeline.errors.SlideReadError` where it
        is one, but damaged.
    suffixes : frozenset of str
        Endings by which files of this format are found in folders, such as ``.svs``.
    """

    open: Callable[[Path], Reader]
    suffixes: frozenset[str] = field(default=frozenset())


def find_format(name: str) -> SlideFormat:
    """Load a reader.

    Raises
    ------
    ConfigError
        If there is none of that name, or what has it is no :class:`SlideFormat`.
    """
    found = READERS.get(name)
    if not isinstance(found, SlideFormat):
        raise ConfigError(
            f"the slide reader {name!r} is no SlideFormat but {type(found).__name__}; see "
            f"docs/extending.md"
        )
    return found


def foreign_suffixes() -> frozenset[str]:
    """List the endings of the slides that readers of installed packages open."""
    ours = set(ReaderName)
    foreign = (find_format(name) for name in READERS.names if name not in ours)
    return frozenset(suffix.lower() for format_ in foreign for suffix in format_.suffixes)
