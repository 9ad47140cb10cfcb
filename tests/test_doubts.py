"""Slides that are refused, or done with a word of doubt: scale, stain, ink and lost tissue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.drawn_slides import GLASS_RGB, SIZE, disc, glass, on_glass, tissue
from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import StainEstimationError, UnsupportedSlideError
from wsi_pipeline.preprocess.doubts import find_doubts
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.geometry import contradicts_objective
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.tissue import find_miscoding
from wsi_pipeline.types import MppSource, SlideInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.store import PatchStore

MPP = 8.0


def config(**stages: dict[str, Any]) -> PipelineConfig:
    """Patches of 32 px at the resolution of the drawn slides."""
    tile = {"mpp": MPP, "patch_size": 32, **stages.pop("tile", {})}
    return load_config(overrides={"tile": tile, "read": {"slide_mpp": MPP}, **stages})


def prepared(
    picture: NDArray[np.uint8], folder: Path, options: PipelineConfig | None = None
) -> PatchStore:
    path = folder / "drawn.png"
    if not path.exists():
        cv2.imwrite(str(path), picture[..., ::-1])
    job = SlideJob(path=path, slide_id="drawn")
    return preprocess_slide(job, folder / "p.zarr", options or config()).store


def brown() -> NDArray[np.uint8]:
    """Brown nuclei between blue ones, as in IHC."""
    blue, brown = np.array([0.65, 0.70, 0.29]), np.array([0.27, 0.57, 0.78])
    amount = np.random.default_rng(2).uniform(0.1, 0.9, (2, SIZE // 4, SIZE // 4))
    amount = amount.repeat(4, axis=1).repeat(4, axis=2)
    density = 0.4 * amount[0, ..., None] * blue + amount[1, ..., None] * brown
    picture = glass()
    picture[disc(130)] = np.rint(np.array(GLASS_RGB) * 10**-density)[disc(130)]
    return picture


def test_a_plain_slide_is_not_doubted(tmp_path: Path) -> None:
    assert find_doubts(prepared(on_glass(disc(120)), tmp_path)) == ()


def test_slides_coarser_than_the_patches_are_refused_unless_allowed(tmp_path: Path) -> None:
    finer = {"mpp": 2.0, "patch_size": 32}
    with pytest.raises(UnsupportedSlideError, match=r"8 um/px \(flag\), coarser .* of 2 um/px"):
        prepared(on_glass(disc(120)), tmp_path, config(tile=finer))

    store = prepared(
        on_glass(disc(120)), tmp_path, config(tile={**finer, "allow_upsampling": True})
    )

    (doubt,) = find_doubts(store)
    assert "enlarged 4 times from a slide of 8 um/px" in doubt
    assert len(prepared(on_glass(disc(120)), tmp_path, config(tile=finer))) == len(store), (
        "a permission does not decide what is in a store"
    )


def test_scanners_that_differ_a_little_are_not_upsampled(tmp_path: Path) -> None:
    store = prepared(on_glass(disc(120)), tmp_path, config(tile={"mpp": 7.5}))
    assert find_doubts(store) == ()


@pytest.mark.parametrize(
    ("mpp", "power", "contradicts"),
    [(2.5, 40.0, True), (0.25, 40.0, False), (0.5, 40.0, True), (0.46, 20.0, False)],
)
def test_mpp_is_held_against_the_objective(mpp: float, power: float, *, contradicts: bool) -> None:
    info = SlideInfo(
        slide_id="s",
        size_wh=(10, 10),
        mpp=mpp,
        mpp_source=MppSource.VENDOR,
        level_sizes_wh=((10, 10),),
        level_downsamples=(1.0,),
        reader="none",
        vendor="none",
        objective_power=power,
    )
    found = contradicts_objective(info)
    assert (found is not None) is contradicts
    assert contradicts_objective(replace(info, objective_power=None)) is None


def test_brown_stains_are_doubted_and_refused_if_asked(tmp_path: Path) -> None:
    store = prepared(brown(), tmp_path)

    assert store.stain.is_brown
    assert any("this is IHC, not H&E" in doubt for doubt in find_doubts(store))
    strict = config(stain={"strict_stain": True})
    with pytest.raises(StainEstimationError, match=r"this is not H&E: .* brown like DAB"):
        prepared(brown(), tmp_path, strict)  # the store that is there is not reused either
    (tmp_path / "other").mkdir()
    with pytest.raises(StainEstimationError, match="run without --strict-stain"):
        prepared(brown(), tmp_path / "other", strict)


def test_a_slide_that_is_all_pen_is_refused(tmp_path: Path) -> None:
    rgb = cv2.cvtColor(on_glass(disc(120)), cv2.COLOR_RGB2YCrCb)  # read as if it were RGB
    with pytest.raises(UnsupportedSlideError, match=r"\d+% of drawn would be pen"):
        prepared(np.asarray(rgb, dtype=np.uint8), tmp_path)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (cv2.COLOR_RGB2YCrCb, "holds YCbCr values that its file declares to be RGB"),
        (cv2.COLOR_YCrCb2RGB, "holds RGB values that its file declares to be YCbCr"),
    ],
)
def test_samples_that_are_not_the_colours_declared_are_named(
    tmp_path: Path, code: int, said: str
) -> None:
    order = [0, 2, 1]
    picture = on_glass(disc(120))
    if code == cv2.COLOR_RGB2YCrCb:
        wrong = cv2.cvtColor(picture, code)[..., order]
    else:
        wrong = cv2.cvtColor(np.ascontiguousarray(picture[..., order]), code)
    with pytest.raises(UnsupportedSlideError, match=said):
        prepared(np.asarray(wrong, dtype=np.uint8), tmp_path)


@pytest.mark.parametrize("picture", [tissue(depth=2.0), brown(), glass()])
def test_colours_of_glass_and_stain_are_believed(picture: NDArray[np.uint8]) -> None:
    assert not find_miscoding(picture)


def test_more_ink_than_tissue_is_doubted(tmp_path: Path) -> None:
    picture = on_glass(disc(60))
    stroke = np.zeros((SIZE, SIZE), dtype=np.bool_)
    stroke[30:80, 20:280] = stroke[220:270, 20:280] = True
    picture[stroke] = (44, 155, 134)
    (doubt,) = find_doubts(prepared(picture, tmp_path))
    assert "of what is coloured is taken for pen" in doubt


def test_glass_taken_for_tissue_and_tissue_for_glass_are_doubted(tmp_path: Path) -> None:
    store = prepared(on_glass(disc(120)), tmp_path)
    for area, words in ((1, "looks like glass"), (0, "plainly stained, but no tissue")):
        doubts = find_doubts(_Altered(store, np.full_like(store.areas, area)))
        assert any(words in doubt for doubt in doubts)


class _Altered:
    """A store whose mask went wrong."""

    def __init__(self, store: PatchStore, areas: NDArray[np.uint8]) -> None:
        self._store = store
        self.areas = areas

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
