r"""A table as people save it (CSV of any spreadsheet) -> rows whose cells are asked for by name.

Separators ``,``, ``;`` and tab, UTF-8 with or without a mark, UTF-16 with one, headers in any case,
decimal commas. What is wrong is named by line and column; no cell is dropped without a word.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_files import UnreadableError, read_bounded

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 256 * 1024**2
"""Largest table that is read: a million images with paths of 200 letters fit."""

MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "<na>", "null"})
"""What programs write into a cell that has no value, in any case."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings by which a spreadsheet takes text for a formula, and would run it."""

_SEPARATORS = (",", ";", "\t")
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def column_key(name: str) -> str:
    """Return a header as it is compared: ``Slide ID`` and ``slide_id`` are one."""
    return "_".join(name.strip().casefold().replace("-", " ").replace("_", " ").split())


def text_cell(text: str) -> str:
    """Return text, such as a name, for a cell of a table that people open in a spreadsheet.

    Parameters
    ----------
    text : str
        Not a number: those stay as they are.

    Returns
    -------
    str
        With an apostrophe before what a spreadsheet would take for a formula.
    """
    return f"'{text}" if text.startswith(FORMULA) else text


def is_missing(text: str) -> bool:
    """Whether a program wrote this where it had no value."""
    return text.strip().casefold() in MISSING


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes
    ----------
    where : str
        File and line, for messages.
    cells : mapping of str to str
        Stripped text by key of the column.
    """

    where: str
    cells: Mapping[str, str]

    def text(self, column: str) -> str | None:
        """Return a cell; None where the table has no such column, or no value in it."""
        value = self.cells.get(column_key(column), "")
        return None if is_missing(value) else value

    def required(self, column: str, advice: str) -> str:
        """Return a cell that must have a value.

        Raises
        ------
        UnreadableError
            If it has none; ``advice`` says what to do.
        """
        value = self.text(column)
        if value is None:
            raise self.wrong(column, f"has no value; {advice}")
        return value

    def number(self, column: str) -> float | None:
        """Return a cell as a number; a comma may stand for the point.

        Raises
        ------
        UnreadableError
            If it is no number, or not a finite one.
        """
        text = self.text(column)
        if text is None:
            return None
        try:
            value = float(text.replace("_", " ").replace(",", "."))
        except ValueError as error:
            raise self.wrong(column, f"{text!r} is not a number") from error
        if not math.isfinite(value):
            raise self.wrong(column, f"{text!r} is not a finite number")
        return value

    def wrong(self, column: str, problem: str) -> UnreadableError:
        """Return the error that names this row and a column of it."""
        return UnreadableError(f"{self.where}, column {column}: {problem}")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file.

    Attributes
    ----------
    name : str
        The file, for messages.
    headers : tuple of str
        As they stand in the first line.
    keys : frozenset of str
        As they are compared.
    rows : tuple of Row
        Rows with a value in any cell, in order.
    """

    name: str
    headers: tuple[str, ...]
    keys: frozenset[str]
    rows: tuple[Row, ...]

    def has(self, column: str) -> bool:
        """Whether there is such a column."""
        return column_key(column) in self.keys

    def require(self, columns: Sequence[str], advice: str = "") -> None:
        """Refuse a table that lacks columns.

        Raises
        ------
        UnreadableError
            Naming those that are missing and those that are there.
        """
        missing = [column for column in columns if not self.has(column)]
        if missing:
            raise UnreadableError(
                f"{self.name} has no column {', '.join(missing)}; it has: "
                f"{', '.join(self.headers)}. {advice}".rstrip()
            )

    def require_no_others(self, columns: Sequence[str]) -> None:
        """Refuse columns of other names: what stands in them would count for nothing.

        Raises
        ------
        UnreadableError
            Naming the first.
        """
        unknown = sorted(self.keys - {"", *map(column_key, columns)})
        if unknown:
            raise UnreadableError(
                f"{self.name} line 1: the column {unknown[0]!r} is not known; columns are "
                f"{', '.join(columns)}. Rename it or take it out"
            )


def read_table(path: Path, other_names: Mapping[str, str] | None = None) -> Table:
    """Read a table.

    Parameters
    ----------
    path : Path
        CSV file.
    other_names : mapping of str to str or None
        Columns by what they may be called besides.

    Returns
    -------
    Table
        Its rows; lines without a value are left out.

    Raises
    ------
    UnreadableError
        If it cannot be read, or a line does not have as many cells as the first.
    """
    return parse_table(read_bounded(path, MAX_BYTES), str(path), other_names)


def parse_table(content: bytes, name: str, other_names: Mapping[str, str] | None = None) -> Table:
    """Read a table from the bytes of a file; see :func:`read_table`."""
    text = _decode(content, name)
    lines = list(_lines(text, name))
    if not lines:
        raise UnreadableError(f"{name} is empty; its first line must name the columns")
    (_, headers), *others = lines
    keys = [(other_names or {}).get(key, key) for key in map(column_key, headers)]
    _check_headers(headers, keys, name)
    rows = tuple(_row(name, number, cells, keys) for number, cells in others if any(cells))
    return Table(name=name, headers=tuple(filter(None, headers)), keys=frozenset(keys), rows=rows)


def _decode(content: bytes, name: str) -> str:
    encoding = next((code for mark, code in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableError(
            f"{name} cannot be read as {encoding} ({error}); save it as CSV in UTF-8"
        ) from error


def _lines(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the stripped cells of each line that is not empty."""
    first, _, rest = text.partition("\n")
    stated = first.strip().removeprefix("sep=") if first.startswith("sep=") else ""
    separator = stated or _separator(first)
    if len(separator) != 1:
        raise UnreadableError(f"{name} states the separator {separator!r}; it must be one letter")
    reader = csv.reader(
        io.StringIO(rest if stated else text, newline=""), delimiter=separator, strict=True
    )
    try:
        for cells in reader:
            if cells:
                yield reader.line_num + bool(stated), [cell.strip() for cell in cells]
    except csv.Error as error:
        raise UnreadableError(
            f"{name} line {reader.line_num}: {error}; save the table again as CSV"
        ) from error


def _separator(header: str) -> str:
    """Return what stands most often in the first line, outside of quotes."""
    bare = "".join(header.split('"')[::2])
    return max(_SEPARATORS, key=bare.count)


def _check_headers(headers: Sequence[str], keys: Sequence[str], name: str) -> None:
    repeated = [key for key, count in Counter(filter(None, keys)).items() if count > 1]
    if repeated:
        raise UnreadableError(f"{name} line 1: the column {repeated[0]} occurs twice; keep one")
    for header in headers:
        if _NO_TEXT.search(header):
            raise UnreadableError(f"{name} line 1: the header {header!r} is not text")


def _row(name: str, number: int, cells: list[str], keys: Sequence[str]) -> Row:
    where = f"{name} line {number}"
    if len(cells) != len(keys):
        raise UnreadableError(
            f"{where} has {len(cells)} cells where the first line has {len(keys)}; a value that "
            f"holds the separator must stand in quotes, and an empty one keeps its separator"
        )
    for key, cell in zip(keys, cells, strict=True):
        if cell and not key:
            raise UnreadableError(f"{where}: {cell!r} stands in a column without a name; name it")
        if _NO_TEXT.search(cell):
            raise UnreadableError(
                f"{where}, column {key}: {cell!r} holds characters that are not text"
            )
    return Row(where=where, cells=dict(zip(keys, cells, strict=True)))
