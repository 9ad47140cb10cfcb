"""Files of features -> the vectors of a slide, their places and their passport.

One file per slide, named after it. Reads what is written here and by CLAM, TRIDENT and STAMP, and
AnnData; pickles are not read. How features are computed and written is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.store.feature_layouts import SUFFIXES, Vectors, read_vectors
from wsi_pipeline.store.features_apart import reader_apart
from wsi_pipeline.store.h5_seal import is_sealed
from wsi_pipeline.store.passport import Passport


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
    found = _read(path, whole=True)
    values = np.asarray(found.values)
    passport = _passport(path, found.passport)
    xy = found.places
    if xy is not None:
        xy = _to_pixels(xy, passport) if found.in_um else xy.astype(np.int64)
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
    if passport is not None and passport.content not in ("", passport.digest_of(values, xy)):
        raise FeaturesError(
            f"{path} is damaged: its content does not agree with its checksum; compute the "
            "features again"
        )
    return SlideFeatures(
        slide_id=path.stem, features=values, xy=xy, passport=passport, tiles=found.tiles
    )


def describe_features(path: Path) -> FeatureFacts:
    """Read the shape and passport of a file of features, not the features.

    Raises
    ------
    FeaturesError
        If the file is missing or damaged, or has no array of features.
    """
    found = _read(path, whole=False)
    return FeatureFacts(*found.shape, _passport(path, found.passport))


def _read(path: Path, *, whole: bool) -> Vectors:
    """Read a file; HDF5 of other programs in a process that may die of it."""
    if path.suffix not in SUFFIXES or not path.exists():
        raise FeaturesError(
            f"{path} is no file of features; give an existing {', '.join(SUFFIXES)} file"
        )
    if path.suffix == ".zarr" or is_sealed(path):
        return read_vectors(path, whole=whole)
    return reader_apart(os.getpid()).read(path, whole=whole)


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
