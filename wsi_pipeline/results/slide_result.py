"""What is known and what was predicted of a slide -> all that pictures, numbers and exports share.

Each part is worked out once, when it is first asked for. Nothing is written here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wsi_pipeline.errors import ExportError
from wsi_pipeline.results.class_map import (
    ClassAreas,
    ClassMap,
    ClassRule,
    lay_class_map,
    measure_areas,
)
from wsi_pipeline.results.heatmap import paint_heatmap
from wsi_pipeline.tissue.cores import name_cores
from wsi_pipeline.tissue.pieces import Pieces, find_pieces

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import Heatmap, Predictions, SlideRecords


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """A slide and, where a model was used, what it found.

    Attributes
    ----------
    records : SlideRecords
        What is known of the slide and its tiles.
    found : Predictions or None
        What a model found; None before prediction.
    rule : ClassRule
        How probabilities become classes.
    features : Path or None
        File with a feature vector per tile.
    """

    records: SlideRecords
    found: Predictions | None = None
    rule: ClassRule = field(default_factory=ClassRule)
    features: Path | None = None

    @property
    def slide_id(self) -> str:
        """Name of the slide."""
        return self.records.slide.slide_id

    @property
    def mpp(self) -> float:
        """Resolution at level 0, um/px."""
        return self.records.slide.mpp

    @property
    def predictions(self) -> Predictions:
        """What the model found.

        Raises
        ------
        ExportError
            If no model was used.
        """
        if self.found is None:
            raise ExportError(
                f"{self.slide_id} has no predictions; make them with 'wsi-pipeline predict'"
            )
        return self.found

    @property
    def store(self) -> PatchStore:
        """The patch store.

        Raises
        ------
        ExportError
            If the patches were not kept.
        """
        # zarr is loaded with it, which most exports do without
        from wsi_pipeline.store import PatchStore

        if not isinstance(self.records, PatchStore):
            raise ExportError(
                f"the patches of {self.slide_id} were not kept; run without --no-store"
            )
        return self.records

    @cached_property
    def pieces(self) -> Pieces:
        """The pieces of tissue."""
        return find_pieces(self.records.mask, self.mpp)

    @cached_property
    def cores(self) -> tuple[str, ...]:
        """Name of each piece in the grid of a tissue microarray; empty where it is no core."""
        return name_cores(self.pieces, self.mpp)

    @cached_property
    def heatmap(self) -> Heatmap:
        """Probabilities on cells."""
        return paint_heatmap(self.predictions)

    @cached_property
    def class_map(self) -> ClassMap:
        """The class of each place of the tissue."""
        return lay_class_map(self.heatmap, self.pieces, self.mpp, self.rule)

    @cached_property
    def areas(self) -> list[ClassAreas]:
        """Square millimetres, of the slide and then of each piece."""
        return measure_areas(self.class_map, self.mpp)

    @property
    def class_shares(self) -> dict[str, float]:
        """Share of each class in the tissue that has a class; empty where none has."""
        mm2 = self.areas[0].class_mm2
        total = sum(mm2.values())
        return {name: area / total for name, area in mm2.items()} if total else {}

    @cached_property
    def tile_pieces(self) -> NDArray[np.int32]:
        """Piece that each tile belongs to, shape (N,)."""
        if self.found is not None and self.found.piece is not None:
            return self.found.piece
        return self.pieces.nearest(self.records.xy + self.records.extent / 2)

    def provenance(self) -> dict[str, Any]:
        """Say where the results are from, as plain values."""
        slide, stain = self.records.slide, self.records.stain
        about: dict[str, Any] = {
            "slide_id": self.slide_id,
            "slide_mpp": slide.mpp,
            "mpp_source": str(slide.mpp_source),
            "slide_size": list(slide.size_wh),
            "patch_mpp": self.records.mpp,
            "patch_px": self.records.patch_px,
            "stain_verdict": str(stain.verdict),
            "stain_reasons": list(stain.reasons),
        }
        if self.found is not None:
            about["class_names"] = list(self.found.class_names)
            about["class_colors"] = list(self.found.class_colors)
            if self.found.origin is not None:
                about |= self.found.origin.to_dict()
        return about
