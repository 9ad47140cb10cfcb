"""Names that people give -> open patch stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_pipeline.errors import StoreNotFoundError
from wsi_pipeline.slide.inputs import SLIDE_SUFFIXES
from wsi_pipeline.store.reading import PatchStore

STORE_NAME = "patches.zarr"
"""Name of a slide's patch store in the folder of its results."""


RECORDS_NAME = "slide.zarr"
"""Name of what is known of a slide whose patches were not kept, in the same folder."""


def find_stores(paths: Sequence[Path]) -> list[PatchStore]:
    """Open patch stores, given themselves or by a folder of results; see :func:`name_stores`."""
    return [PatchStore.open(store) for store in name_stores(paths)]


def name_stores(paths: Sequence[Path]) -> list[Path]:
    """Find patch stores, given themselves or by a folder of results; none is opened.

    Parameters
    ----------
    paths : sequence of Path
        Stores, or folders with stores below them.

    Returns
    -------
    list of Path
        Stores, sorted within each folder.

    Raises
    ------
    StoreNotFoundError
        If a folder holds none.
    """
    found: list[Path] = []
    for path in paths:
        below = [path] if (path / "zarr.json").exists() else sorted(path.rglob(STORE_NAME))
        if not below:
            raise StoreNotFoundError(f"there is no {STORE_NAME} in {path}; {_advice(path)}")
        found.extend(below)
    return found


def _advice(path: Path) -> str:
    """Say how to come by a store; of slides, how to do the whole job at once."""
    files = [path] if path.is_file() else path.rglob("*")
    if any(file.suffix.lower() in SLIDE_SUFFIXES for file in files):
        return (
            f"there are slides: 'wsi-pipeline run {path} --out results' makes stores and predicts "
            f"in one step, 'wsi-pipeline preprocess {path} --out results' makes stores alone"
        )
    return "make one with 'wsi-pipeline preprocess'"
