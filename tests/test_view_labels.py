"""Labels of the page: every change is in a file that QuPath opens, and can be undone."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import shape

from tests import stores
from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.errors import AnnotationError, ConfigError
from wsi_pipeline.learn import ClassName
from wsi_pipeline.view.classes import parse_classes, read_classes, write_classes
from wsi_pipeline.view.labels import LabelFile
from wsi_pipeline.view.shapes import BadShape, brush_area, erase

SLIDE = replace(stores.SLIDE, size_wh=(1000, 800), level_sizes_wh=((1000, 800), (500, 400)))
SQUARE = {
    "type": "Polygon",
    "coordinates": [[[10, 10], [30, 10], [30, 30], [10, 30], [10, 10]]],
}


def new_id() -> str:
    return str(uuid.uuid4())


def put(name: Any = "tumor", key: Any = None, **changes: Any) -> dict[str, Any]:
    values = {"id": key or new_id(), "geometry": SQUARE, "name": name, "color": "#d55e00"}
    return {"put": {**values, **changes}}


@pytest.fixture
def labels(tmp_path: Path) -> LabelFile:
    return LabelFile(tmp_path / "slide" / "labels.geojson", SLIDE)


def test_a_label_is_on_disk_when_the_change_is_confirmed(labels: LabelFile) -> None:
    labels.apply(put())

    (area,) = read_annotations(labels.path)
    assert area.name == "tumor"
    assert area.geometry.equals(shapely.box(10, 10, 30, 30))
    (feature,) = json.loads(labels.path.read_text())["features"]
    assert feature["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "tumor", "color": [213, 94, 0]},
    }


def test_a_brush_covers_what_lies_within_its_radius(labels: LabelFile) -> None:
    stroke = {"points": [[100, 100], [200, 100], [200, 150]], "radius": 20}
    labels.apply({"brush": {"id": new_id(), "name": "a", "color": "#000000", **stroke}})

    (area,) = labels.areas()
    line = shapely.LineString(stroke["points"])
    assert area.geometry.symmetric_difference(line.buffer(20)).area < 0.02 * area.geometry.area


def test_erasing_cuts_labels_and_removes_those_that_are_gone(labels: LabelFile) -> None:
    gone, cut, apart = new_id(), new_id(), new_id()
    far = {"type": "Polygon", "coordinates": [[[500, 500], [600, 500], [600, 600], [500, 500]]]}
    wide = {"type": "Polygon", "coordinates": [[[0, 0], [200, 0], [200, 40], [0, 40], [0, 0]]]}
    labels.apply(put(key=gone))
    labels.apply(put(key=cut, geometry=wide))
    labels.apply(put(key=apart, geometry=far))

    answer = labels.apply({"erase": {"points": [[20, 20]], "radius": 30}})

    assert set(answer["done"]) == {gone, cut}
    assert answer["done"][gone] is None
    left = {feature["id"]: shape(feature["geometry"]) for feature in labels.features()}
    assert set(left) == {cut, apart}
    assert left[cut].distance(shapely.Point(20, 20)) == pytest.approx(30, abs=0.5)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3), st.integers(0, 90)),
        st.tuples(st.just("brush"), st.integers(0, 3), st.integers(0, 90)),
        st.tuples(st.just("erase"), st.integers(0, 90), st.integers(0, 90)),
        st.tuples(st.just("remove"), st.integers(0, 3), st.just(0)),
    ),
    max_size=8,
)
KEYS = [str(uuid.UUID(int=number)) for number in range(4)]


def request(kind: str, a: int, b: int) -> dict[str, Any]:
    if kind == "put":
        box = shapely.geometry.mapping(shapely.box(b, b, b + 20, b + 20))
        return put(key=KEYS[a], geometry=json.loads(json.dumps(box)))
    if kind == "brush":
        stroke = {"points": [[b, a], [b + 9, a + 30]], "radius": 5}
        return {"brush": {"id": KEYS[a], "name": "x", "color": "#123456", **stroke}}
    if kind == "erase":
        return {"erase": {"points": [[a, b]], "radius": 12}}
    return {"restore": {KEYS[a]: None}}


@settings(deadline=None, max_examples=30)
@given(STEPS)
def test_undoing_everything_gives_the_first_state_and_redoing_the_last(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    labels = LabelFile(tmp_path_factory.mktemp("undo") / "l.geojson", SLIDE)
    labels.apply(put(key=KEYS[0]))
    first = labels.features()
    undos = [labels.apply(request(*step))["undo"] for step in steps]
    last = {feature["id"]: feature for feature in labels.features()}

    redos = [labels.apply({"restore": undo})["undo"] for undo in reversed(undos)]
    assert labels.features() == first
    for redo in reversed(redos):
        labels.apply({"restore": redo})
    assert {feature["id"]: feature for feature in labels.features()} == last


def test_what_qupath_wrote_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "labels.geojson"
    point = {
        "type": "Feature",
        "id": new_id(),
        "geometry": {"type": "Point", "coordinates": [5, 5]},
        "properties": {"objectType": "detection", "measurements": {"Area µm^2": 3.5}},
    }
    locked = {
        "type": "Feature",
        "id": new_id(),
        "geometry": SQUARE,
        "properties": {"objectType": "annotation", "isLocked": True, "metadata": {"a": "b"}},
    }
    path.write_text(json.dumps([point, locked, SQUARE]), encoding="utf-8")
    labels = LabelFile(path, SLIDE)

    labels.apply(put(key=locked["id"], name="stroma"))

    written = {feature["id"]: feature for feature in labels.features()}
    assert len(written) == 3
    assert written[point["id"]] == point
    properties = written[locked["id"]]["properties"]
    assert properties["isLocked"]
    assert properties["metadata"] == {"a": "b"}
    assert properties["classification"]["name"] == "stroma"


def test_annotations_of_another_format_are_shown_and_become_editable(tmp_path: Path) -> None:
    given_file = tmp_path / "given.xml"
    given_file.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor">'
        '<Coordinates><Coordinate Order="0" X="0" Y="0"/><Coordinate Order="1" X="9" Y="0"/>'
        '<Coordinate Order="2" X="9" Y="9"/></Coordinates></Annotation></Annotations>'
        "</ASAP_Annotations>"
    )
    before = given_file.read_bytes()
    labels = LabelFile(tmp_path / "labels.geojson", SLIDE, given_file)
    (shown,) = labels.features()
    assert shown["properties"]["classification"]["name"] == "Tumor"
    assert not labels.path.exists()

    labels.apply({"erase": {"points": [[9, 0]], "radius": 3}})

    assert given_file.read_bytes() == before
    (area,) = labels.areas()
    assert area.name == "Tumor"
    assert 0 < area.geometry.area < 40.5


def test_files_count_from_where_qupath_begins_and_the_page_from_the_corner(tmp_path: Path) -> None:
    slide = replace(SLIDE, bounds_xy=(100, 40))
    labels = LabelFile(tmp_path / "labels.geojson", slide)

    labels.apply(put())

    (written,) = json.loads(labels.path.read_text())["features"]
    assert shape(written["geometry"]).bounds == (-90, -30, -70, -10)
    (shown,) = labels.features()
    assert shape(shown["geometry"]).bounds == (10, 10, 30, 30)
    (area,) = labels.areas()
    assert area.geometry.bounds == (10, 10, 30, 30)


BAD: list[Any] = [
    None,
    [],
    {},
    {"put": {}},
    {"put": None},
    {"put": {}, "erase": {}},
    put(key="../../x"),
    put(name=""),
    put(name="x" * 201),
    put(name=3),
    put(color="red"),
    put(color="#12345G"),
    put(geometry=None),
    put(geometry={"type": "Point", "coordinates": [1, 2]}),
    put(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}),
    put(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}),
    put(geometry={"type": "Polygon", "coordinates": "no"}),
    put(geometry={"type": "Polygon", "coordinates": [[[0, 0], [float("nan"), 1], [2, 0]]]}),
    {"brush": {"id": new_id(), "points": [], "radius": 3, "name": "a", "color": "#000000"}},
    {"brush": {"id": new_id(), "points": [[0, 0]], "radius": 0, "name": "a", "color": "#000000"}},
    {"erase": {"points": [[0]], "radius": 3}},
    {"erase": {"points": [[0, "x"]], "radius": 3}},
    {"erase": {"points": [[0, 0]], "radius": True}},
    {"restore": {"no-id": None}},
    {"restore": {new_id(): {"id": "another"}}},
]


@pytest.mark.parametrize("change", BAD, ids=range(len(BAD)))
def test_a_change_that_makes_no_sense_is_refused_and_changes_nothing(
    labels: LabelFile, change: Any
) -> None:
    labels.apply(put())
    before = labels.path.read_bytes()

    with pytest.raises(BadShape):
        labels.apply(change)

    assert labels.path.read_bytes() == before


def test_a_damaged_file_is_left_alone(labels: LabelFile) -> None:
    labels.path.parent.mkdir()
    labels.path.write_text('{"type": "FeatureCollection", "feat')

    with pytest.raises(AnnotationError, match="put it aside"):
        labels.apply(put())

    assert labels.path.read_text().endswith('"feat')


def test_erasing_beside_an_area_leaves_the_very_same_area() -> None:
    assert erase(SQUARE, brush_area([[500, 500]], 5)) is SQUARE


def test_classes_are_kept_with_their_colours_and_as_a_label_map(tmp_path: Path) -> None:
    classes = [ClassName(name="tumor, high", color="#d55e00"), ClassName(name="ü", color="#000000")]

    write_classes(tmp_path, classes)

    assert read_classes(tmp_path) == classes
    from wsi_pipeline.config import LabelConfig, read_toml

    config = LabelConfig.model_validate(read_toml(tmp_path / "classes.toml"))
    assert list(config.classes) == ["tumor, high", "ü"]


@pytest.mark.parametrize(
    "values",
    [
        None,
        ["a"],
        [{"name": "a"}],
        [{"name": " ", "color": "#000000"}],
        [{"name": "a", "color": "#00000g"}],
        [{"name": "a", "color": "#000000"}] * 2,
        [{"name": str(i), "color": "#000000"} for i in range(65)],
    ],
)
def test_classes_that_make_no_sense_are_refused(values: Any) -> None:
    with pytest.raises(ConfigError):
        parse_classes(values)
