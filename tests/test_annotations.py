"""Areas from GeoJSON: every form QuPath writes, repaired or refused with the element named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box, mapping

from wsi_pipeline.annotations import crossings, read_annotations, read_polygons
from wsi_pipeline.annotations.crossings import unite
from wsi_pipeline.errors import AnnotationError

QUPATH = "annotations/wsidicom_formats/qupath_geojson"
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]]}
FEATURE = {"type": "Feature", "geometry": SQUARE, "properties": {"name": "roi 1"}}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"type": "FeatureCollection", "features": [FEATURE]}, "roi 1"),
        (FEATURE, "roi 1"),
        ([FEATURE], "roi 1"),
        (SQUARE, ""),
        ([SQUARE], ""),
        ({"type": "GeometryCollection", "geometries": [SQUARE]}, ""),
    ],
)
def test_every_form_of_a_document_is_read(tmp_path: Path, document: object, name: str) -> None:
    (annotation,) = read_polygons(write(tmp_path / "a.geojson", document))
    assert annotation.geometry.equals(box(0, 0, 10, 10))
    assert annotation.name == name


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"name": "Tumor", "color": [200, 0, 0]}, "name": "roi 1"}, "Tumor"),
        ({"classification": {"names": ["Tumor", "CD3+"]}}, "Tumor: CD3+"),
        ({"name": "roi 1"}, "roi 1"),
        ({"name": None, "classification": None}, ""),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_class_is_preferred_to_the_name(
    tmp_path: Path, properties: dict[str, Any] | None, name: str
) -> None:
    document = {**FEATURE, "properties": properties}
    assert read_polygons(write(tmp_path / "a.geojson", document))[0].name == name


def test_holes_stay_holes(tmp_path: Path) -> None:
    ring = Polygon(box(0, 0, 10, 10).exterior, [box(2, 2, 4, 4).exterior])
    (annotation,) = read_polygons(write(tmp_path / "a.geojson", mapping(ring)))
    assert annotation.geometry.area == 96
    assert not annotation.geometry.contains(shapely.Point(3, 3))


def test_multipolygons_are_one_annotation(tmp_path: Path) -> None:
    parts = MultiPolygon([box(0, 0, 1, 1), box(5, 5, 7, 7)])
    (annotation,) = read_polygons(write(tmp_path / "a.geojson", mapping(parts)))
    assert annotation.geometry.equals(parts)


def test_outlines_that_cross_themselves_are_repaired(tmp_path: Path) -> None:
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]}
    (annotation,) = read_polygons(write(tmp_path / "a.geojson", bow_tie))
    assert annotation.geometry.is_valid
    assert annotation.geometry.area == pytest.approx(8)


def test_open_rings_and_third_coordinates_are_accepted(tmp_path: Path) -> None:
    ring = {"type": "Polygon", "coordinates": [[[0, 0, 5], [3, 0, 5], [3, 3, 5], [0, 3, 5]]]}
    (annotation,) = read_polygons(write(tmp_path / "a.geojson", ring))
    assert annotation.geometry.equals(box(0, 0, 3, 3))
    assert not annotation.geometry.has_z


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "MultiPoint", "coordinates": [[1, 2]]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [8, 8], [0, 0]]]},
        {"type": "Polygon", "coordinates": []},
        None,
    ],
)
def test_what_has_no_area_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, geometry: dict[str, Any] | None
) -> None:
    caplog.set_level("INFO")
    empty = {"type": "Feature", "geometry": geometry, "properties": {}}
    found = read_polygons(write(tmp_path / "a.geojson", [empty, FEATURE, empty]))
    assert [annotation.name for annotation in found] == ["roi 1"]
    assert "2 elements without an area left out" in caplog.text


def test_an_empty_collection_is_legal(tmp_path: Path) -> None:
    document = {"type": "FeatureCollection", "features": []}
    assert read_polygons(write(tmp_path / "a.geojson", document)) == ()


@pytest.mark.parametrize(
    "element",
    [
        {"type": "Feature"},
        {"type": "Circle", "coordinates": [1, 2]},
        {"coordinates": []},
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]},
        {"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 2], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[0], [1], [2], [0]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1e999, 1], [2, 2], [0, 0]]]},
        {"type": "Polygon", "coordinates": 7},
        {"type": "Feature", "geometry": SQUARE, "properties": 3},
        {"type": "Feature", "geometry": SQUARE, "properties": {"classification": 3}},
        "text",
        None,
    ],
)
def test_malformed_elements_are_named(tmp_path: Path, element: object) -> None:
    path = write(tmp_path / "bad.geojson", [FEATURE, element])
    with pytest.raises(AnnotationError, match=r"bad\.geojson: element 1 is not valid") as raised:
        read_polygons(path)
    assert raised.value.path == path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'"text"',
        b"7",
        b'{"type": "FeatureCollection"}',
    ],
)
def test_files_that_are_not_geojson_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.geojson"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=r"bad\.geojson .*export the annotations"):
        read_polygons(path)


@pytest.mark.parametrize("points", [3_000, 20_000])
def test_outlines_that_cross_without_end_are_refused(tmp_path: Path, points: int) -> None:
    ring = np.random.default_rng(0).integers(0, 100_000, (points, 2)).tolist()
    path = write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
    with pytest.raises(AnnotationError, match=r"element 0 .* crosses itself more than"):
        read_polygons(path)


def test_an_outline_that_crosses_itself_here_and_there_is_repaired(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 2_000, endpoint=False)
    ring = 5_000 + 1_000 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ring[::40] = ring[1::40] + 0.5
    path = write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [ring.tolist()]})
    (annotation,) = read_polygons(path)
    assert annotation.geometry.is_valid
    assert annotation.geometry.area == pytest.approx(np.pi * 1_000**2, rel=0.01)


@pytest.mark.parametrize("limit", ["MAX_JSON_LISTS", "MAX_XML_TAGS"])
def test_files_of_too_many_points_are_refused_unparsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"wsi_pipeline.annotations.{limit}", 3)
    path = write(tmp_path / "a.geojson", FEATURE)
    if limit == "MAX_XML_TAGS":
        path.write_text("<ASAP_Annotations><Annotations/><a/><b/></ASAP_Annotations>")
    with pytest.raises(AnnotationError, match="more than the 3 that are read; simplify"):
        read_polygons(path) if limit == "MAX_JSON_LISTS" else read_annotations(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"Polygon","coordinates":[[[0,0],[' + "9" * 400 + ",0],[5,5]]]}",
        '{"type":"Polygon","coordinates":[[[0,0],[NaN,0],[5,5]]]}',
        '{"type":"Polygon","coordinates":[[[0,0],[1e30,0],[5,5]]]}',
        '{"type":"Polygon","coordinates":[[[0,0],["5",0],[5,5]]]}',
        '{"type":"Polygon","coordinates":[["00","50","55"]]}',
        '{"type":"Polygon","coordinates":[[[0,0],[true,0],[5,5]]]}',
        '{"type":"GeometryCollection","geometries":[' * 900 + "]}" * 900,
    ],
    ids=["400 digits", "nan", "far", "text", "letters", "true", "nested"],
)
def test_coordinates_that_are_no_places_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.geojson"):
        read_polygons(tmp_path / "a.geojson")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none\.geojson cannot be read"):
        read_polygons(tmp_path / "none.geojson")


def test_monstrous_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.geojson", FEATURE)
    monkeypatch.setattr("wsi_pipeline.annotations.MAX_FILE_BYTES", 10)
    with pytest.raises(AnnotationError, match="more than the 10 that are read"):
        read_polygons(path)


@given(
    points=st.lists(
        st.tuples(st.integers(0, 50_000), st.integers(0, 50_000)), min_size=4, max_size=12
    )
)
def test_any_outline_becomes_valid_or_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[int, int]]
) -> None:
    document = {"type": "Polygon", "coordinates": [[*points, points[0]]]}
    for annotation in read_polygons(write(tmp_path_factory.mktemp("a") / "a.geojson", document)):
        assert annotation.geometry.is_valid
        assert annotation.geometry.area > 0
        assert annotation.geometry.geom_type in ("Polygon", "MultiPolygon")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "count", "first_name", "first_area"),
    [
        ("annotations/histoqc_holed.geojson", 1, "", 7_827_735),
        ("annotations/histoqc_qupath_geojson_example.json", 2, "Tumor", 2_265_677_914),
        (
            f"{QUPATH}/qupath-rectangle.json",
            1,
            "rectangle",
            36_960,
        ),
        (f"{QUPATH}/qupath-wand.json", 1, "wand", 2_652),
        ("slides/mosaic_monuseg_train_40x.geojson", 30, "liver_or_lung", 1_000_000),
    ],
)
def test_real_exports_are_read(
    data_dir: Path, name: str, count: int, first_name: str, first_area: float
) -> None:
    found = read_polygons(data_dir / name)
    assert len(found) == count
    assert found[0].name == first_name
    assert found[0].geometry.area == pytest.approx(first_area, abs=1)


@pytest.mark.data
def test_every_real_export_is_read_or_has_no_area(data_dir: Path) -> None:
    folder = data_dir / QUPATH
    counts = {path.stem: len(read_polygons(path)) for path in sorted(folder.glob("*.json"))}
    without_area = {"qupath-line", "qupath-point", "qupath-multipoint", "qupath-polyline"}
    assert len(counts) == 9
    assert {name for name, count in counts.items() if not count} == without_area


def comb(teeth: int, *, across: bool) -> shapely.Polygon:
    """A sound area whose teeth cross every tooth of one at right angles."""
    x = np.repeat(np.arange(2 * teeth), 2)
    y = np.tile([1.0, 5000.0, 5000.0, 1.0], teeth)
    xy = np.stack([x, y], axis=1)[:: 1 if across else -1]
    ends = [[0.0, 0.0], [2.0 * teeth, 0.0]] if not across else [[2.0 * teeth, 0.0], [0.0, 0.0]]
    return shapely.Polygon(np.concatenate([xy, ends])[:, :: -1 if across else 1])


def test_areas_that_cross_without_end_are_not_united(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = ([comb(n, across=a) for a in (False, True)] for n in (20, 300))
    assert all(area.is_valid for area in (*few, *many))

    assert unite(few).equals(shapely.union_all(few))
    with pytest.raises(AnnotationError, match="cross one another more than 300000 times"):
        unite(many)
    # sides that lie beside each other cross nowhere, and their boxes everywhere
    slanted = [shapely.Polygon([(0, i), (999, 999 + i), (999, 999.5 + i)]) for i in range(400)]
    assert unite(slanted).area == pytest.approx(sum(area.area for area in slanted))
    monkeypatch.setattr(crossings, "MAX_PAIRS", 1000)
    with pytest.raises(AnnotationError, match="cross one another"):
        unite(slanted)
