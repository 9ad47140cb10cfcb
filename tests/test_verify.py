"""Damage in a folder of results: found, named, and repaired by the command that is named."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from wsi_models.bundle import TrainingFacts, bundle_path
from wsi_models.mil.bundle import SlideModelConfig, save_slide_model
from wsi_models.mil.config import PoolingConfig
from wsi_models.mil.heads import build_head

from tests.runs import DeadlyPath, bluer
from wsi_pipeline.cli import main
from wsi_pipeline.errors import OutputError, ReportError
from wsi_pipeline.run.outcome import Status
from wsi_pipeline.run.slides import RunOptions, run_slides
from wsi_pipeline.run.verify import verify_folder
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.types import NoProgress

if TYPE_CHECKING:
    from tests.known import KnownSlide


@pytest.fixture(scope="module")
def whole(known_slide: KnownSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one slide and model."""
    out = tmp_path_factory.mktemp("whole")
    job = SlideJob(path=known_slide.path, slide_id="known")
    run_slides([job], RunOptions(out=out), model=bluer())
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of them that can be damaged."""
    shutil.copytree(whole, tmp_path / "out")
    return tmp_path / "out"


def flip(file: Path) -> None:
    """Change a bit in the middle of a file, as a failing disk does: its times stay."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "overwrite"),
    [
        ("known/patches.zarr/he/c.0.0.0.0", True),
        ("known/patches.zarr/xy/c.0.0", True),
        ("known/patches.zarr/zarr.json", True),
        ("known/qc.png", False),
        ("known/bluer/predictions.parquet", False),
        ("known/bluer/predictions.geojson", False),
    ],
)
def test_damage_is_named_with_the_command_that_redoes_just_that(
    out: Path, name: str, overwrite: bool
) -> None:
    flip(out / name)

    found = verify_folder(out, NoProgress())

    (damage,) = found.damage
    assert name.startswith(damage.file)
    assert "--only known" in damage.redo
    assert ("--overwrite" in damage.redo) == overwrite


def test_what_is_missing_and_what_is_sound_is_told_apart(out: Path) -> None:
    assert verify_folder(out, NoProgress()).damage == ()
    (out / "known" / "bluer" / "heatmap.png").unlink()
    (out / ".wsi-pipeline" / "slides" / "known" / "patches.json").write_bytes(b"{")

    reasons = {damage.file: damage.reason for damage in verify_folder(out, NoProgress()).damage}

    assert reasons["known/bluer/heatmap.png"] == "missing"
    assert "checksum" in reasons[".wsi-pipeline/slides/known/patches.json"]
    with pytest.raises(ReportError, match="no folder of results"):
        verify_folder(out / "known", NoProgress())


def test_the_advice_repairs_a_damaged_store_and_the_command_says_so(
    out: Path, known_slide: KnownSlide
) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")
    shard = out / "known" / "patches.zarr" / "he" / "c.0.0.0.0"
    sound = shard.read_bytes()
    flip(shard)
    told = CliRunner().invoke(main, ["verify", str(out), "--quiet"])
    assert told.exit_code == 1
    assert "1 damaged" in told.output

    (refused,) = run_slides([job], RunOptions(out=out)).outcomes
    (repaired,) = run_slides([job], RunOptions(out=out, overwrite=True), model=bluer()).outcomes

    assert refused.status is Status.FAILED
    assert "--overwrite" in (refused.error or "")
    assert repaired.status is Status.DONE
    assert shard.read_bytes() == sound
    told = CliRunner().invoke(main, ["verify", str(out), "--quiet"])
    assert told.exit_code == 0, told.output
    assert "all are sound" in told.output


def test_a_changed_slide_of_equal_samples_is_noticed(
    out: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    """Its fingerprint rests on samples; its checksum is compared when its time has changed."""
    path = tmp_path / "known.tif"
    content = bytearray(known_slide.path.read_bytes())
    content[len(content) // 30] ^= 1  # between the first two samples
    path.write_bytes(content)
    job = SlideJob(path=path, slide_id="known")

    (refused,) = run_slides([job], RunOptions(out=out)).outcomes

    assert refused.kind == "StoreExistsError"
    assert "another content" in (refused.error or "")


@pytest.mark.slow
def test_a_crash_without_a_store_costs_one_slide_and_the_log_has_its_last_words(
    known_slide: KnownSlide, tmp_path: Path
) -> None:
    jobs = [
        SlideJob(path=DeadlyPath(tmp_path / "deadly.svs"), slide_id="deadly"),
        SlideJob(path=known_slide.path, slide_id="known"),
    ]
    options = RunOptions(out=tmp_path / "out", store=False)

    deadly, known = run_slides(jobs, options, model=bluer()).outcomes

    assert (deadly.status, known.status) == (Status.FAILED, Status.DONE)
    assert "SIGSEGV" in (deadly.error or "")
    (log,) = tmp_path.rglob("*.log")
    assert "Fatal Python error: Segmentation fault" in log.read_text()


def test_models_are_verified_by_name_folder_and_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(bundle_path("demo"), run / "bundle")
    config = SlideModelConfig(
        name="s", model=PoolingConfig(model="mean"), feature_count=3, encoder=None,
        class_names=("a", "b"),
        training=TrainingFacts(loss="l", data="d", seed=0, metrics={}),
    )  # fmt: skip
    save_slide_model(run / "folds" / "1", config, build_head(config.model, 3, 2), "a card")
    verify = partial(CliRunner().invoke, main)

    assert verify(["verify", "demo"]).exit_code == 0
    assert "2 files, stores and models were read" in verify(["verify", str(run)]).output
    flip(run / "bundle" / "model.safetensors")
    flip(run / "folds" / "1" / "config.json")
    damaged = verify(["verify", str(run)])

    assert damaged.exit_code == 1
    assert damaged.output.count("does not agree with SHA256SUMS") == 2
    missing = verify(["verify", str(tmp_path / "nothing")])
    assert missing.exit_code == 1
    assert "no folder and no model" in missing.output


def test_a_link_does_not_lead_out_of_the_folder(known_slide: KnownSlide, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "known").symlink_to(tmp_path / "elsewhere")
    job = SlideJob(path=known_slide.path, slide_id="known")

    (refused,) = run_slides([job], RunOptions(out=tmp_path / "out")).outcomes

    assert refused.kind == OutputError.__name__
    assert "leads out of" in (refused.error or "")
    assert list((tmp_path / "elsewhere").iterdir()) == []
