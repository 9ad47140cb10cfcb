"""Folders of results -> the slides in them, with what each model found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_pipeline.errors import ExportError
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.results.views import PREDICTIONS_NAME
from wsi_pipeline.store import PatchStore, StoreRecords
from wsi_pipeline.store.features import find_features
from wsi_pipeline.store.find import RECORDS_NAME, STORE_NAME

if TYPE_CHECKING:
    from wsi_pipeline.results.class_map import ClassRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What lies on disk of a slide and, if it was predicted, of a model.

    Attributes
    ----------
    folder : Path
        Folder of the slide.
    predictions : Path or None
        Table of predictions.
    """

    folder: Path
    predictions: Path | None

    @property
    def store(self) -> Path:
        """The patch store."""
        return self.folder / STORE_NAME

    def open(self, rule: ClassRule, features: dict[str, Path] | None = None) -> SlideResult:
        """Read it.

        Parameters
        ----------
        rule : ClassRule
            How probabilities become classes.
        features : dict of str to Path or None
            Files of features by slide, as :func:`~wsi_pipeline.store.features.find_features` gives
            them.

        Raises
        ------
        ExportError
            If nothing is on disk of the slide itself, or features are given, but not of this slide.
        WsiPipelineError
            If store or table are damaged.
        """
        store = self._records()
        slide_id = store.slide.slide_id
        if features is not None and slide_id not in features:
            raise ExportError(f"there are no features of {slide_id} in the folder given")
        return SlideResult(
            records=store,
            found=None if self.predictions is None else read_predictions(self.predictions),
            rule=rule,
            features=None if features is None else features[slide_id],
        )

    def _records(self) -> StoreRecords:
        """Open the patch store, or what is known of a slide whose patches were not kept."""
        if self.store.exists():
            return PatchStore.open(self.store)
        if not (self.folder / RECORDS_NAME).exists():
            raise ExportError(
                f"{self.folder} has neither {STORE_NAME} nor {RECORDS_NAME}, which hold the tissue "
                "of the slide; run again"
            )
        return StoreRecords.open(self.folder / RECORDS_NAME)


def find_finished(
    paths: Sequence[Path], model: str | None = None, *, predicted: bool = False
) -> list[Finished]:
    """Find slides and their predictions.

    Parameters
    ----------
    paths : sequence of Path
        Folders of results, of slides or of models, patch stores or tables of predictions.
    model : str or None
        Only what this model found; every model's if None.
    predicted : bool
        Whether slides that were not predicted are left out.

    Returns
    -------
    list of Finished
        One per slide and model, sorted within each path; one per slide that was not predicted,
        unless a model is named.

    Raises
    ------
    ExportError
        If a path holds none.
    """
    found: dict[tuple[Path, Path | None], Finished] = {}
    for path in paths:
        below = _below(path, model)
        if not below:
            of_model = "" if model is None else f" by model {model!r}"
            raise ExportError(
                f"{path} holds no results{of_model}; make them with 'wsi-pipeline run' or, of "
                "patch stores, 'wsi-pipeline predict'"
            )
        if predicted:
            below = [item for item in below if item.predictions is not None]
        if not below:
            raise ExportError(
                f"the slides in {path} have no predictions; make them with 'wsi-pipeline predict "
                f"{path}'"
            )
        found |= {(item.folder, item.predictions): item for item in below}
    return list(found.values())


def _below(path: Path, model: str | None) -> list[Finished]:
    if path.is_file():
        return [Finished(folder=path.absolute().parent.parent, predictions=path)]
    if path.name in (STORE_NAME, RECORDS_NAME):
        path = path.parent
    tables, stores = _search(path)
    found = [
        Finished(folder=table.parent.parent, predictions=table)
        for table in tables
        if model is None or table.parent.name == model
    ]
    predicted = {item.folder for item in found}
    if model is None:
        found += [Finished(folder=f, predictions=None) for f in stores if f not in predicted]
    return sorted(found, key=lambda item: (item.folder, item.predictions or item.folder))


def _search(folder: Path) -> tuple[list[Path], list[Path]]:
    """Find tables of predictions and folders of slides; stores themselves are not entered."""
    tables, stores = [], []
    for place, folders, files in os.walk(folder):
        if PREDICTIONS_NAME in files:
            tables.append(Path(place, PREDICTIONS_NAME))
        if STORE_NAME in folders or RECORDS_NAME in folders:
            stores.append(Path(place))
        folders[:] = [name for name in folders if not name.endswith((".zarr", ".partial"))]
    return tables, stores


def find_slide_features(folder: Path | None) -> dict[str, Path] | None:
    """Return the files of features in a folder by slide; None where no folder is given."""
    return None if folder is None else find_features([folder])
