"""A folder, table or zip of labelled images -> the list of them, with class and group.

Finds and reads image files; what becomes of their pixels is decided elsewhere.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_files import UnreadableError, read_bounded
from wsi_files.tables import MAX_BYTES, is_missing, parse_table
from wsi_pipeline.errors import ConfigError, IngestError
from wsi_pipeline.tiles.classes import find_group

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from wsi_files.tables import Row

MAX_IMAGE_PIXELS = 8192**2
"""Largest image that is decoded; a patch has a quarter of it at most."""

MAX_IMAGE_BYTES = 4 * MAX_IMAGE_PIXELS

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
TABLE_NAME = "labels.csv"
"""A table of this name in a folder or zip is used instead of the names of its subfolders."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image file with what is known of it.

    Attributes
    ----------
    name : str
        Path below the folder or zip, with ``/``; or as the table gives it.
    file : Traversable
        Where to read it.
    label : str or None
        Class; None where unknown.
    group : str
        Patient, slide or prototype.
    """

    name: str
    file: Traversable
    label: str | None
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumns:
    """Headers of a table of images.

    Attributes
    ----------
    path : str
        Path of the image, relative to the table.
    label : str
        Class; empty where unknown.
    group : str or None
        Patient, slide or prototype; None where the table has none.
    """

    path: str = "path"
    label: str = "label"
    group: str | None = None


def find_images(
    source: Path,
    columns: TableColumns | None = None,
    *,
    group_pattern: str | None = None,
) -> tuple[LabelledImage, ...]:
    """List labelled images.

    Parameters
    ----------
    source : Path
        A CSV table; a folder or zip with ``labels.csv``; or a folder or zip with one subfolder
        per class.
    columns : TableColumns or None
        Headers of the table; the usual ones if None.
    group_pattern : str or None
        Regular expression that finds the group in the name of each image: its first capture, or
        the whole match. It beats the table's column.

    Returns
    -------
    tuple of LabelledImage
        In the order of the table, or sorted by name. Images without a group are groups of their
        own.

    Raises
    ------
    IngestError
        If there are no images, a row is incomplete, a file is missing or the pattern does not
        match a name.
    """
    columns = columns or TableColumns()
    if source.suffix.lower() == ".csv":
        found = _read_table(source, source.parent, columns)
    else:
        root = _open_root(source)
        table = root / TABLE_NAME
        found = _read_table(table, root, columns) if table.is_file() else _walk_classes(root)
    images = tuple(found)
    if not images:
        raise IngestError(
            f"{source} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give a folder with a "
            f"subfolder per class, or a table with the columns {columns.path} and {columns.label}"
        )
    return images if group_pattern is None else _regroup(images, group_pattern)


def read_image(image: LabelledImage) -> bytes:
    """Read an image's file, without decoding it.

    Raises
    ------
    IngestError
        If it cannot be read, or is larger than a patch can be.
    """
    try:
        return read_bounded(image.file, MAX_IMAGE_BYTES)
    except UnreadableError as error:
        raise IngestError(f"{error}; repair or remove it") from error


def decode_image(image: LabelledImage, content: bytes) -> NDArray[np.uint8]:
    """Decode an image to RGB on white.

    Parameters
    ----------
    image : LabelledImage
        Named in errors.
    content : bytes
        The file.

    Returns
    -------
    ndarray of shape (h, w, 3), uint8
        RGB; what is transparent becomes white.

    Raises
    ------
    IngestError
        If it is no image, not one of 8-bit colours, or larger than a patch can be.
    """
    _require_small(image, content)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _undecodable(image) from error
    if pixels is None:
        raise _undecodable(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise IngestError(
            f"{image.name} has pixels {pixels.shape[2:] or '(grey)'} {pixels.dtype}; images must "
            "be 8-bit RGB"
        )
    rgb = np.asarray(pixels[..., 2::-1], dtype=np.uint8)
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(rgb)
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.rint(rgb * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _require_small(image: LabelledImage, content: bytes) -> None:
    """Refuse, by its header alone, an image that would take gigabytes once decoded."""
    try:
        with Image.open(io.BytesIO(content)) as header:
            pixels = header.width * header.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        pixels = MAX_IMAGE_PIXELS + 1
    except (OSError, ValueError, SyntaxError) as error:
        raise _undecodable(image) from error
    if pixels > MAX_IMAGE_PIXELS:
        raise IngestError(
            f"{image.name} has more than {MAX_IMAGE_PIXELS} pixels, too many for a patch; a slide "
            f"is made a store with 'wsi-pipeline preprocess'"
        )


def _undecodable(image: LabelledImage) -> IngestError:
    return IngestError(f"{image.name} cannot be decoded as an image; repair or remove it")


def _open_root(source: Path) -> Traversable:
    if source.is_dir():
        return source
    try:
        return zipfile.Path(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise IngestError(
            f"{source} is no folder, CSV table or zip ({error}); give one of these"
        ) from error


def _read_table(
    table: Traversable, root: Traversable, columns: TableColumns
) -> Iterator[LabelledImage]:
    try:
        found = parse_table(read_bounded(table, MAX_BYTES), str(table))
        found.require(
            [columns.path, columns.label, *([columns.group] if columns.group else [])],
            "Name the right ones with --path-column, --label-column and --group-column",
        )
    except UnreadableError as error:
        raise IngestError(str(error)) from error
    lines: dict[str, Row] = {}
    for row in found.rows:
        image = _table_row(row, root, columns)
        first = lines.setdefault(image.name, row)
        if first is not row:
            raise IngestError(f"{row.where} names {image.name}, as {first.where} does; remove one")
        yield image


def _table_row(row: Row, root: Traversable, columns: TableColumns) -> LabelledImage:
    name = row.text(columns.path)
    if name is None:
        raise IngestError(f"{row.where} names no image; fill its {columns.path}")
    file = _join(root, name)
    if not file.is_file():
        raise IngestError(f"{row.where} names {name}, which is not there; paths are below {root}")
    group = name if columns.group is None else row.text(columns.group)
    if group is None:
        raise IngestError(
            f"{row.where} has no {columns.group}: an image without a group may be a copy of one "
            "in another part of a split; fill it, or remove the row"
        )
    return LabelledImage(name, file, row.text(columns.label), group)


def _join(root: Traversable, name: str) -> Traversable:
    """Follow a path as a table gives it; absolute ones are allowed outside of zips."""
    if isinstance(root, Path):
        return root / name
    return root.joinpath(*PurePosixPath(name.replace("\\", "/")).parts)


def _walk_classes(root: Traversable) -> Iterator[LabelledImage]:
    for folder in sorted(root.iterdir(), key=lambda entry: entry.name):
        if folder.is_dir() and not folder.name.startswith((".", "__MACOSX")):
            for name, file in _walk(folder, folder.name):
                label = None if is_missing(folder.name) else folder.name
                yield LabelledImage(name, file, label, name)


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, name)
        elif PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != ".":
            yield name, entry


def _regroup(images: tuple[LabelledImage, ...], pattern: str) -> tuple[LabelledImage, ...]:
    try:
        return tuple(replace(image, group=find_group(image.name, pattern)) for image in images)
    except ConfigError as error:
        raise IngestError(str(error)) from error
