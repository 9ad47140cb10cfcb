"""Settings that are tried in the page -> the mask and tiles they would give, and TOML to keep.

Results stay as they are: the settings are for the next run, by ``--config``.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from wsi_pipeline.config import PipelineConfig, dump_config, load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.files import replace_atomically
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tissue import make_segmenter, segment_overview
from wsi_pipeline.tissue.pieces import find_pieces, measure_tissue
from wsi_pipeline.view.maps import describe_grid
from wsi_pipeline.view.pixels import encode_png

if TYPE_CHECKING:
    import numpy as np

    from wsi_pipeline.view.masks import Masks
    from wsi_pipeline.view.slides import Slides

TUNED_NAME = "tuned.toml"

OVERVIEWS_KEPT = 2
"""Overviews held in memory, of which a slide of 100,000 px has 30 MB."""

RANGES: dict[str, dict[str, tuple[float, float, float] | None]] = {
    "tissue": {
        "min_tissue_um2": (0, 400_000, 5_000),
        "max_hole_um2": (0, 400_000, 5_000),
        "reject_pen": None,
        "reject_edges": None,
    },
    "tile": {"min_tissue": (0, 1, 0.05), "max_pen": (0, 1, 0.01)},
    "results": {"threshold": (0, 1, 0.01)},
}
"""Options that the page offers, by stage: least, greatest and step; None is yes or no."""

Values = dict[str, dict[str, Any]]


class Tuner:
    """Tries settings on slides.

    Parameters
    ----------
    slides : Slides
        The slides.
    masks : Masks
        Tissue that was drawn.
    """

    def __init__(self, slides: Slides, masks: Masks) -> None:
        self._slides = slides
        self._masks = masks
        self._overview = lru_cache(OVERVIEWS_KEPT)(self._read_overview)

    @property
    def path(self) -> Path:
        """The TOML that is kept."""
        return self._slides.folder.work / TUNED_NAME

    def settings(self) -> list[dict[str, Any]]:
        """Return the options that can be tried, with their help, range and value."""
        config = self._current()
        found = []
        for stage, keys in RANGES.items():
            part = getattr(config, stage)
            for key, limits in keys.items():
                found.append(
                    {
                        "stage": stage,
                        "key": key,
                        "help": type(part).model_fields[key].description,
                        "range": limits,
                        "value": getattr(part, key),
                    }
                )
        return found

    def preview(self, slide_id: str, values: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
        """Return the mask and the tiles that settings would give.

        Raises
        ------
        ConfigError
            If a value is out of range, or no option that can be tried.
        """
        config = self._with(values)
        rgb, downsample = self._overview(slide_id, config.tissue.segmenter, config.tissue.mask_mpp)
        with self._slides.open(slide_id) as slide:
            info = slide.info
        segmenter = make_segmenter(config.tissue)
        mask = segment_overview(segmenter, rgb, max(segmenter.mpp, info.mpp), downsample)
        drawn = self._masks.drawn(slide_id, info)
        if drawn is not None:
            mask = drawn.replace_in(mask)
        grid = lay_grid(info, mask, config.tile)
        return {
            "grid": describe_grid(grid),
            "reasons": base64.b64encode(grid.reasons.tobytes()).decode(),
            "funnel": grid.funnel(),
            "mask": base64.b64encode(encode_png(mask.areas)).decode(),
            "tissue_mm2": measure_tissue(mask, info.mpp),
            "pieces": find_pieces(mask, info.mpp).count,
        }

    def keep(self, values: Any) -> Path:  # noqa: ANN401 -- JSON
        """Write the settings as TOML for ``--config``.

        Raises
        ------
        ConfigError
            As :meth:`preview`.
        """
        config = self._with(values)
        with replace_atomically(self.path) as partial:
            partial.write_text(dump_config(config), encoding="utf-8")
        return self.path

    def forget(self) -> None:
        """Go back to the settings of the run."""
        self.path.unlink(missing_ok=True)

    def options(self) -> list[str]:
        """Return what gives the next run all that was tuned and drawn."""
        tuned = ["--config", str(self.path)] if self.path.exists() else []
        drawn = ["--tissue-mask", str(self._masks.folder)] if self._masks.changed() else []
        return tuned + drawn

    def _current(self) -> PipelineConfig:
        """Return what was kept, or the configuration of the run."""
        run = self._slides.folder.config()
        return load_config(self.path) if self.path.exists() else run

    def _with(self, values: Any) -> PipelineConfig:  # noqa: ANN401 -- JSON
        """Put values of the page into the configuration of the run."""
        if not isinstance(values, dict):
            raise ConfigError("settings are tables of options by stage")
        for stage, keys in values.items():
            known = RANGES.get(stage, {})
            unknown = [key for key in keys if key not in known] if isinstance(keys, dict) else [""]
            if unknown:
                raise ConfigError(f"{stage}.{unknown[0]} cannot be tried in the page")
        base = self._slides.folder.config().model_dump(mode="json")
        return load_config(overrides=values, base=base)

    def _read_overview(
        self, slide_id: str, segmenter: str, mask_mpp: float
    ) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        config = self._slides.folder.config().tissue
        chosen = config.model_copy(update={"segmenter": segmenter, "mask_mpp": mask_mpp})
        with self._slides.open(slide_id) as slide:
            return slide.overview(make_segmenter(chosen).mpp)
