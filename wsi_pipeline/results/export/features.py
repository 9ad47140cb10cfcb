"""Features of a slide's patches -> files in the layouts that other programs read.

One file per slide, named after it; :mod:`wsi_pipeline.store.features` reads all of them. Each
carries the passport of its vectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr

from wsi_pipeline.errors import FeaturesError
from wsi_pipeline.files import replace_atomically, replace_folder
from wsi_pipeline.results.export.anndata_file import categories, gather_tiles
from wsi_pipeline.results.export.optional import import_optional
from wsi_pipeline.store.h5_seal import LAYOUT, seal_h5
from wsi_pipeline.store.passport import KEY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.store.features import SlideFeatures

CHUNK_ROWS = 1024
"""Vectors in one chunk of a Zarr array."""

STAMP_VERSION = "2.1.0"
"""Since when STAMP has the layout that is written; it refuses files of versions after its own."""


class Layout(StrEnum):
    """Whose files are written."""

    H5 = "h5"
    CLAM = "clam"
    STAMP = "stamp"
    ANNDATA = "anndata"
    ZARR = "zarr"


def feature_file(out: Path, slide_id: str, layout: Layout) -> Path:
    """Name the file that holds the features of a slide.

    Parameters
    ----------
    out : Path
        Folder for all slides.
    slide_id : str
        The slide.
    layout : Layout
        Whose files; CLAM's lie in ``h5_files``, and ``pt_files`` beside it.

    Returns
    -------
    Path
        The file, ending as the layout does.
    """
    match layout:
        case Layout.CLAM:
            return out / "h5_files" / f"{slide_id}.h5"
        case Layout.ANNDATA:
            return out / f"{slide_id}.h5ad"
        case Layout.ZARR:
            return out / f"{slide_id}.zarr"
        case _:
            return out / f"{slide_id}.h5"


def feature_files(out: Path, slide_id: str, layout: Layout) -> dict[str, Path]:
    """Name all files of the features of a slide, by kind; see :func:`feature_file`."""
    files = {"features": feature_file(out, slide_id, layout)}
    if layout is Layout.CLAM:
        files["tensor"] = _tensor_file(out, slide_id)
    return files


def write_features(out: Path, features: SlideFeatures, layout: Layout = Layout.H5) -> Path:
    """Write the features of a slide.

    Parameters
    ----------
    out : Path
        Folder for all slides; an older file is replaced once the new is whole.
    features : SlideFeatures
        With places and passport; N = 0 is legal.
    layout : Layout
        Whose files.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there are no places or no passport.

    Notes
    -----
    ``H5`` is what TRIDENT writes, ``CLAM`` the same in its two folders: ``features`` (N, F)
    float32 and ``coords`` (N, 2) int64, x and y of the top-left corner in level-0 px, with the
    attributes that those programs read. ``STAMP`` holds ``feats`` and ``coords`` in um. ``ANNDATA``
    has the vectors as ``X``, tiles as ``obs``, and their centres as ``obsm["spatial"]`` (level-0
    px) and ``obsm["spatial_um"]``.
    """
    if features.xy is None or features.passport is None:
        raise ValueError("features are written with their places and their passport")
    path = feature_file(out, features.slide_id, layout)
    content = features.passport.digest_of(features.features, features.xy)
    features = replace(features, passport=replace(features.passport, content=content))
    match layout:
        case Layout.H5:
            _write_h5(path, features)
        case Layout.CLAM:
            _write_tensor(_tensor_file(out, features.slide_id), features)
            _write_h5(path, features)
        case Layout.STAMP:
            _write_stamp(path, features)
        case Layout.ANNDATA:
            _write_anndata(path, features)
        case Layout.ZARR:
            _write_zarr(path, features)
    return path


def _tensor_file(out: Path, slide_id: str) -> Path:
    return out / "pt_files" / f"{slide_id}.pt"


def _arrays(
    features: SlideFeatures, folder: Path
) -> dict[str, tuple[NDArray[Any], dict[str, Any]]]:
    """Gather arrays and attributes as TRIDENT names them."""
    passport = features.passport
    assert passport is not None
    assert features.xy is not None
    about = {
        "name": features.slide_id,
        "savetodir": str(folder),
        "encoder": passport.identity,
        "encoder_name": passport.encoder,
        KEY: passport.to_json(),
    }
    tiles = {**features.tiles, "savetodir": str(folder)}
    return {"features": (features.features, about), "coords": (features.xy, tiles)}


@contextmanager
def _new_h5(path: Path) -> Iterator[h5py.File]:
    """Lend an HDF5 file that is sealed when it is complete."""
    with replace_atomically(path) as partial:
        try:
            with h5py.File(partial, "w", **LAYOUT) as file:
                yield file
        except RuntimeError as error:  # so HDF5 says that a disk is full
            reason = re.search(r"error message = '([^']*)'", str(error))
            raise FeaturesError(
                f"{path} cannot be written: {reason[1] if reason else error}; check free space and "
                f"rights of the folder"
            ) from error
        seal_h5(partial)


def _write_h5(path: Path, features: SlideFeatures) -> None:
    with _new_h5(path) as file:
        for name, (values, attributes) in _arrays(features, path.parent).items():
            file.create_dataset(name, data=values).attrs.update(attributes)


def _write_zarr(path: Path, features: SlideFeatures) -> None:
    with replace_folder(path) as partial:
        group = zarr.create_group(partial, zarr_format=3)
        for name, (values, attributes) in _arrays(features, path.parent).items():
            chunks = (CHUNK_ROWS, *values.shape[1:])
            array = group.create_array(
                name, shape=values.shape, chunks=chunks, dtype=values.dtype, attributes=attributes
            )
            array[...] = values


def _write_tensor(path: Path, features: SlideFeatures) -> None:
    """Write the tensor that CLAM trains on."""
    # torch is loaded where it is needed, so that other layouts do not wait for it
    from wsi_pipeline.predict.tensors import save_tensor

    with replace_atomically(path) as partial:
        save_tensor(partial, features.features)


def _write_stamp(path: Path, features: SlideFeatures) -> None:
    passport, xy = features.passport, features.xy
    assert passport is not None
    assert xy is not None
    tile_px = passport.transform["tile_px"]
    about = {
        "stamp_version": STAMP_VERSION,
        "extractor": passport.encoder,
        "unit": "um",
        "tile_size_um": tile_px * passport.mpp_read,
        "tile_size_px": tile_px,
        "code_hash": passport.identity[:8],
        "feat_type": "tile",
        KEY: passport.to_json(),
    }
    with _new_h5(path) as file:
        file.create_dataset("feats", data=features.features)
        file.create_dataset("coords", data=(xy * passport.slide["mpp"]).astype(np.float32))
        file.attrs.update(about)


def _write_anndata(path: Path, features: SlideFeatures) -> None:
    """Write what the export of predictions writes of its features, with their passport."""
    import_optional("anndata", "anndata")
    import pandas as pd  # comes with anndata

    passport, xy = features.passport, features.xy
    assert passport is not None
    assert xy is not None
    names = [f"{features.slide_id}_{x}_{y}" for x, y in xy.tolist()]
    tiles = pd.DataFrame(
        {
            "slide_id": categories([0] * len(xy), [features.slide_id]),
            "x": xy[:, 0],
            "y": xy[:, 1],
        },
        index=pd.Index(names, dtype=object),
    )
    data = gather_tiles(
        features.features,
        [f"feature_{index}" for index in range(features.features.shape[1])],
        tiles,
        xy + features.tiles["patch_size_level0"] / 2,
        passport.slide["mpp"],
    )
    data.uns[KEY] = passport.to_json()
    with replace_atomically(path) as partial:
        data.write_h5ad(partial, compression="gzip")
