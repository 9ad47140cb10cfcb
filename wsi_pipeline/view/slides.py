"""A results folder -> everything the page shows of its slides, as plain values.

Opens stores and label files when they are asked for, and holds a bounded number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsi_pipeline.errors import StoreError, WsiPipelineError
from wsi_pipeline.results.export.parquet import write_predictions
from wsi_pipeline.results.views import write_views
from wsi_pipeline.run.outcome import SlideOutcome, Status
from wsi_pipeline.slide.inputs import ANNOTATION_SUFFIXES
from wsi_pipeline.slide.open import Slide, open_slide
from wsi_pipeline.store.find import STORE_NAME
from wsi_pipeline.view.folder import (
    LEARNED,
    PREDICTIONS_NAME,
    NotInResults,
    ResultsFolder,
    is_plain,
)
from wsi_pipeline.view.labels import LabelFile
from wsi_pipeline.view.maps import describe_grid
from wsi_pipeline.view.pixels import OpenSlides, TileServer, encode_jpeg, last_level

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from wsi_pipeline.annotations import Annotation
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import Predictions, StainMatrix

OpenSlide = Callable[..., Slide]

STORES_KEPT = 16
"""Patch stores held open: a few megabytes each, mostly masks and thumbnails."""

LIST_THUMBNAIL_PX = 160
"""Longer side of the thumbnails in the list of slides, px."""


class Slides:
    """The slides of a results folder.

    Parameters
    ----------
    folder : ResultsFolder
        The folder.
    open_one : callable
        Opens the file of a slide, as :func:`~wsi_pipeline.slide.open.open_slide` does, the default;
        :class:`~wsi_pipeline.run.apart.SlidesApart` survives what decoders do.
    """

    def __init__(self, folder: ResultsFolder, open_one: OpenSlide = open_slide) -> None:
        self.folder = folder
        self._open_one = open_one
        self.opened = OpenSlides(self._open)
        self.tiles = TileServer(self.opened, self._stains)
        self._store = lru_cache(STORES_KEPT)(self._open_store)
        self._label_files: dict[tuple[str, str], LabelFile] = {}

    def slide_ids(self) -> Sequence[str]:
        """Name the slides that have patch stores."""
        return [
            outcome.slide_id
            for outcome in self.folder.records().values()
            if outcome.status is Status.DONE
            and is_plain(outcome.slide_id)
            and self.folder.has_store(outcome.slide_id)
        ]

    def store(self, slide_id: str) -> PatchStore:
        """Open the patch store of a slide, or return it if it is open.

        Raises
        ------
        StoreError
            If the patches were not kept.
        """
        if not self.folder.has_store(slide_id):
            raise StoreError(
                f"slide {slide_id} has no patch store, which labels and tiles need; make one with "
                "'wsi-pipeline preprocess', or run without --no-store"
            )
        header = self.folder.folder(slide_id) / STORE_NAME / "zarr.json"
        changed = header.stat().st_mtime_ns if header.exists() else 0  # opening says what is wrong
        return self._store(slide_id, changed)

    def _open_store(self, slide_id: str, changed: int) -> PatchStore:
        del changed  # part of the key: a store that was made anew is another
        return self.folder.store(slide_id)

    def open(self, slide_id: str) -> AbstractContextManager[Slide]:
        """Lend a slide, open."""
        return self.opened.lend(slide_id)

    def areas(self, slide_id: str) -> Sequence[Annotation]:
        """Return what was drawn on a slide."""
        return self.labels(slide_id).areas()

    def has_labels(self, slide_id: str) -> bool:
        """Whether there is a file of labels, without opening the slide."""
        path = self.folder.labels_path(slide_id)
        return path.exists() or _given(path) is not None

    def labels(self, slide_id: str) -> LabelFile:
        """Return the file of a slide's labels; one per slide, so that changes wait in line."""
        path = self.folder.labels_path(slide_id)
        return self._label_file(slide_id, path, _given(path))

    def _label_file(self, slide_id: str, path: Path, given: Path | None) -> LabelFile:
        key = (slide_id, path.name)
        if key not in self._label_files:
            with self.open(slide_id) as slide:
                self._label_files.setdefault(key, LabelFile(path, slide.info, given))
        return self._label_files[key]

    def first(self, wanted: str) -> str | None:
        """Name the slide that the page begins with: the one wanted, else the first of the run.

        None if every slide failed.
        """
        records = self.folder.records()
        if wanted in records and is_plain(wanted):
            return wanted
        shown = (o.slide_id for o in records.values() if o.status is not Status.FAILED)
        return next(filter(is_plain, shown), None)

    def warm_up(self) -> None:
        """Read the first tile of the first slide, so that who opens it does not wait for decoders.

        What is wrong with a slide is told to whoever opens it.
        """
        first = self.first("")
        if first is not None:
            with suppress(WsiPipelineError, NotInResults):
                self.describe(first)
                self.tiles.tile(first, "rgb", 0, 0, 0)

    def close(self) -> None:
        """Close the slides."""
        self.opened.close()

    def summary(self, outcome: SlideOutcome) -> dict[str, Any]:
        """Return what the list shows of a slide."""
        return {
            "id": outcome.slide_id,
            "status": outcome.status,
            "error": outcome.error,
            "tiles": outcome.funnel.get("kept", 0),
            "tissue_mm2": outcome.tissue_mm2,
            "shares": outcome.class_shares,
            "colors": outcome.class_colors,
            "mm2": {
                name: share * outcome.classified_mm2 for name, share in outcome.class_shares.items()
            },
            "flags": _flags(outcome),
        }

    def describe(self, slide_id: str) -> dict[str, Any]:
        """Return what the page needs to show a slide.

        Raises
        ------
        NotInResults
            If there is none.
        SlideError
            If it cannot be opened.
        """
        outcome = self.folder.record(slide_id)
        with self.open(slide_id) as slide:
            info = slide.info
        has_store = self.folder.has_store(slide_id)
        store = self.store(slide_id) if has_store else None
        return {
            **self.summary(outcome),
            "path": str(self.folder.slide_path(slide_id)),
            "size_wh": info.size_wh,
            "mpp": info.mpp,
            "mpp_source": info.mpp_source,
            "last_level": last_level(info),
            "version": "" if store is None else store.fingerprint[:12],
            "funnel": outcome.funnel,
            "stain": outcome.stain.get("verdict", ""),
            "maps": [
                {"name": file.name, "kind": file.kind}
                for file in self.folder.maps(slide_id).values()
            ],
            "grid": None if store is None else describe_grid(store.grid),
            "mask_downsample": None if store is None else store.mask.downsample,
            "labels_file": str(self.folder.labels_path(slide_id)),
        }

    def thumbnail(self, slide_id: str) -> bytes:
        """Return a small picture of a slide as JPEG."""
        if self.folder.has_store(slide_id):
            rgb = self.store(slide_id).thumbnail
        else:
            with self.open(slide_id) as slide:
                mpp = slide.info.mpp * max(1.0, max(slide.info.size_wh) / LIST_THUMBNAIL_PX)
                rgb = slide.overview(mpp, oversampling=1)[0]
        return encode_jpeg(_shrink(rgb))

    def tile_picture(self, slide_id: str, index: int) -> bytes:
        """Return the pixels of one kept tile, as its patch has them, as JPEG."""
        grid = self.store(slide_id).grid
        x, y = grid.level_xy[index].tolist()
        with self.open(slide_id) as slide:
            return encode_jpeg(slide.read_patch(grid.level, (x, y), grid.read_px, grid.patch_px))

    def _open(self, slide_id: str) -> Slide:
        config = self.folder.config().read
        record = self.folder.record(slide_id)
        table = record.slide.get("mpp") if record.slide.get("mpp_source") == "table" else None
        return self._open_one(self.folder.slide_path(slide_id), config, table, slide_id=slide_id)

    def _stains(self, slide_id: str) -> StainMatrix:
        return self.store(slide_id).stain.matrix


def _given(path: Path) -> Path | None:
    """Find annotations of another format beside where labels are kept."""
    others = (path.with_suffix(suffix) for suffix in ANNOTATION_SUFFIXES)
    return next((file for file in others if file != path and file.is_file()), None)


def _flags(outcome: SlideOutcome) -> list[str]:
    """Say what a person should look at before trusting a slide."""
    flags = [str(reason) for reason in outcome.stain.get("reasons", ())]
    if outcome.slide.get("mpp_source") == "objective":
        flags.append("resolution estimated from the objective")
    return flags


def _shrink(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width, _ = rgb.shape
    scale = min(1.0, LIST_THUMBNAIL_PX / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def write_map(slides: Slides, slide_id: str, predictions: Predictions) -> dict[str, Path]:
    """Write what was learnt of a slide as every model's folder has it.

    Returns
    -------
    dict of str to Path
        Parquet, GeoJSON and heatmap, by kind.
    """
    folder = slides.folder.folder(slide_id) / LEARNED
    table = folder / PREDICTIONS_NAME
    write_predictions(table, predictions)
    return {"predictions": table, **write_views(folder, slides.store(slide_id), predictions)}
