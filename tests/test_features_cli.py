"""``wsi-pipeline features`` and ``encoders``, as a person uses them: slides, passports."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from tests.onnx_files import write_encoder
from tests.passports import some_passport
from wsi_pipeline.cli import main
from wsi_pipeline.results.export.features import Layout, write_features
from wsi_pipeline.store.features import SlideFeatures, find_features, read_features
from wsi_pipeline.synthetic import write_synthetic_slide

if TYPE_CHECKING:
    from tests.known import KnownSlide
    from wsi_pipeline.store.passport import Passport

FEW = ("--min-tissue", "0.99")
"""Tiles enough to test with."""


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)


def write(folder: Path, slide_id: str, passport: Passport, layout: Layout = Layout.H5) -> None:
    rng = np.random.default_rng(len(slide_id))
    features = rng.normal(size=(12, passport.features)).astype(np.float32)
    slide = SlideFeatures(
        slide_id=slide_id,
        features=features,
        xy=rng.integers(0, 99, (12, 2)),
        passport=passport,
        tiles={"patch_size_level0": 512},
    )
    write_features(folder, slide, layout)


@pytest.fixture(scope="module")
def slides(known_slide: KnownSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for name in "ab":
        shutil.copy(known_slide.path, folder / f"{name}.tif")
    return folder


@pytest.fixture(scope="module")
def encoded(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("encoded") / "features"
    done = call(
        "features", slides, "--encoder", "efficientnet-lite0", "--out", out, *FEW, "--quiet"
    )
    assert done.exit_code == 0, done.output
    assert "trained on: see arXiv:1905.11946" in done.output
    return out


def test_slides_give_features_without_a_store(encoded: Path) -> None:
    assert sorted(find_features([encoded])) == ["a", "b"]
    found = read_features(encoded / "a.h5")
    assert found.features.shape[1] == 1280
    assert len(found.features) > 3
    passport = found.passport
    assert passport is not None
    assert passport.encoder == "efficientnet-lite0"
    assert passport.weights["sha256"].startswith("57934424")
    assert passport.transform["tile_px"] == passport.transform["input_px"] == 224
    assert passport.slide["id"] == "a"
    assert {"wsi-pipeline", "torch"} <= passport.software.keys()
    assert np.array_equal(found.features, read_features(encoded / "b.h5").features)


def test_finished_slides_are_kept_and_others_done(slides: Path, encoded: Path) -> None:
    first = (encoded / "a.h5").stat().st_mtime_ns
    (encoded / "b.h5").unlink()
    again = ("features", slides, "--encoder", "efficientnet-lite0", "--out", encoded, *FEW)
    done = call(*again, "--quiet", "--json")
    assert done.exit_code == 0
    assert (encoded / "a.h5").stat().st_mtime_ns == first
    assert (encoded / "b.h5").exists()
    report = json.loads(done.stdout)
    assert {o["slide_id"]: o["reused"] for o in report["outcomes"]} == {"a": True, "b": False}
    second = json.loads((encoded / "run.json").read_text())
    assert [o["files"]["features"] for o in second["outcomes"]] == ["a.h5", "b.h5"]


def test_parts_of_the_slides_are_done_apart(slides: Path, encoded: Path) -> None:
    part = call(
        "features", slides, "--encoder", "efficientnet-lite0", "--out", encoded, *FEW, "--quiet",
        "--json", "--shard-index", "1", "--shard-count", "2",
    )  # fmt: skip
    assert [o["slide_id"] for o in json.loads(part.stdout)["outcomes"]] == ["b"]


def test_bad_slide_does_not_stop_the_rest(slides: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    done = call(
        "features", bad, slides / "a.tif", "--encoder", "efficientnet-lite0",
        "--out", tmp_path / "out", *FEW, "--quiet",
    )  # fmt: skip
    assert done.exit_code == 1
    assert "bad failed:" in done.output
    assert (tmp_path / "out" / "a.h5").exists()


@pytest.mark.slow
def test_tiles_pooling_and_stains_can_be_chosen_and_are_recorded(
    slides: Path, tmp_path: Path
) -> None:
    done = call(
        "features", slides / "a.tif", "--encoder", "efficientnet-lite0", "--tile-px", "256",
        "--normalise", "macenko", "--out", tmp_path, "--format", "anndata", *FEW, "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    passport = read_features(tmp_path / "a.h5ad").passport
    assert passport is not None
    assert passport.transform["tile_px"] == 256
    assert (passport.transform["resize_px"], passport.transform["interpolation"]) == (
        224,
        "bilinear",
    )
    assert passport.stain["normalise"] == "macenko"
    assert passport.stain["own"]["vectors"] != passport.stain["target"]["vectors"]
    refused = call(
        "features", slides / "a.tif", "--encoder", "efficientnet-lite0", "--pooling", "class",
        "--out", tmp_path,
    )  # fmt: skip
    assert refused.exit_code == 1
    assert "pools as its network does it" in refused.output


@pytest.mark.slow
def test_bundles_encode_slides_too(slides: Path, tmp_path: Path) -> None:
    done = call("features", slides / "a.tif", "--model", "demo", "--out", tmp_path, *FEW, "--quiet")
    assert done.exit_code == 0, done.output
    passport = read_features(tmp_path / "a.h5").passport
    assert passport is not None
    assert (passport.encoder, passport.transform["input"]) == ("demo", "he")
    refused = call("features", slides, "--model", "demo", "--tile-px", "9", "--out", tmp_path)
    assert refused.exit_code == 1
    assert "is a bundle, which has its own weights" in refused.output


def test_files_of_one_way_may_be_mixed(tmp_path: Path) -> None:
    write(tmp_path, "a", some_passport())
    write(tmp_path, "bb", some_passport(slide={"mpp": 0.5}), Layout.STAMP)
    write(tmp_path / "more", "a", some_passport(), Layout.ZARR)
    done = call("features", "verify", tmp_path, tmp_path / "more")
    assert done.exit_code == 0
    assert done.output == "3 files of encoder moments\nthey may be mixed\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "other", "identity": "0" * 64}, "encoder: most have moments, but"),
        ({"weights": {"digest": "e" * 64}, "identity": "0" * 64}, "weights: most have ddd"),
        ({"pooling": "mean", "identity": "0" * 64}, "pooling: most have class"),
        ({"transform": {"tile_px": 224, "input_px": 224}, "identity": "0" * 64}, "transform: "),
        ({"mpp": 0.25}, "resolution asked for, um/px: most have 0.5"),
        ({"stain": {"normalise": "macenko", "target": {}}}, "stain normalisation: "),
        ({"identity": "0" * 64}, "weights, transform or pooling: "),
    ],
)
def test_files_of_different_ways_may_not_be_mixed(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    for name in ("a", "bb"):
        write(tmp_path, name, some_passport())
    write(tmp_path, "odd", replace(some_passport(), **changes))  # type: ignore[arg-type]  # fields, by name
    done = call("features", "verify", tmp_path)
    assert done.exit_code == 1
    assert f"differ in {words}" in done.output
    assert "odd" in done.output
    assert done.output.endswith("they may NOT be mixed\n")
    verdict = json.loads(call("features", "verify", tmp_path, "--json").output)
    assert (verdict["may_mix"], len(verdict["forbids"])) == (False, 1)
    refused = call("features", "mean", tmp_path, "--out", tmp_path / "means.csv")
    assert refused.exit_code == 1
    assert "average those of each encoder on their own" in refused.output


def test_rounding_is_told_of_and_forbids_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a", some_passport())
    write(tmp_path, "bb", some_passport(precision="bfloat16", mpp_read=0.52))
    done = call("features", "verify", tmp_path)
    assert done.exit_code == 0
    assert "differ by rounding in arithmetic" in done.output
    assert "differ by rounding in resolution of the tiles" in done.output


def test_files_without_passport_are_named(tmp_path: Path) -> None:
    import h5py

    write(tmp_path, "a", some_passport())
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file.create_dataset("features", data=np.zeros((3, 7), dtype=np.float32))
    done = call("features", "verify", tmp_path)
    assert done.exit_code == 1
    assert "1 files have no passport" in done.output


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_slides_are_averaged_to_one_row(tmp_path: Path, ending: str) -> None:
    for name in ("a", "bb"):
        write(tmp_path / "f", name, some_passport())
    table = tmp_path / f"means.{ending}"
    done = call("features", "mean", tmp_path / "f", "--out", table)
    assert done.output == f"{table}\n"
    read = (pa_csv.read_csv if ending == "csv" else pq.read_table)(table)
    assert read.column_names == ["slide_id", "patches", *(f"feature_{n}" for n in range(7))]
    assert read["slide_id"].to_pylist() == ["a", "bb"]
    assert read["patches"].to_pylist() == [12, 12]
    expected = read_features(tmp_path / "f" / "bb.h5").features.mean(axis=0)
    given = [read[f"feature_{n}"][1].as_py() for n in range(7)]
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    assert call("features", "mean", tmp_path / "f", "--out", tmp_path / "x.xls").exit_code == 1


def test_encoders_are_listed_and_shown() -> None:
    listed = json.loads(call("encoders", "--json").output)
    assert {"uni2-h", "virchow2"} <= {card["name"] for card in listed}
    shown = call("encoders", "h0-mini").output
    for words in (
        "H0-mini", "768, pooling: class", "CC-BY-NC-ND-4.0", "85,739,520", "224 px at 0.5 um/px",
        "5b5cc0505d19ae558270045eb0df8c34df4d9609", "whose terms must be accepted", "raw2features",
    ):  # fmt: skip
        assert words in shown
    table = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["encoders"]).output
    assert "efficientnet-lite0" in table
    assert "here" in table
    unknown = call("encoders", "uni3")
    assert unknown.exit_code == 1
    assert "there is no encoder 'uni3'" in unknown.output


def test_weights_that_are_not_here_are_asked_for(tmp_path: Path) -> None:
    done = call("features", tmp_path, "--encoder", "uni2-h", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "https://huggingface.co/MahmoodLab/UNI2-h" in done.output
    assert "--weights" in done.output


@pytest.mark.parametrize("layout", Layout)
def test_slides_are_classified_from_files_of_every_layout(tmp_path: Path, layout: Layout) -> None:
    """AB-MIL on bags whose mark is in one feature, as another encoder would give them."""
    rows = []
    for index in range(16):
        rng = np.random.default_rng(index)
        features = rng.normal(size=(12, 7)).astype(np.float32)
        features[3, 0] += 8 * (index % 2)
        slide = SlideFeatures(
            slide_id=f"s{index}",
            features=features,
            xy=rng.integers(0, 99, (12, 2)),
            passport=some_passport(),
            tiles={"patch_size_level0": 512},
        )
        write_features(tmp_path / "features", slide, layout)
        rows.append((f"s{index}", "yes" if index % 2 else "no", f"p{index}"))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide_id", "label", "patient"), *rows])
    done = call(
        "mil", "train", tmp_path / "features", "--labels", tmp_path / "labels.csv", "--model",
        "abmil", "--folds", "2", "--epochs", "2", "--out", tmp_path / "run", "--device", "cpu",
        "--quiet",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    judged = call(
        "mil", "predict", tmp_path / "run" / "model", tmp_path / "features", "--out",
        tmp_path / "predicted", "--device", "cpu", "--quiet",
    )  # fmt: skip
    assert judged.exit_code == 0, judged.output
    assert len((tmp_path / "predicted" / "predictions.csv").read_text().splitlines()) == 17


def test_slides_are_classified_by_the_features_of_two_encoders(tmp_path: Path) -> None:
    """AB-MIL on vectors of drawn slides."""
    pytest.importorskip("onnxruntime")
    other = write_encoder(tmp_path)
    rows = []
    for index in range(4):
        path = tmp_path / f"s{index}.tif"
        write_synthetic_slide(path, (1024, 1024), mpp=0.5, seed=index)
        rows.append((path.stem, "yes" if index % 2 else "no", f"p{index}"))
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([("slide_id", "label", "patient"), *rows])
    train = ("--labels", labels, "--model", "abmil", "--folds", "2", "--epochs", "1", "--quiet")
    for name in ("efficientnet-lite0", f"onnx:{other}"):
        features = tmp_path / f"features-{Path(name).stem}"
        slides = sorted(tmp_path.glob("*.tif"))
        done = call("features", *slides, "--encoder", name, "--out", features, "--quiet")
        assert done.exit_code == 0, done.output
        out = tmp_path / f"run-{Path(name).stem}"
        done = call("mil", "train", features, *train, "--out", out, "--device", "cpu")
        assert done.exit_code == 0, done.output
        assert (out / "model").is_dir()


def test_golden_vectors_tell_whether_an_encoder_is_the_same(tmp_path: Path) -> None:
    kept = call("features", "check", "efficientnet-lite0")
    assert kept.exit_code == 0, kept.output
    assert "the same vector" in kept.output

    file = tmp_path / "there.toml"
    assert call("features", "check", "efficientnet-lite0", "--out", file).exit_code == 0
    against = ("features", "check", "efficientnet-lite0", "--against", file)
    assert call(*against).exit_code == 0
    other = call(*against, "--tile-px", "256")
    assert other.exit_code == 1
    assert "ANOTHER VECTOR" in other.output
    assert "tiles are not those of the kept vector" in other.output

    file.write_text("features = 3")
    assert "holds no golden vectors" in call(*against).output
    file.write_text("")
    assert "no golden vector of efficientnet-lite0 is kept" in call(*against).output
    assert "takes stains" in call("features", "check", "demo").output
