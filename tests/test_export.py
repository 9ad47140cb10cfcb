"""Predictions as Parquet and GeoJSON: exact round trips, and the structure that QuPath reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from shapely.geometry import shape as to_shape

from tests.stores import make_predictions
from wsi_pipeline.errors import PredictionsError
from wsi_pipeline.results.export.geojson import write_geojson
from wsi_pipeline.results.export.parquet import read_predictions, write_predictions
from wsi_pipeline.types import Predictions


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 60),
    seed=st.integers(0, 1000),
    pitch=st.floats(1, 1e5),
    extent=st.floats(1, 1e5),
)
def test_parquet_gives_back_every_bit(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, pitch: float, extent: float
) -> None:
    path = tmp_path_factory.mktemp("p") / "predictions.parquet"
    written = make_predictions((8, 8), n, extent=extent, pitch=pitch, seed=seed)
    write_predictions(path, written)
    read = read_predictions(path)
    for name in ("prob", "xy", "rc"):
        assert_array_equal(getattr(read, name), getattr(written, name))
        assert getattr(read, name).dtype == getattr(written, name).dtype
    for name in ("shape", "extent", "pitch", "class_names", "class_colors"):
        assert getattr(read, name) == getattr(written, name)


def test_parquet_gives_back_distances_and_doubts(tmp_path: Path) -> None:
    distance = np.linspace(0, 3, 20, dtype=np.float32)
    written = replace(make_predictions(n=20), distance=distance, doubts=("it is unlike",))
    write_predictions(tmp_path / "a.parquet", written)
    read = read_predictions(tmp_path / "a.parquet")
    assert read.distance is not None
    assert_array_equal(read.distance, distance)
    assert read.doubts == written.doubts
    assert read.unfamiliar_share == pytest.approx((distance > 1).mean())


def test_the_table_says_what_the_columns_promise(tmp_path: Path) -> None:
    predictions = make_predictions(n=20, extent=12.5)
    write_predictions(tmp_path / "a.parquet", predictions)
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert list(table) == [
        "x", "y", "extent", "row", "col",
        "prob_tumour", "prob_stroma", "prob_fat, other", "label", "entropy",
    ]  # fmt: skip
    assert table["x"] == predictions.xy[:, 0].tolist()
    assert table["y"] == predictions.xy[:, 1].tolist()
    assert set(table["extent"]) == {12.5}
    assert table["label"] == [predictions.class_names[label] for label in predictions.label]
    assert_allclose(table["entropy"], predictions.entropy, rtol=1e-6)
    for index, name in enumerate(predictions.class_names):
        assert_array_equal(np.float32(table[f"prob_{name}"]), predictions.prob[:, index])


def test_an_empty_table_keeps_its_types(tmp_path: Path) -> None:
    write_predictions(tmp_path / "a.parquet", make_predictions(n=0))
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.field("label").type == pa.string()
    assert schema.field("prob_tumour").type == pa.float32()
    assert schema.field("x").type == pa.int64()


@pytest.mark.parametrize("content", ["missing", "text", "foreign", "other schema", "no column"])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.parquet"
    write_predictions(path, make_predictions(n=3))
    table = pq.read_table(path)
    if content == "missing":
        path.unlink()
    elif content == "text":
        path.write_text("x,y\n1,2\n")
    elif content == "foreign":
        pq.write_table(table.replace_schema_metadata({}), path)
    elif content == "other schema":
        pq.write_table(table.replace_schema_metadata({"wsi_pipeline": '{"schema": 9}'}), path)
    else:
        pq.write_table(table.drop_columns(["prob_stroma"]), path)
    with pytest.raises(PredictionsError, match=r"a\.parquet is not a table of predictions"):
        read_predictions(path)


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written = make_predictions(n=40)
    write_predictions(path, written)
    whole = path.read_bytes()
    draws = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        content[draws.integers(len(content))] ^= 1 << int(draws.integers(8))
        path.write_bytes(content)
        try:
            read = read_predictions(path)
        except PredictionsError:
            refused += 1
            continue
        assert_array_equal(read.prob, written.prob)
        assert_array_equal(read.xy, written.xy)
        assert (read.class_names, read.extent) == (written.class_names, written.extent)
    assert refused > 100


def test_a_table_without_checksum_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    written = make_predictions(n=3)
    write_predictions(path, written)
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"wsi_pipeline"])
    older = {key: about[key] for key in about if key != "checksum"} | {"schema": 1}
    pq.write_table(table.replace_schema_metadata({"wsi_pipeline": json.dumps(older)}), path)
    assert_array_equal(read_predictions(path).prob, written.prob)


def features_in(path: Path) -> list[dict[str, Any]]:
    """Parse a collection as strictly as the standard has it."""
    document = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert document.keys() == {"type", "features"}
    assert document["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = document["features"]
    return features


def test_tiles_have_the_structure_that_qupath_reads(tmp_path: Path) -> None:
    predictions = make_predictions(n=20, extent=8, pitch=8)
    write_geojson(tmp_path / "a.geojson", predictions)
    features = features_in(tmp_path / "a.geojson")
    assert len(features) == 20
    for index, feature in enumerate(features):
        assert feature["type"] == "Feature"
        x, y = predictions.xy[index]
        assert to_shape(feature["geometry"]).equals(shapely.box(x, y, x + 8, y + 8))
        properties = feature["properties"]
        assert properties["objectType"] == "tile"
        label = int(predictions.label[index])
        color = predictions.class_colors[label]
        assert properties["classification"] == {
            "name": predictions.class_names[label],
            "color": [int(color[i : i + 2], 16) for i in (1, 3, 5)],
        }
        measured = properties["measurements"]
        assert list(measured) == ["prob tumour", "prob stroma", "prob fat, other", "entropy"]
        assert_allclose(list(measured.values())[:3], predictions.prob[index], atol=5.1e-5)


@pytest.mark.parametrize("n", [0, 1])
def test_few_tiles_are_legal(tmp_path: Path, n: int) -> None:
    write_geojson(tmp_path / "a.geojson", make_predictions(n=n))
    assert len(features_in(tmp_path / "a.geojson")) == n


@pytest.mark.parametrize("write", [write_geojson, write_predictions])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, write: Callable[[Path, Predictions], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    write(path, make_predictions(n=4))
    before = path.read_bytes()

    def fail(_: Predictions) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(Predictions, "entropy", property(fail))
    with pytest.raises(RuntimeError, match="boom"):
        write(path, make_predictions(n=5))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
