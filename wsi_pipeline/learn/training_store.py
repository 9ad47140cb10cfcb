"""Labelled tiles of a slide -> a patch store that ``wsi-pipeline train`` learns from.

The store holds every kept tile of the slide, in RGB too; those without a label are for methods
that learn from unlabelled patches. Its groups are regions, so that no split takes neighbours apart.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from wsi_pipeline.config import StoreConfig
from wsi_pipeline.preprocess.extraction import Extraction, TileReader
from wsi_pipeline.store import PatchStore, StoreHeader, StoreWriter
from wsi_pipeline.types import NoProgress, Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsi_pipeline.learn.strokes import LabelledTiles
    from wsi_pipeline.slide.open import Slide

UNLABELLED = "unlabelled"


def write_training_store(
    path: Path,
    store: PatchStore,
    slide: Slide,
    tiles: LabelledTiles,
    classes: Sequence[str],
    progress: Progress | None = None,
) -> PatchStore:
    """Write the tiles of a slide with their labels.

    Parameters
    ----------
    path : Path
        Store to write, ending in ``.zarr``; another one of this name is replaced.
    store : PatchStore
        Which tiles the slide has, and how they are stained.
    slide : Slide
        The slide, open.
    tiles : LabelledTiles
        Labels and regions.
    classes : sequence of str
        Names of the labels.
    progress : Progress or None
        Told of every patch.

    Returns
    -------
    PatchStore
        Complete, with RGB, labels and groups: ``<slide_id> region <n>``, and one group for the
        tiles without a label.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    label = np.full(len(store), -1, dtype=np.int16)
    label[tiles.tile] = tiles.label
    slide_id = store.slide.slide_id
    group = np.full(len(store), f"{slide_id} {UNLABELLED}", dtype=object)
    group[tiles.tile] = [f"{slide_id} region {number}" for number in tiles.region]
    config = StoreConfig(keep_rgb=True)
    header = StoreHeader(
        slide=store.slide,
        grid=store.grid,
        stain=store.stain,
        mask=store.mask,
        thumbnail=store.thumbnail,
        config={**store.config, "strokes": [tiles.tile.tolist(), tiles.label.tolist()]},
        fingerprint=store.fingerprint,
        label=label,
        label_names=tuple(classes),
        group=tuple(group.tolist()),
    )
    writer = StoreWriter.create_or_resume(path, header, config, overwrite=True)
    with ThreadPoolExecutor(1) as pool:
        Extraction(TileReader(slide), header, config).fill(writer, pool, progress or NoProgress())
    return writer.seal()
