"""Files of features -> the vectors of a slide, their places and their passport.

One file per slide, named after it. Reads what is written here and by CLAM, TRIDENT and STAMP, and
AnnData; pickles are not read. How features are computed and written is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.store.h5_seal import require_seal
from wsi_pipeline.store.passport import KEY, Passport
from wsi_pipeline.store.schema import UNREADABLE

FEATURE_NAMES = ("features", "feats")
"""Names of the array of features, ours first; STAMP writes the second."""

MAX_RATIO = 1000
"""How much smaller than its arrays a file may be; the best compression of zeros reaches this."""

SUFFIXES = (".h5", ".h5ad", ".zarr")


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
    passport : Passport or None
        How the vectors were made; None for files of other programs.
    tiles : dict
        Plain values that describe the tiles, under the names that CLAM and TRIDENT use.
    """

    slide_id: str
    features: NDArray[np.float32]
    xy: NDArray[np.int64] | None
    passport: Passport | None = None
    tiles: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.features.ndim != 2:
            raise ValueError(f"features must be (N, F), got {self.features.shape}")
        if self.xy is not None and self.xy.shape != (len(self.features), 2):
            raise ValueError(f"xy {self.xy.shape} does not match {len(self.features)} patches")

    @property
    def encoder(self) -> str | None:
        """What identifies the encoder, where it is known."""
        return None if self.passport is None else self.passport.identity


class FeatureFacts(NamedTuple):
    """What is known of a file of features without reading them.

    Attributes
    ----------
    patches : int
        Number N of vectors.
    features : int
        Length F of each.
    passport : Passport or None
        How they were made; None for files of other programs.
    """

    patches: int
    features: int
    passport: Passport | None = None

    @property
    def encoder(self) -> str | None:
        """What identifies the encoder, where it is known."""
        return None if self.passport is None else self.passport.identity


def read_features(path: Path) -> SlideFeatures:
    """Read the features of a slide, written here or by CLAM, TRIDENT, STAMP or as AnnData.

    Parameters
    ----------
    path : Path
        ``.h5`` or ``.zarr``, with an array ``features`` (or ``feats``) of shape (N, F) or
        (1, N, F), and places in ``coords`` where there are any; or ``.h5ad`` with a dense ``X``.

    Returns
    -------
    SlideFeatures
        In float32, whatever was stored; named after the file. Places in um, as STAMP has them,
        become level-0 px where the passport says the slide's resolution, and are None elsewhere.

    Raises
    ------
    FeaturesError
        If the file is missing or damaged, has no such array, or holds values that are no numbers.
    """
    with _opened(path, whole=True) as file:
        found = _source(path, file)
        _require_plausible(path, found.values)
        values = np.asarray(found.values[...], dtype=np.float32)
        values = values.reshape(values.shape[-2:])
        xy = found.read_xy()
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
    passport = found.passport
    if passport is not None and passport.content not in ("", passport.digest_of(values, xy)):
        raise FeaturesError(
            f"{path} is damaged: its content does not agree with its checksum; compute the "
            "features again"
        )
    return SlideFeatures(
        slide_id=path.stem, features=values, xy=xy, passport=found.passport, tiles=found.tiles
    )


def describe_features(path: Path) -> FeatureFacts:
    """Read the shape and passport of a file of features, not the features.

    Raises
    ------
    FeaturesError
        If the file is missing or damaged, or has no array of features.
    """
    with _opened(path) as file:
        found = _source(path, file)
        patches, width = found.values.shape[-2:]
        return FeatureFacts(int(patches), int(width), found.passport)


def find_features(paths: Sequence[Path], *, unique: bool = True) -> dict[str, Path]:
    """Find files of features, given themselves or by their folder.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders that hold them; the folder that CLAM fills holds them in ``h5_files``.
    unique : bool
        Refuse two files of one slide. Otherwise they are named by their paths.

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
                f"{path} holds no {', '.join(SUFFIXES)}; make some with 'wsi-pipeline features'"
            )
        for file in files:
            if not unique:
                found[str(file)] = file
                continue
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


@contextmanager
def _opened(path: Path, *, whole: bool = False) -> Iterator[Any]:
    """Open a file of either format; whatever is wrong with it becomes one error."""
    if path.suffix not in SUFFIXES or not path.exists():
        raise FeaturesError(
            f"{path} is no file of features; give an existing {', '.join(SUFFIXES)} file"
        )
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
    read_xy: Callable[[], NDArray[np.int64] | None]
    passport: Passport | None
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
    passport = _passport(path, about.get(KEY))
    tiles = _plain(file["coords"].attrs) if "coords" in file else {}
    in_um = about.get("unit") == "um"

    def read_xy() -> NDArray[np.int64] | None:
        if "coords" not in file:
            return None
        places = np.asarray(file["coords"][...]).reshape(-1, 2)
        return _to_pixels(places, passport) if in_um else places.astype(np.int64)

    return _Source(values, read_xy, passport, tiles)


def _annotated(path: Path, file: Any) -> _Source:  # noqa: ANN401 -- of h5py
    """Find the parts of an AnnData file: ``X``, ``obs/x`` and ``obs/y``, and ``uns``."""
    values = file["X"]
    if not isinstance(values, h5py.Dataset) or len(values.shape) != 2:
        raise FeaturesError(f"{path} has no dense matrix X of shape (N, F)")

    def read_xy() -> NDArray[np.int64] | None:
        obs = file["obs"]
        if "x" not in obs or "y" not in obs:
            return None
        return np.stack([np.asarray(obs[axis][...], dtype=np.int64) for axis in "xy"], axis=1)

    text = file["uns"][KEY][()] if "uns" in file and KEY in file["uns"] else None
    text = text.decode() if isinstance(text, bytes) else text
    return _Source(values, read_xy, _passport(path, text), {})


def _passport(path: Path, text: str | None) -> Passport | None:
    if text is None:
        return None
    try:
        return Passport.from_json(text)
    except FeaturesError as error:
        raise FeaturesError(f"{path}: {error}") from error


def _to_pixels(places_um: NDArray[Any], passport: Passport | None) -> NDArray[np.int64] | None:
    """Turn places in um into level-0 px, where it is known how large those are."""
    mpp = None if passport is None else passport.slide.get("mpp")
    return None if mpp is None else np.rint(places_um / mpp).astype(np.int64)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Turn numpy values into those of Python."""
    return {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in attributes.items()
    }
