"""TOML -> plain values, and what a model of pydantic says of them -> words."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from wsi_files import UnreadableError, read_bounded

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError

MAX_BYTES = 4 * 1024**2
"""Largest TOML file that is read; a label map of a thousand classes has a hundredth of this."""

SHOWN_CHARACTERS = 80
"""How much of a wrong value is repeated in a message."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    UnreadableError
        If it is missing, too large or not TOML.
    """
    content = read_bounded(path, MAX_BYTES)
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError as error:
        raise UnreadableError(f"{path} cannot be read as TOML: it is nested too deeply") from error
    except ValueError as error:
        raise UnreadableError(f"{path} cannot be read as TOML: {error}") from error


def explain_invalid(error: ValidationError, whole: str) -> str:
    """Say which keys are wrong, with which values.

    Parameters
    ----------
    error : pydantic.ValidationError
        What a model says of the values it was given.
    whole : str
        What the values are together, for what concerns several of them.

    Returns
    -------
    str
        One clause per key.
    """
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or whole}{_shown(item['input'])}: {item['msg']}"
        for item in error.errors(include_url=False, include_context=False)
    )


def _shown(value: Any) -> str:  # noqa: ANN401 -- whatever stood in the file
    """Repeat a single value; of a table or a long text that would hide what is wrong."""
    if isinstance(value, (dict, bytes)):
        return ""
    text = repr(value)
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    return f" = {shown}"
