"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real slides: ``WSI_DATA``, or ``../shared/data`` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSI_DATA", default))
    if not (folder / "slides").is_dir():
        pytest.skip(f"no real slides at {folder}; set WSI_DATA to their folder")
    return folder
