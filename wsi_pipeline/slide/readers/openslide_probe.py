"""A file that nobody vouches for -> whether OpenSlide opens and reads it, found out by a process.

OpenSlide and the libraries below it are written in C; a damaged or hostile file can end the process
that opens it. So a process of its own opens each file first and reads a little of every level; what
ends it is an error of that slide. Run as ``python -m wsi_pipeline.slide.readers.openslide_probe``.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from wsi_pipeline.errors import SlideReadError, UnsupportedSlideError

LOGGER = logging.getLogger(__name__)

TIMEOUT_S = 120.0
"""Seconds after which a file counts as one that OpenSlide cannot open; sound ones take one or two
from a slow disk."""

MAX_BYTES = 8 << 30
"""Address space of the process, bytes; a slide is opened in a tenth of this."""

_CHECKED_VENDORS = frozenset({"aperio", "dicom", "generic-tiff"})
"""Formats whose levels are files or pages that may come from elsewhere."""

_PROBE_PX = 16
_REMEMBERED = 256


def probe(file: Path) -> tuple[int, ...]:
    """Let a process of its own open a file with OpenSlide.

    Parameters
    ----------
    file : Path
        The file.

    Returns
    -------
    tuple of int
        OpenSlide's numbers of the levels to use, 0 first; empty where it does not know the format.

    Raises
    ------
    UnsupportedSlideError
        If OpenSlide knows the format but refuses the file.
    SlideReadError
        If the process died, or did not end, or level 0 is not the slide.
    """
    state = file.stat()
    return _use(_ask(file.absolute(), state.st_size, state.st_mtime_ns), file)


def find_levels(file: Path) -> tuple[int, ...]:
    """Do as :func:`probe` does, in this process: for files known to be harmless."""
    return _use(look(file), file)


@lru_cache(maxsize=_REMEMBERED)
def _ask(file: Path, _size: int, _modified: int) -> dict[str, Any]:
    """Ask a process; a file that stays as it is is asked about once."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", __name__, str(file)]
    try:
        done = subprocess.run(
            command, capture_output=True, env=environment, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SlideReadError(
            f"{file} is not opened by OpenSlide within {TIMEOUT_S:g} s; the file is damaged, copy "
            f"it again",
            path=file,
        ) from error
    if done.returncode:
        raise SlideReadError(
            f"{file} ends the process that opens it with OpenSlide "
            f"({_cause(done.returncode, done.stderr)}); the file is damaged, copy it again",
            path=file,
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _use(answer: dict[str, Any], file: Path) -> tuple[int, ...]:
    if answer.get("refused"):
        raise UnsupportedSlideError(f"OpenSlide refuses it ({answer['refused']})", path=file)
    if answer.get("unsound"):
        raise SlideReadError(f"{file} cannot be used: {answer['unsound']}", path=file)
    for level, fault in answer.get("left_out", {}).items():
        LOGGER.warning("%s: level %s is left out: %s", file, level, fault)
    return tuple(answer["levels"])


def _cause(code: int, stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    if code > 0:
        return lines[-1] if lines else f"exit status {code}"
    return signal.Signals(-code).name


def look(file: Path) -> dict[str, Any]:
    """Open a file and read a little of every level, in this process.

    Returns
    -------
    dict
        ``levels`` to use, none where the format is not known; ``left_out``, why others are not
        used; or ``refused``, what OpenSlide says, or ``unsound``, why level 0 is not believed.
    """
    import openslide

    from wsi_pipeline.slide.readers.openslide_levels import sound_levels

    try:
        with openslide.OpenSlide(file) as slide:
            vendor = slide.properties.get(openslide.PROPERTY_NAME_VENDOR, "")
            levels: tuple[int, ...] = tuple(range(slide.level_count))
        left_out: dict[int, str] = {}
        if vendor in _CHECKED_VENDORS:
            levels, left_out = sound_levels(file)
        _read_a_little(openslide, file, levels)
    except openslide.OpenSlideUnsupportedFormatError:
        return {"levels": ()}
    except openslide.OpenSlideError as error:
        return {"refused": str(error)}
    except SlideReadError as error:
        return {"unsound": str(error)}
    return {"levels": levels, "left_out": left_out}


def _read_a_little(library: Any, file: Path, levels: tuple[int, ...]) -> None:  # noqa: ANN401 -- the module openslide, loaded in the other process only
    """Read from the middle of every level; what can be told of damage is told when it is read."""
    for level in levels:
        with library.OpenSlide(file) as slide:
            place = slide.dimensions[0] // 2, slide.dimensions[1] // 2
            try:
                slide.read_region(place, level, (_PROBE_PX, _PROBE_PX))
            except library.OpenSlideError as error:
                LOGGER.info("%s: level %d: %s", file, level, error)


def main() -> None:
    """Print what :func:`look` finds of the file that is named, as JSON."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sys.stdout.write(json.dumps(look(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
