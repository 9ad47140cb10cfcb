"""Predicting straight from the slide: the same answers as by way of a store, and no store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tests.stores import make_header
from wsi_pipeline.cli import main
from wsi_pipeline.config import PipelineConfig, Precision, PredictConfig, load_config
from wsi_pipeline.errors import ModelMismatchError
from wsi_pipeline.inference import Outputs, run_network, unmixing_feed
from wsi_pipeline.models import load_model, model_defaults
from wsi_pipeline.predict.origin import with_origin
from wsi_pipeline.predict.patches import predict_store
from wsi_pipeline.predict.slide_patches import SlidePatches
from wsi_pipeline.predict.unstored import predict_directly
from wsi_pipeline.preprocess.extraction import TileReader
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.results.export.parquet import read_predictions
from wsi_pipeline.results.export.registry import EXPORTS
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.types import ModelSpec, NoProgress

if TYPE_CHECKING:
    from tests.known import KnownSlide
    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.types import Predictions

EXACT = PredictConfig(device="cpu", batch_size=8, precision=Precision.FLOAT32)


class Means(nn.Module):
    """Gives the mean of each channel as its logit."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return 20 * patches.mean(dim=(2, 3))


def spec_of(kind: str) -> ModelSpec:
    channels = 2 if kind == "he" else 3
    return ModelSpec(
        name=f"means-{kind}",
        class_names=tuple("abc"[:channels]),
        class_colors=("#ff0000", "#00ff00", "#0000ff")[:channels],
        mpp=0.5,
        patch_px=200,
        mean=(0.1,) * channels,
        std=(0.5,) * channels,
        input="he" if kind == "he" else "rgb",
    )


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    config = load_config(None, {"store": {"keep_rgb": True}, "tile": {"patch_size": 240}})
    return config.model_copy(update={"predict": EXACT})


@pytest.fixture(scope="module")
def job(known_slide: KnownSlide) -> SlideJob:
    return SlideJob(path=known_slide.path, slide_id="known")


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, job: SlideJob, config: PipelineConfig
) -> PatchStore:
    path = tmp_path_factory.mktemp("direct") / "patches.zarr"
    return preprocess_slide(job, path, config, workers=2).store


@pytest.mark.parametrize("kind", ["he", "rgb"])
@pytest.mark.parametrize("workers", [1, 3])
def test_predictions_are_those_of_the_store(
    kind: str, workers: int, store: PatchStore, job: SlideJob, config: PipelineConfig
) -> None:
    expected = predict_store(store, Means(), spec_of(kind), EXACT)

    direct = predict_directly(job, Means(), spec_of(kind), config, workers=workers)

    assert len(expected) > 20
    assert expected.prob.std(axis=0).max() > 0.01
    assert np.array_equal(direct.predictions.prob, expected.prob)
    assert np.array_equal(direct.predictions.xy, expected.xy)
    assert np.array_equal(direct.predictions.rc, expected.rc)
    assert direct.predictions.shape == expected.shape
    assert (direct.predictions.extent, direct.predictions.pitch) == (
        expected.extent,
        expected.pitch,
    )


def test_unmixing_on_the_device_gives_the_predictions_of_the_store(
    store: PatchStore, job: SlideJob
) -> None:
    """Drive on the processor what a GPU is given: RGB, unmixed by torch."""
    spec = spec_of("he")
    feed = unmixing_feed(len(store), store.read_rgb, spec, store.stain.matrix, readers=2)
    devices = (torch.device("cpu"),)

    outputs = Outputs(model=spec.name, count=2)
    logits = run_network(Means(), feed, outputs, devices, EXACT, NoProgress())

    expected = predict_store(store, Means(), spec, EXACT)
    assert np.array_equal(logits.softmax(dim=1).numpy(), expected.prob)


def test_records_are_those_of_the_store(
    store: PatchStore, job: SlideJob, config: PipelineConfig
) -> None:
    patches = predict_directly(job, Means(), spec_of("he"), config).patches

    assert len(patches) == len(store)
    assert patches.slide == store.slide
    assert patches.funnel() == store.funnel()
    assert patches.stain.matrix.to_dict() == store.stain.matrix.to_dict()
    assert patches.stain.verdict == store.stain.verdict
    assert np.array_equal(patches.areas, store.areas)
    assert np.array_equal(patches.thumbnail, store.thumbnail)
    assert (patches.patch_px, patches.mpp) == (store.patch_px, store.mpp)


def test_slide_without_tissue_gives_no_predictions(job: SlideJob, config: PipelineConfig) -> None:
    nothing = config.model_copy(
        update={"tissue": config.tissue.model_copy(update={"min_tissue_um2": 1e9})}
    )

    direct = predict_directly(job, Means(), spec_of("he"), nothing)

    assert direct.predictions.prob.shape == (0, 2)


def test_model_of_another_resolution_is_refused(job: SlideJob, config: PipelineConfig) -> None:
    with pytest.raises(ModelMismatchError, match=r"0\.5 um/px.*expects 0\.25"):
        predict_directly(job, Means(), replace(spec_of("he"), mpp=0.25), config)


def test_patches_are_read_in_any_range(job: SlideJob, store: PatchStore) -> None:
    with open_slide(job.path) as slide:
        header = replace(make_header(0), slide=slide.info, grid=store.grid, stain=store.stain)
        patches = SlidePatches(TileReader(slide), header)

        assert np.array_equal(patches.read_he(7, 12), store.read_he(7, 12))
        assert np.array_equal(patches.read_rgb(7, 12), store.read_rgb(7, 12))
        assert patches.read_rgb(3, 3).shape == (0, 240, 240, 3)


def test_command_writes_predictions_and_no_patches(
    job: SlideJob, known_slide: KnownSlide, tmp_path: Path
) -> None:
    command = ["run", str(job.path), "--out", str(tmp_path / "direct"), "--no-store", "--quiet"]

    done = CliRunner().invoke(main, command)

    assert done.exit_code == 0, done.output
    folder = tmp_path / "direct" / "known"
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["demo", "slide.zarr"]
    assert sorted(path.name for path in folder.glob("demo/[!.]*")) == [
        "heatmap.png",
        "heatmap_small.jpg",
        "predictions.geojson",
        "predictions.parquet",
    ]
    assert not list(folder.rglob("he"))
    model = load_model("demo")
    config = load_config(None, base=model_defaults(model))
    store = preprocess_slide(job, tmp_path / "known.zarr", config).store
    expected = predict_store(store, model.module, model.spec, config.predict)
    given = read_predictions(folder / "demo" / "predictions.parquet")
    assert np.array_equal(given.label, expected.label)
    np.testing.assert_allclose(given.prob, expected.prob, atol=1e-5)
    caveat = "on real tissue its labels mean nothing"
    assert caveat in given.doubts[0]
    assert caveat in " ".join(done.stdout.split())
    assert caveat in (tmp_path / "direct" / "index.html").read_text()
    stored = with_origin(expected, store, model)
    assert given.origin == stored.origin
    assert given.piece is not None
    assert stored.piece is not None
    assert np.array_equal(given.piece, stored.piece)
    _export_without_patches(tmp_path / "direct", store, stored)


def _export_without_patches(out: Path, store: PatchStore, predictions: Predictions) -> None:
    """Everything that needs no pixels is exported afterwards, as from a store."""
    names = [name for name in EXPORTS.names if name not in ("ome-zarr", "spatialdata")]
    options = [part for name in names for part in ("--to", name)]

    done = CliRunner().invoke(main, ["export", str(out), *options])

    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == len(names)
    stored = SlideResult(records=store, found=predictions)
    for name in ("tissue", "areas", "regions"):
        expected = out / f"stored-{name}"
        EXPORTS.get(name).write(expected, stored)
        (written,) = out.glob(f"**/{EXPORTS.get(name).file}")
        assert written.read_text() == expected.read_text(), name
    refused = CliRunner().invoke(main, ["export", str(out), "--to", "ome-zarr"])
    assert refused.exit_code == 1
    assert "run without --no-store" in refused.stderr
    assert CliRunner().invoke(main, ["verify", str(out)]).exit_code == 0
    (mask,) = out.glob("*/slide.zarr/tissue_mask/c*")
    mask.write_bytes(mask.read_bytes()[:-9])
    damaged = CliRunner().invoke(main, ["verify", str(out)])
    assert damaged.exit_code == 1
    assert "slide.zarr" in damaged.output
