"""Readers of other packages: found by name and by files, and held to the contract of ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contracts.slide_files import RGB, picture
from wsi_pipeline import config
from wsi_pipeline.config import ReadConfig
from wsi_pipeline.errors import ConfigError, SlideReadError, UnsupportedSlideError
from wsi_pipeline.registry import Registry
from wsi_pipeline.slide import readers
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.slide.readers import open_reader, registry

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


def example() -> str:
    """Return the module that the documentation shows."""
    section = DOCS.read_text(encoding="utf-8").split("## A reader of your own")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    return str(code)


def install(folder: Path, patch: pytest.MonkeyPatch, line: str = "array = arrays:FORMAT") -> None:
    """Install the documented example as a package."""
    about = folder / "arrays-0.1.dist-info"
    about.mkdir()
    (folder / "arrays.py").write_text(example(), encoding="utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: arrays\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(f"[{config.READERS.group}]\n{line}\n")
    patch.syspath_prepend(str(folder))
    own = {
        "tiff": "wsi_pipeline.slide.readers.tiff:FORMAT",
        "openslide": "wsi_pipeline.slide.readers.openslide:FORMAT",
    }
    afresh: Registry[Any] = Registry("slide reader", config.READERS.group, own)
    for module in (config, config.stages, readers, registry):
        patch.setattr(module, "READERS", afresh)


@pytest.fixture
def array(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path_factory.mktemp("package"), monkeypatch)


def write_array(path: Path, pixels: RGB) -> None:
    np.save(path, pixels)


def test_the_documented_example_is_short() -> None:
    assert len(example().splitlines()) < 40


@pytest.mark.usefixtures("array")
def test_a_reader_of_another_package_opens_its_files(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", picture())
    for choice in ("auto", "array"):
        with open_slide(tmp_path / "a.npy", ReadConfig(reader=choice)) as slide:
            assert (slide.info.reader, slide.info.mpp) == ("array", 0.5)
            read = slide.read_level(0, (250, 150), (100, 100))
            np.testing.assert_array_equal(read[:50, :50], picture()[150:, 250:])
            assert (read[50:] == 255).all()
    with pytest.raises(UnsupportedSlideError, match="tiff: "):
        open_reader(tmp_path / "a.npy", "tiff")


@pytest.mark.usefixtures("array")
def test_its_files_are_found_in_folders(tmp_path: Path) -> None:
    write_array(tmp_path / "a.npy", picture())
    (tmp_path / "notes.txt").write_text("no slide")
    assert [job.path for job in find_slides([str(tmp_path)])] == [tmp_path / "a.npy"]


@pytest.mark.usefixtures("array")
def test_its_damaged_files_are_errors_of_slides(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(SlideReadError, match=r"a\.npy is damaged"):
        open_reader(tmp_path / "a.npy")


def test_a_name_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "tiff = arrays:FORMAT")
    with pytest.raises(ConfigError, match="two packages offer a slide reader called 'tiff'"):
        open_reader(DOCS)


def test_what_is_no_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "array = arrays:open_slide_file")
    with pytest.raises(ConfigError, match="'array' is no SlideFormat but function"):
        open_reader(DOCS, "array")


def test_an_unknown_reader_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="no slide reader 'magic'; choose one of tiff, open"):
        open_reader(DOCS, "magic")
    with pytest.raises(ValueError, match=r"no such reader; choose one of auto, tiff, openslide"):
        ReadConfig(reader="magic")
