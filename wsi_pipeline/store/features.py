"""Features of a slide's patches <-> HDF5 as CLAM and TRIDENT read and write it, or Zarr.

One file per slide, named after it. Reads what those programs and STAMP write; pickles are not read.
How features are computed is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.files import replace_atomically, replace_folder

FEATURE_NAMES = ("features", "feats")
"""Names of the array of features, ours first; STAMP writes the second."""

SUFFIXES = (".h5", ".zarr")
CHUNK_ROWS = 1024
"""Vectors in one chunk of a Zarr array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFeatures:
    """One vector per patch of a slide.

    Attributes
    ----------
    slide_id : str
        Name of the slide.
    features : ndarray of shape (N, F), float32
        The vectors.
    xy : ndarray of shape (N, 2), int64, or None
        Top-left corners of the patches, level-0 px; None where the file has none.
    about : dict
        Plain values that say how the vectors were made: ``encoder`` (fingerprint of its weights),
        ``encoder_name``, ``slide_fingerprint``, ``config_hash``.
    tiles : dict
        Plain values that describe the tiles, under the names that CLAM and TRIDENT use.
    """

    slide_id: str
    features: NDArray[np.float32]
    xy: NDArray[np.int64] | None
    about: dict[str, Any] = field(default_factory=dict)
    tiles: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(f"features must be (N, F), got {self.features.shape}")
        if self.xy is not None and self.xy.shape != (len(self.features), 2):
            raise ValueError(f"xy {self.xy.shape} does not match {len(self.features)} patches")


class FeatureFacts(NamedTuple):
    """What is known of a file of features without reading them.

    Attributes
    ----------
    patches : int
        Number N of vectors.
    features : int
        Length F of each.
    about : dict
        As in :class:`SlideFeatures`; empty for files of other programs.
    """

    patches: int
    features: int
    about: dict[str, Any]


def write_features(path: Path, features: SlideFeatures) -> None:
    """Write the features of a slide.

    Parameters
    ----------
    path : Path
        ``<slide_id>.h5`` or ``<slide_id>.zarr``; an older one is replaced once the new is whole.
    features : SlideFeatures
        With places; N = 0 is legal.

    Notes
    -----
    Both formats hold ``features`` (N, F) float32 and ``coords`` (N, 2) int64: x and y of the
    top-left corner in level-0 px. Attributes of ``coords`` are those that TRIDENT and CLAM read
    (``patch_size``, ``patch_size_level0``, ``level0_magnification``, ``target_magnification``,
    ``overlap``, ``patch_level``, ``downsample``, ``name``, ...); those of ``features`` say which
    encoder made them.

    Raises
    ------
    ValueError
        If there are no places, or the name has another ending.
    """
    if features.xy is None:
        raise ValueError("features are written with their places; xy is None")
    _require_suffix(path)
    arrays: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {
        "features": (features.features, features.about),
        "coords": (features.xy, features.tiles),
    }
    if path.suffix == ".h5":
        with replace_atomically(path) as partial, h5py.File(partial, "w") as file:
            for name, (values, attributes) in arrays.items():
                file.create_dataset(name, data=values).attrs.update(attributes)
        return
    with replace_folder(path) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        for name, (values, attributes) in arrays.items():
            chunks = (CHUNK_ROWS, *values.shape[1:])
            array = group.create_array(
                name, shape=values.shape, chunks=chunks, dtype=values.dtype, attributes=attributes
            )
            array[...] = values


def read_features(path: Path) -> SlideFeatures:
    """Read the features of a slide, written here or by CLAM, TRIDENT or STAMP.

    Parameters
    ----------
    path : Path
        ``.h5`` or ``.zarr``, with an array ``features`` (or ``feats``) of shape (N, F) or
        (1, N, F), and places in ``coords`` where there are any.

    Returns
    -------
    SlideFeatures
        In float32, whatever was stored; named after the file.

    Raises
    ------
    FeaturesError
        If the file is missing or damaged, has no such array, or holds values that are no numbers.
    """
    with _opened(path) as file:
        stored = _stored(path, file)
        values = np.asarray(stored[...], dtype=np.float32)
        values = values.reshape(values.shape[-2:])
        xy = np.asarray(file["coords"][...]).reshape(-1, 2) if "coords" in file else None
        about = _plain(stored.attrs)
        tiles = _plain(file["coords"].attrs) if "coords" in file else {}
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise FeaturesError(
            f"{path} holds values that are no numbers for {bad} of {len(values)} patches; compute "
            "the features again in float32"
        )
    if xy is not None and len(xy) != len(values):
        raise FeaturesError(
            f"{path} has {len(xy)} places for {len(values)} patches; compute the features again"
        )
    return SlideFeatures(
        slide_id=path.stem,
        features=values,
        xy=None if xy is None else xy.astype(np.int64),
        about=about,
        tiles=tiles,
    )


def describe_features(path: Path) -> FeatureFacts:
    """Read the shape and origin of a file of features, not the features.

    Raises
    ------
    FeaturesError
        If the file is missing or damaged, or has no array of features.
    """
    with _opened(path) as file:
        stored = _stored(path, file)
        patches, width = stored.shape[-2:]
        return FeatureFacts(int(patches), int(width), _plain(stored.attrs))


def find_features(paths: Sequence[Path]) -> dict[str, Path]:
    """Find files of features, given themselves or by their folder.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders that hold them; the folder that CLAM fills holds them in ``h5_files``.

    Returns
    -------
    dict of str to Path
        File of each slide, sorted by slide.

    Raises
    ------
    FeaturesError
        If a folder holds none, or two files are of one slide.
    """
    found: dict[str, Path] = {}
    for path in paths:
        files = [path] if path.suffix in SUFFIXES else _inside(path)
        if not files:
            raise FeaturesError(
                f"{path} holds no .h5 or .zarr; compute features with 'wsi-pipeline features'"
            )
        for file in files:
            if file.stem in found:
                raise FeaturesError(
                    f"{found[file.stem]} and {file} are both of slide {file.stem}; give one"
                )
            found[file.stem] = file
    return dict(sorted(found.items()))


def _inside(folder: Path) -> list[Path]:
    nested = folder / "h5_files"
    return [
        file
        for place in (folder, nested)
        if place.is_dir()
        for file in sorted(place.iterdir())
        if file.suffix in SUFFIXES and not file.name.startswith(".")
    ]


def _require_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {' or '.join(SUFFIXES)}")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file of either format; whatever is wrong with it becomes one error."""
    if path.suffix not in SUFFIXES or not path.exists():
        raise FeaturesError(
            f"{path} is no file of features; give an existing {' or '.join(SUFFIXES)} file"
        )
    try:
        if path.suffix == ".zarr":
            yield zarr.open_group(path, mode="r")
            return
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FeaturesError(f"{path} cannot be read as features: {error}") from error


def _stored(path: Path, file: Any) -> Any:  # noqa: ANN401 -- of either library
    """Return the array of features, unread."""
    name = next((name for name in FEATURE_NAMES if name in file), None)
    if name is None:
        raise FeaturesError(
            f"{path} has no array {' or '.join(FEATURE_NAMES)}, only {', '.join(sorted(file))}"
        )
    shape = file[name].shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 1):
        raise FeaturesError(f"{path} has features of shape {shape}; they must be (N, F)")
    return file[name]


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Turn numpy values into those of Python."""
    return {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in attributes.items()
    }
