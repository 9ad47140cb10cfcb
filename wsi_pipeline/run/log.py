"""What happens in a run -> its log file, tracebacks included."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGER = "wsi_pipeline"
FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _QuietFile(logging.FileHandler):
    """A log that a full disk does not turn into a second failure."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the record out."""


@contextmanager
def logging_to(file: Path) -> Iterator[Path | None]:
    """Append what the package logs to a file while the block runs.

    Parameters
    ----------
    file : Path
        The log; its folder is made when missing.

    Yields
    ------
    Path or None
        ``file``; None if it cannot be written, in which case the run goes on without.
    """
    logger = logging.getLogger(LOGGER)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = _QuietFile(file, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        logger.warning("there is no log of this run: %s", error)
        yield None
        return
    level = logger.level
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield file
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
