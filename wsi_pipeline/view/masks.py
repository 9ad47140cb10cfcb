"""Tissue drawn in the page <-> GeoJSON per slide, in a folder that ``--tissue-mask`` takes.

A slide begins with the tissue of its store; a file is kept of those that were changed.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from wsi_pipeline.preprocess.drawn_tissue import DrawnTissue, read_drawn_tissue
from wsi_pipeline.results.export.tissue import write_outlines
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.view.labels import LabelFile

if TYPE_CHECKING:
    from wsi_pipeline.types import SlideInfo
    from wsi_pipeline.view.slides import Slides

MASKS_FOLDER = "masks"
FOUND_FOLDER = "tissue"
"""Outlines of the tissue as the stores have it, which drawing begins with."""


class Masks:
    """The tissue of a folder's slides, as a person has changed it.

    Parameters
    ----------
    slides : Slides
        The slides.
    """

    def __init__(self, slides: Slides) -> None:
        self._slides = slides
        self.folder = slides.folder.work / MASKS_FOLDER
        self._files: dict[tuple[str, str], LabelFile] = {}
        self._lock = Lock()

    def path(self, slide_id: str) -> Path:
        """Return the file of a slide's tissue; it need not exist."""
        self._slides.folder.record(slide_id)
        return self.folder / f"{slide_id}.geojson"

    def file(self, slide_id: str) -> LabelFile:
        """Return the tissue of a slide as areas that can be changed.

        Raises
        ------
        StoreError
            If the patches were not kept, and the mask with them.
        """
        store = self._slides.store(slide_id)
        key = (slide_id, store.config_hash)  # a store that was made anew has other tissue
        with self._lock:
            if key not in self._files:
                found = self._slides.folder.work / FOUND_FOLDER / f"{slide_id}.geojson"
                write_outlines(found, SlideResult(records=store))
                self._files[key] = LabelFile(self.path(slide_id), store.slide, found)
            return self._files[key]

    def forget(self, slide_id: str) -> None:
        """Go back to the tissue of the store."""
        self.path(slide_id).unlink(missing_ok=True)

    def drawn(self, slide_id: str, info: SlideInfo) -> DrawnTissue | None:
        """Return the tissue of a slide that was changed; None of any other."""
        path = self.path(slide_id)
        return read_drawn_tissue(path, info) if path.exists() else None

    def changed(self) -> bool:
        """Whether the tissue of a slide was changed."""
        return any(self.folder.glob("*.geojson"))
