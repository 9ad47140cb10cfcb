"""Tissue segmenters of other packages: found, used, checked, and part of a store's identity."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from wsi_pipeline.config import PipelineConfig, TissueConfig, load_config
from wsi_pipeline.errors import ConfigError, ModelOutputError
from wsi_pipeline.preprocess.given import recipe_of
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.registry import Registry
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.tissue import make_segmenter, segment_overview, segmenters
from wsi_pipeline.types import Area

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.known import KnownSlide

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"
DARK = load_config(
    overrides={"tissue": {"segmenter": "dark", "mask_mpp": 16.0}, "tile": {"min_tissue": 0.05}}
)


def example() -> str:
    """The module that the documentation shows."""
    section = DOCS.read_text(encoding="utf-8").split("## A tissue segmenter of your own")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    return str(code)


@pytest.fixture
def dark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the documented example as a package, under the name ``dark``."""
    about = tmp_path / "dark-0.1.dist-info"
    about.mkdir()
    (tmp_path / "dark_is_tissue.py").write_text(example(), encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dark\nVersion: 0.1\n")
    group = segmenters.SEGMENTERS.group
    line = "dark = dark_is_tissue:DarkIsTissue"
    (about / "entry_points.txt").write_text(f"[{group}]\n{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    afresh: Registry[segmenters.SegmenterMaker] = Registry(
        "tissue segmenter", group, {"classic": "wsi_pipeline.tissue.detect:ClassicSegmenter"}
    )
    monkeypatch.setattr(segmenters, "SEGMENTERS", afresh)


def test_the_documented_example_is_short() -> None:
    assert len(example().splitlines()) < 40


@pytest.mark.usefixtures("dark")
def test_an_installed_segmenter_makes_the_mask(known_slide: KnownSlide, tmp_path: Path) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")

    store = preprocess_slide(job, tmp_path / "p.zarr", DARK).store

    assert store.areas.shape == (64, 64)  # 2048 px of 0.5 um at 16 um/px
    dark = store.mask.tissue
    assert 0 < dark.mean() < known_slide.truth.mask.mean()
    assert len(store) > 0


@pytest.mark.usefixtures("dark")
def test_another_version_is_another_store(
    known_slide: KnownSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")
    first = recipe_of(job, DARK)
    monkeypatch.setattr(type(make_segmenter(DARK.tissue)), "version", "2")

    assert recipe_of(job, DARK) != first


def test_an_unknown_segmenter_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no tissue segmenter 'other'; choose one of classic"):
        make_segmenter(TissueConfig(segmenter="other"))


def test_the_classic_one_wants_the_resolution_of_the_mask() -> None:
    assert make_segmenter(PipelineConfig().tissue).mpp == 8.0


class Careless:
    """Gives whatever it was told to."""

    version = "1"
    mpp = 8.0

    def __init__(self, areas: NDArray[np.uint8]) -> None:
        self._areas = areas

    def segment(self, rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.uint8]:
        return self._areas


@pytest.mark.parametrize(
    ("areas", "complaint"),
    [
        (np.zeros((4, 5), dtype=np.uint8), r"shape \(4, 5\) uint8 .* must give \(5, 4\) uint8"),
        (np.zeros((5, 4), dtype=np.float32), r"shape \(5, 4\) float32"),
        (np.full((5, 4), 9, dtype=np.uint8), "the area 9; areas are 0 to 7"),
    ],
)
def test_areas_are_checked(areas: NDArray[np.uint8], complaint: str) -> None:
    rgb = np.zeros((5, 4, 3), dtype=np.uint8)
    with pytest.raises(ModelOutputError, match=f"Careless .*{complaint}"):
        segment_overview(Careless(areas), rgb, 8.0, (16.0, 16.0))
    assert segment_overview(
        Careless(np.full((5, 4), Area.TISSUE, dtype=np.uint8)), rgb, 8.0, (16.0, 16.0)
    ).tissue.all()
