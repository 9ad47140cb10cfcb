"""A file of features of any layout -> its arrays and the words that stand in it, as they are.

Ours, and those of CLAM, TRIDENT, STAMP and AnnData; pickles are not read. What the words mean is
not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.store.h5_seal import require_seal
from wsi_pipeline.store.passport import KEY
from wsi_pipeline.store.schema import UNREADABLE

FEATURE_NAMES = ("features", "feats")
"""Names of the array of features, ours first; STAMP writes the second."""

MAX_RATIO = 1000
"""How much smaller than its arrays a file may be; the best compression of zeros reaches this."""

SUFFIXES = (".h5", ".h5ad", ".zarr")


class Vectors(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    shape : tuple of int
        N vectors of F values.
    values : ndarray of shape (N, F), float32, or None
        The vectors; None if only their shape was asked for.
    places : ndarray of shape (N, 2) or None
        Where the patches are; None where the file does not say, or was not asked.
    in_um : bool
        Whether places are in um, not in level-0 px.
    passport : str or None
        How the vectors were made, in JSON.
    tiles : dict
        Plain values that describe the tiles.
    """

    shape: tuple[int, int]
    values: NDArray[np.float32] | None
    places: NDArray[Any] | None
    in_um: bool
    passport: str | None
    tiles: dict[str, Any]


def read_vectors(path: Path, *, whole: bool) -> Vectors:
    """Read a file of features.

    Parameters
    ----------
    path : Path
        ``.h5``, ``.h5ad`` or ``.zarr``.
    whole : bool
        Read the arrays too.

    Returns
    -------
    Vectors
        What it holds.

    Raises
    ------
    FeaturesError
        If it is missing or damaged, or has no array of features.
    """
    with _opened(path, whole=whole) as file:
        found = _source(path, file)
        patches, width = map(int, found.values.shape[-2:])
        values = places = None
        if whole:
            _require_plausible(path, found.values)
            values = np.asarray(found.values[...], dtype=np.float32).reshape(patches, width)
            places = found.read_places()
        return Vectors(
            (patches, width), values, places, found.in_um, _text(found.passport), found.tiles
        )


def _text(value: Any) -> str | None:  # noqa: ANN401 -- whatever stood in the file
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if value is None else str(value)


@contextmanager
def _opened(path: Path, *, whole: bool) -> Iterator[Any]:
    """Open a file of either format; whatever is wrong with it becomes one error."""
    try:
        if path.suffix == ".zarr":
            yield zarr.open_group(path, mode="r")
            return
        require_seal(path, whole=whole)
        with h5py.File(path, "r") as file:
            yield file
    except FeaturesError:
        raise
    except UNREADABLE as error:
        raise FeaturesError(f"{path} cannot be read as features: {error}") from error


def _require_plausible(path: Path, values: Any) -> None:  # noqa: ANN401 -- of either library
    """Refuse an array that claims to be far larger than its file: memory would be asked for it."""
    files = path.rglob("*") if path.is_dir() else (path,)
    stored = sum(file.stat().st_size for file in files if file.is_file())
    claimed = math.prod(values.shape) * values.dtype.itemsize
    if claimed > MAX_RATIO * stored:
        raise FeaturesError(
            f"{path} is damaged: its {stored} bytes claim to be features of shape {values.shape}; "
            f"compute the features again"
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """The parts of an open file, of whichever layout; arrays are not yet read."""

    values: Any
    read_places: Callable[[], NDArray[Any] | None]
    in_um: bool
    passport: Any
    tiles: dict[str, Any]


def _source(path: Path, file: Any) -> _Source:  # noqa: ANN401 -- of either library
    if path.suffix == ".h5ad":
        return _annotated(path, file)
    name = next((name for name in FEATURE_NAMES if name in file), None)
    if name is None:
        raise FeaturesError(
            f"{path} has no array {' or '.join(FEATURE_NAMES)}, only {', '.join(sorted(file))}"
        )
    values = file[name]
    if len(values.shape) not in (2, 3) or (len(values.shape) == 3 and values.shape[0] != 1):
        raise FeaturesError(f"{path} has features of shape {values.shape}; they must be (N, F)")
    about = _plain(file.attrs) | _plain(values.attrs)
    tiles = _plain(file["coords"].attrs) if "coords" in file else {}

    def read_places() -> NDArray[Any] | None:
        if "coords" not in file:
            return None
        return np.asarray(file["coords"][...]).reshape(-1, 2)

    return _Source(values, read_places, about.get("unit") == "um", about.get(KEY), tiles)


def _annotated(path: Path, file: Any) -> _Source:  # noqa: ANN401 -- of h5py
    """Find the parts of an AnnData file: ``X``, ``obs/x`` and ``obs/y``, and ``uns``."""
    values = file["X"]
    if not isinstance(values, h5py.Dataset) or len(values.shape) != 2:
        raise FeaturesError(f"{path} has no dense matrix X of shape (N, F)")

    def read_places() -> NDArray[Any] | None:
        obs = file["obs"]
        if "x" not in obs or "y" not in obs:
            return None
        return np.stack([np.asarray(obs[axis][...], dtype=np.int64) for axis in "xy"], axis=1)

    text = file["uns"][KEY][()] if "uns" in file and KEY in file["uns"] else None
    return _Source(values, read_places, in_um=False, passport=text, tiles={})


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Turn numpy values into those of Python."""
    return {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in attributes.items()
    }
