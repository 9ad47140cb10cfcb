"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.known import KnownSlide
from wsi_pipeline.synthetic import write_synthetic_slide


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real slides: ``WSI_DATA``, or ``../shared/data`` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSI_DATA", default)).resolve()
    if not (folder / "slides").is_dir():
        pytest.skip(f"no real slides at {folder}; set WSI_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def known_slide(tmp_path_factory: pytest.TempPathFactory) -> KnownSlide:
    """A slide of 2048 x 2048 px at 0.5 um/px that holds every class; never changed by a test."""
    path = tmp_path_factory.mktemp("known") / "known.tif"
    return KnownSlide(path, write_synthetic_slide(path, (2048, 2048), mpp=0.5, seed=7))


@pytest.fixture(scope="session")
def small_tiles(known_slide: KnownSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the known slide in tiles of 64 px; tests that change them copy them first."""
    from tests.viewed import make_results  # torch is loaded with it

    return make_results(known_slide, tmp_path_factory.mktemp("small") / "out", patch_px=64)
