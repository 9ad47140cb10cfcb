"""The size of nuclei against drawn ones, and what it says of a wrong resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from tests.stores import make_header, make_store
from wsi_pipeline.config import load_config
from wsi_pipeline.preprocess.doubts import find_doubts
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.tissue.nuclei import nucleus_areas, typical_nucleus_um2
from wsi_pipeline.types import StainPair, StainVerdict

if TYPE_CHECKING:
    from numpy.typing import NDArray


def drawn(radius: int, every: int, side: int = 400) -> NDArray[np.float32]:
    """Hematoxylin of round nuclei on a jittered lattice, over uneven and noisy surroundings."""
    random = np.random.default_rng(radius)
    plane = np.zeros((side, side), np.float32)
    for y, x in np.argwhere(np.ones((side // every, side // every))) * every + every // 2:
        jitter = random.integers(-2, 3, 2)
        cv2.circle(plane, (int(x + jitter[0]), int(y + jitter[1])), radius, 0.6, -1)
    slope = np.linspace(0, 0.3, side, dtype=np.float32)
    return plane + slope + random.normal(0, 0.05, plane.shape).astype(np.float32)


@pytest.mark.parametrize("radius", [5, 7, 10, 15])
def test_round_nuclei_have_their_area(radius: int) -> None:
    mpp = 0.5
    measured = typical_nucleus_um2([drawn(radius, 4 * radius)] * 2, mpp)
    assert measured == pytest.approx(np.pi * (radius * mpp) ** 2, rel=0.15)


def test_strands_clumps_and_noise_are_no_nuclei() -> None:
    plane = np.random.default_rng(0).normal(0.2, 0.02, (300, 300)).astype(np.float32)
    cv2.line(plane, (20, 20), (280, 200), 0.9, 4)
    for x, y in ((80, 200), (95, 215), (110, 200), (125, 215)):
        cv2.circle(plane, (x, y), 12, 0.9, -1)
    assert max(nucleus_areas(plane, 0.5), default=0.0) < 20
    assert typical_nucleus_um2([plane], 0.5) is None
    assert nucleus_areas(np.ones((64, 64), np.float32), 0.5) == []


def doubts_about(folder: Path, verdict: StainVerdict, **stain: Any) -> tuple[str, ...]:
    header = make_header(4)
    changed = replace(header.stain, verdict=verdict, **stain)
    store = make_store(folder / "p.zarr", replace(header, stain=changed))
    assert store.stain.nucleus_um2 == stain["nucleus_um2"]
    return tuple(doubt for doubt in find_doubts(store) if "nuclei" in doubt)


@pytest.mark.parametrize(
    ("size", "verdict", "said"),
    [
        (30.0, StainVerdict.OK, ""),
        (None, StainVerdict.OK, ""),
        (120.0, StainVerdict.OK, "nuclei measure 120 um2, larger than the 85 of H&E"),
        (10.6, StainVerdict.OK, "nuclei measure 11 um2, smaller than the 12 of H&E"),
        (10.6, StainVerdict.FLAGGED, ""),
        (7.0, StainVerdict.FLAGGED, "smaller than the 9 of H&E"),
    ],
)
def test_nuclei_of_impossible_size_are_doubted(
    tmp_path: Path, size: float | None, verdict: StainVerdict, said: str
) -> None:
    found = doubts_about(tmp_path, verdict, nucleus_um2=size)
    assert len(found) == bool(said)
    assert all(said in doubt and "--slide-mpp" in doubt for doubt in found)


def test_nuclei_of_other_stains_are_not_judged(tmp_path: Path) -> None:
    dab = {"pair": StainPair.H_DAB, "nucleus_um2": 120.0}
    assert doubts_about(tmp_path, StainVerdict.OK, **dab) == ()


@pytest.mark.data
@pytest.mark.parametrize(("factor", "doubted"), [(0.5, True), (1.0, False), (2.0, True)])
def test_a_real_slide_at_its_resolution_and_at_wrong_ones(
    data_dir: Path, tmp_path: Path, factor: float, *, doubted: bool
) -> None:
    path = data_dir / "slides" / "CMU-1-Small-Region_generic-pyramid.tif"
    config = load_config(
        overrides={
            "read": {"slide_mpp": 0.499 * factor},
            "tile": {"allow_upsampling": True},
        }
    )
    store = preprocess_slide(SlideJob(path=path, slide_id="a"), tmp_path / "a.zarr", config).store
    assert any("nuclei measure" in doubt for doubt in find_doubts(store)) is doubted
