"""Labelled images -> a patch store, as if they had been cut from a slide.

Every training run then reads one format. The images are laid out as the tiles of a contact sheet,
so that places, thumbnail and mask mean what they mean for a slide; no tissue is searched for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import HeValues, PipelineConfig, config_hash
from wsi_pipeline.errors import IngestError, StainEstimationError, StoreExistsError
from wsi_pipeline.labelled import LabelledImage, decode_image
from wsi_pipeline.stain import encode_he, encode_he_float16, estimate_stain_matrix
from wsi_pipeline.store import PatchStore, Shard, StoreHeader, StoreWriter, has_store
from wsi_pipeline.types import (
    Area,
    MppSource,
    NoProgress,
    Progress,
    SlideInfo,
    StainEstimate,
    StainVerdict,
    TileGrid,
    TileReason,
    TissueMask,
)

THUMBNAIL_PX = 1024
"""Longer side of the contact sheet, px, where its cells are not a single pixel already."""

WHITE = 250
"""Pixels with no channel below this hold neither tissue nor glass as a scanner sees it: they are
the frame that a region of interest was pasted on. They take no part in stain estimates."""


class Fit(StrEnum):
    """What is done with images that are not of the size of the patches."""

    EXACT = "exact"
    CROP = "crop"
    RESIZE = "resize"


class StainScope(StrEnum):
    """Which images share a stain matrix."""

    GROUP = "group"
    POOLED = "pooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """How images become patches.

    Attributes
    ----------
    mpp : float
        Resolution of the images, um/px.
    patch_px : int or None
        Side of the patches, px; the shorter side of the first image if None.
    fit : Fit
        ``EXACT`` refuses images of another size; ``CROP`` cuts the middle out of them; ``RESIZE``
        cuts the middle square and resamples it, which changes the resolution, so that all images
        must be of one size.
    stain : StainScope
        ``GROUP``: each group has its own stain matrix where it can be trusted, since a group is
        a patient or slide; ``POOLED``: one matrix for all.
    min_group_images : int
        Groups with fewer images share the pooled matrix: a field or two show the stains of what
        is in them (fat, necrosis), not those of a slide.
    """

    mpp: float
    patch_px: int | None = None
    fit: Fit = Fit.EXACT
    stain: StainScope = StainScope.GROUP
    min_group_images: int = 8

    def plain(self, patch_px: int) -> dict[str, Any]:
        """Return what decides the content of the store, as plain values."""
        return {
            "mpp": self.mpp,
            "patch_px": patch_px,
            "fit": self.fit.value,
            "stain": self.stain.value,
            "min_group_images": self.min_group_images,
        }


def ingest_images(
    images: Sequence[LabelledImage],
    path: Path,
    options: IngestOptions,
    config: PipelineConfig,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PatchStore:
    """Turn labelled images into a patch store with RGB, H/E, label and group.

    Parameters
    ----------
    images : sequence of LabelledImage
        The images; at least one.
    path : Path
        Name of the store, ending in ``.zarr``. A complete store that was made of these very
        images with these options is returned as it is.
    options : IngestOptions
        How images become patches.
    config : PipelineConfig
        Its ``stain`` and ``store`` parts apply; RGB is always kept.
    overwrite : bool
        Replace a store that was made of other images or with other options.
    progress : Progress or None
        Told of every image, first when it is surveyed and then when it is stored.

    Returns
    -------
    PatchStore
        The store. ``tissue_fraction`` is the share of a patch that is not white;
        ``patch_stains`` has the matrix of every patch.

    Raises
    ------
    IngestError
        If an image cannot be decoded or is of another size than ``options`` allow.
    StainEstimationError
        If the images are not H&E.
    StoreExistsError
        If another store has this name and ``overwrite`` is off.
    """
    progress = progress or NoProgress()
    prepare = _Preparation.of(images[0], options)
    with ThreadPoolExecutor() as pool:
        header = _survey(images, path, prepare, config, (pool, progress))
        if _is_finished(path, header, overwrite=overwrite):
            return PatchStore.open(path)
        store = config.store.model_copy(update={"keep_rgb": True})
        writer = StoreWriter.create_or_resume(path, header, store, overwrite=overwrite)
        half = store.he_values is HeValues.FLOAT16
        progress.start(f"{header.slide.slide_id}: patches", len(images))
        for index in writer.pending():
            _write(writer, writer.shards[index], (images, prepare, header), pool, half=half)
            progress.advance(writer.shards[index].stop - writer.shards[index].start)
    return writer.seal()
