"""Results in a bucket, through a server that speaks the protocol of S3."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from tests.passports import some_passport
from tests.runs import bluer, linked, results
from tests.viewed import colours
from wsi_pipeline.cli import main
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, OutputError
from wsi_pipeline.models import encoder_defaults
from wsi_pipeline.predict.unstored import encode_directly
from wsi_pipeline.results.export.features import Layout, write_features
from wsi_pipeline.run.bucket import fetch_folder, move_files
from wsi_pipeline.run.features import FeatureChoices, run_features
from wsi_pipeline.run.outcome import RunReport, Status
from wsi_pipeline.run.records import slide_prefix
from wsi_pipeline.run.remote import RemoteFolder
from wsi_pipeline.run.slides import RunOptions, run_slides
from wsi_pipeline.slide.job import Share
from wsi_pipeline.store.features import SlideFeatures, find_features, read_features

if TYPE_CHECKING:
    from tests.known import KnownSlide


def request(url: str, method: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5).close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a server on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(300):
            try:
                request(f"{address}/moto-api/", "GET")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        yield address
        process.terminate()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty bucket, reached by the usual variables."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    request(f"{server}/moto-api/reset", "POST")
    request(f"{server}/slides", "PUT")
    return "s3://slides/some/results"


def test_files_come_back_as_they_went(bucket: str, tmp_path: Path) -> None:
    remote = RemoteFolder(bucket)
    for name in ("a", "b/c", "b/.lock", "left/d"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(name.encode())

    remote.upload(tmp_path / "from", "x", leave_out=["left"])
    remote.write("xy", b"no part of x")
    remote.download("x", tmp_path / "to")

    assert remote.names("x") == ["x/a", "x/b/c"]
    assert (tmp_path / "to" / "b" / "c").read_bytes() == b"b/c"
    remote.remove(*remote.names("x"))
    assert remote.names("") == ["xy"]
    with pytest.raises(FileNotFoundError, match="some/results/x/a"):
        remote.read("x/a")


def test_what_cannot_be_reached_is_named(bucket: str) -> None:
    with pytest.raises(OutputError, match=r"s3://nobody/x/name cannot be reached.*credentials"):
        RemoteFolder("s3://nobody/x").write("name", b"")
    with pytest.raises(ConfigError, match="gs://slides"):
        RemoteFolder("gs://slides")


def test_without_the_package_the_extra_is_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"pip install 'wsi-pipeline\[s3\]'"):
        RemoteFolder(bucket)


def test_a_run_leaves_the_same_files_in_a_bucket(
    bucket: str, known_slide: KnownSlide, tmp_path: Path
) -> None:
    jobs = linked(known_slide.path, tmp_path / "slides", "a")
    local = RunOptions(out=tmp_path / "local")
    run_slides(jobs, local, model=bluer())
    moved = RunOptions(out=tmp_path / "scratch", bucket=bucket)

    made = run_slides(jobs, moved, model=bluer())

    assert "upload" in made.outcomes[0].seconds
    assert not (moved.out / "a").exists(), "the slide's results should have moved"
    RemoteFolder(bucket).download("", tmp_path / "back")
    assert results(tmp_path / "back") == results(local.out)
    assert (tmp_path / "back" / "index.html").exists()
    assert RunReport.read(tmp_path / "back" / "run.json").count(Status.DONE) == 1


def test_what_is_complete_is_not_done_again(
    bucket: str, known_slide: KnownSlide, tmp_path: Path
) -> None:
    jobs = linked(known_slide.path, tmp_path / "slides", "a")
    options = RunOptions(out=tmp_path / "scratch", bucket=bucket)
    (patches,) = run_slides(jobs, options).outcomes
    remote = RemoteFolder(bucket)

    (again,) = run_slides(jobs, options).outcomes
    (predicted,) = run_slides(jobs, options, model=bluer()).outcomes

    assert again.reused
    assert again.files == patches.files
    # the patches were fetched, and only what is new went back
    assert set(predicted.seconds) == {"prediction", "exports", "upload"}
    assert "a/bluer/predictions.parquet" in remote.names("a")
    assert (run_slides(jobs, options, model=bluer()).outcomes)[0].reused
    remote.remove(".wsi-pipeline/slides/a/patches.json")  # as if the upload had been interrupted
    (restored,) = run_slides(jobs, options).outcomes
    assert "mask" in restored.seconds


def test_other_patches_are_replaced_only_on_request(
    bucket: str, known_slide: KnownSlide, tmp_path: Path
) -> None:
    jobs = linked(known_slide.path, tmp_path / "slides", "a")
    run_slides(jobs, RunOptions(out=tmp_path / "1", bucket=bucket), model=bluer())
    coarse = load_config(overrides={"tile": {"mpp": 1.0}})

    (refused,) = run_slides(
        jobs, RunOptions(out=tmp_path / "2", bucket=bucket, config=coarse)
    ).outcomes
    (replaced,) = run_slides(
        jobs, RunOptions(out=tmp_path / "3", bucket=bucket, config=coarse, overwrite=True)
    ).outcomes

    assert refused.status is Status.FAILED
    assert "--overwrite" in (refused.error or "")
    assert replaced.status is Status.DONE
    names = RemoteFolder(bucket).names("a")
    assert not [name for name in names if "bluer" in name], "predictions of patches that are gone"


def test_parts_of_a_run_make_one_report_in_the_bucket(bucket: str, tmp_path: Path) -> None:
    jobs = linked(tmp_path / "missing.tif", tmp_path / "slides", "a", "b", "c")
    for index in (0, 1):
        options = RunOptions(
            out=tmp_path / str(index), bucket=bucket, share=Share(index=index, count=2)
        )
        run_slides(jobs, options)

    record = json.loads(RemoteFolder(bucket).read("run.json"))

    assert [outcome["slide_id"] for outcome in record["outcomes"]] == ["a", "b", "c"]
    result = CliRunner().invoke(main, ["report", bucket, "--json"])
    assert result.exit_code == 1  # the slides are missing
    assert json.loads(result.stdout) == record


def test_the_command_line_takes_a_bucket(
    bucket: str, known_slide: KnownSlide, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        main, ["preprocess", str(known_slide.path), "--out", bucket, "--quiet"]
    )

    assert result.exit_code == 0, result.output
    assert f"Report: {bucket}/index.html" in result.output
    assert "known/patches.zarr/zarr.json" in RemoteFolder(bucket).names("known")

    sound = CliRunner().invoke(main, ["verify", bucket, "--quiet"])
    remote = RemoteFolder(bucket)
    name = next(name for name in remote.names("known/patches.zarr/he") if "/c" in name)
    remote.write(name, remote.read(name)[:-1] + b"\0")
    damaged = CliRunner().invoke(main, ["verify", bucket, "--quiet"])

    assert sound.exit_code == 0, sound.output
    assert damaged.exit_code == 1
    assert f"{bucket}/known/patches.zarr: shard 0 of he is damaged" in damaged.output
    assert "--only known --overwrite" in damaged.output
    assert b'"store"' not in remote.read(".wsi-pipeline/slides/known/patches.json")


def test_features_go_to_a_bucket(bucket: str, known_slide: KnownSlide, tmp_path: Path) -> None:
    jobs = linked(known_slide.path, tmp_path / "slides", "a")
    config = load_config(None, encoder_defaults(colours()))
    options = RunOptions(out=tmp_path / "scratch", config=config, bucket=bucket)
    zarr = FeatureChoices(layout=Layout.ZARR)

    (made,) = run_features(jobs, options, colours(), zarr).outcomes
    (again,) = run_features(jobs, options, colours(), zarr).outcomes

    assert made.status is Status.DONE
    assert made.files == {"features": "a.zarr"}
    assert not (options.out / "a.zarr").exists(), "the slide's features should have moved"
    assert again.reused
    back = read_features(find_features([fetch_folder(bucket, tmp_path / "back")])["a"])
    direct = encode_directly(jobs[0], colours(), config)
    assert np.array_equal(back.features, direct.features)


def test_files_replace_those_of_an_earlier_run(bucket: str, tmp_path: Path) -> None:
    remote = RemoteFolder(bucket)
    for name in ("a.zarr/features/9", "a.h5", f"{slide_prefix('a')}/x.json", "b.zarr/zarr.json"):
        remote.write(name, b"old")
    (tmp_path / "a.zarr").mkdir()
    for name in ("a.zarr/zarr.json", "a.h5"):
        (tmp_path / name).write_bytes(b"new")

    move_files(bucket, tmp_path, "a", ["a.zarr", "a.h5"])

    assert remote.names("") == ["a.h5", "a.zarr/zarr.json", "b.zarr/zarr.json"]
    assert remote.read("a.h5") == b"new"
    assert not list(tmp_path.iterdir())


def test_commands_read_features_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = SlideFeatures(
        slide_id="a",
        features=rng.normal(size=(5, 7)).astype(np.float32),
        xy=rng.integers(0, 99, (5, 2)),
        passport=some_passport(),
        tiles={"patch_size_level0": 512},
    )
    write_features(tmp_path / "here", features, Layout.H5)
    RemoteFolder(bucket).upload(tmp_path / "here", "vectors")
    call = CliRunner().invoke

    verified = call(main, ["features", "verify", f"{bucket}/vectors", str(tmp_path / "here")])
    table = tmp_path / "means.csv"
    averaged = call(main, ["features", "mean", f"{bucket}/vectors", "--out", str(table)])
    nothing = call(main, ["features", "verify", f"{bucket}/other"])

    assert verified.exit_code == 0, verified.output
    assert averaged.exit_code == 0, averaged.output
    assert "a,5," in table.read_text().replace('"', "")
    assert nothing.exit_code == 1
    assert f"there is nothing below {bucket}/other" in nothing.output
