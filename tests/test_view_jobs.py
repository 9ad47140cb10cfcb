"""Trainings started from the page: the commands that a person could type, and what they leave."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely

from tests.viewed import pure_tiles
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.learn import label_by_strokes, write_training_store
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.store import PatchStore
from wsi_pipeline.view.folder import NotInResults, ResultsFolder
from wsi_pipeline.view.jobs import RECIPES, Jobs
from wsi_pipeline.view.slides import Slides

if TYPE_CHECKING:
    from tests.known import KnownSlide

TILE = 64


@pytest.fixture(scope="module")
def results(
    known_slide: KnownSlide, small_tiles: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Results whose slide has six labelled tiles of two classes."""
    out = Path(shutil.copytree(small_tiles, tmp_path_factory.mktemp("jobs") / "out"))
    store = PatchStore.open(out / "known" / "patches.zarr")
    names = pure_tiles(known_slide, store.xy, TILE)
    features = []
    for name in sorted(set(names) - {""})[:2]:
        tiles = np.flatnonzero(names == name)
        for x, y in store.xy[tiles[:: len(tiles) // 6][:6]].tolist():
            features.append(
                {
                    "type": "Feature",
                    "geometry": shapely.geometry.mapping(shapely.box(x, y, x + TILE, y + TILE)),
                    "properties": {"classification": {"name": name}},
                }
            )
    (out / "known" / "labels.geojson").write_text(json.dumps(features))
    return out


@pytest.fixture
def jobs(results: Path, tmp_path: Path) -> Jobs:
    out = Path(shutil.copytree(results, tmp_path / "out"))
    return Jobs(Slides(ResultsFolder(out)))


def ended(jobs: Jobs, number: int) -> dict[str, Any]:
    end = time.monotonic() + 400
    while jobs.find(number).state == "running":
        assert time.monotonic() < end
        time.sleep(0.2)
    return jobs.describe(jobs.find(number))


def test_training_stores_hold_labels_and_keep_regions_apart(
    results: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    slides = Slides(ResultsFolder(results))
    store = slides.store("known")
    classes = sorted({area.name for area in slides.areas("known")})
    tiles = label_by_strokes(slides.areas("known"), classes, store.xy, store.extent)
    with open_slide(known_slide.path) as slide:
        made = write_training_store(tmp_path / "t.zarr", store, slide, tiles, classes)
        x, y = store.grid.level_xy[5].tolist()
        pixels = slide.read_patch(store.grid.level, (x, y), store.grid.read_px, TILE)

    assert (made.xy == store.xy).all()
    assert (made.read_he(0, 20) == store.read_he(0, 20)).all()
    assert (made.read_rgb(5, 6)[0] == pixels).all()
    assert made.label_names == tuple(classes)
    assert (made.label[tiles.tile] == tiles.label).all()
    assert (made.label >= 0).sum() == len(tiles) == 12
    regions = {
        made.group[tile]: region for tile, region in zip(tiles.tile, tiles.region, strict=True)
    }
    assert len(set(regions.values())) == len(regions)
    assert {made.group[i] for i in np.flatnonzero(made.label < 0)} == {"known unlabelled"}


def test_a_training_that_fails_says_why(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**RECIPES["class-m-small"], "method": {"method": "no-such-method"}}
    monkeypatch.setitem(RECIPES, "class-m-small", broken)

    failed = ended(jobs, jobs.start("class-m-small", 1, "known").number)

    assert failed["state"] == "failed"
    assert "Error" in failed["log"]
    assert "no-such-method" in failed["log"]
    assert "Traceback" not in failed["log"]


def test_a_training_can_be_stopped_and_another_started(jobs: Jobs) -> None:
    first = jobs.start("class-m-small", 500, "known")
    with pytest.raises(ConfigError, match="under way"):
        jobs.start("class-m-small", None, "known")
    while jobs._process is None:
        time.sleep(0.05)
    jobs.stop(first.number)
    assert ended(jobs, first.number)["state"] == "stopped"

    second = jobs.start("class-m-small", 500, "known")
    assert second.number == 2
    jobs.close()
    assert ended(jobs, 2)["state"] == "stopped"


def test_a_training_whose_server_died_is_not_under_way(jobs: Jobs) -> None:
    job = jobs.start("class-m-small", 500, "known")
    assert [other.state for other in Jobs(jobs._slides).all()] == ["stopped"]
    jobs.close()
    ended(jobs, job.number)


def test_what_cannot_be_trained_is_refused(jobs: Jobs) -> None:
    with pytest.raises(ConfigError, match="no recipe"):
        jobs.start("../../x", None, "known")
    with pytest.raises(ConfigError, match="epochs"):
        jobs.start("class-m-small", 0, "known")
    with pytest.raises(NotInResults):
        jobs.start("class-m-small", None, "none")
    with pytest.raises(NotInResults):
        jobs.find(1)
    path = jobs._slides.folder.labels_path("known")
    features = json.loads(path.read_text())
    path.write_text(json.dumps(features[:7]))  # six of one class, one of the other
    with pytest.raises(ConfigError, match=r"is labelled in one place only.*2 tiles away"):
        jobs.start("class-m-small", None, "known")
    path.write_text(json.dumps(features[:1]))
    with pytest.raises(ConfigError, match="labels of 1 classes"):
        jobs.start("class-m-small", None, "known")
