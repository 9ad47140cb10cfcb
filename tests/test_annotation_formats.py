"""Areas from ASAP, ImageScope, caMicroscope and NCRF files, told apart by their content."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from shapely.geometry import Point, Polygon, box

from wsi_pipeline.annotations import Annotation, AnnotationFormat, read_annotations
from wsi_pipeline.errors import AnnotationError

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10]]
INNER = [[2, 2], [4, 2], [4, 4], [2, 4]]
SIZE_WH = (2000, 1000)


def write(path: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def names(found: tuple[Annotation, ...]) -> list[str]:
    return [annotation.name for annotation in found]


def asap(*annotations: str) -> str:
    return (
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{"".join(annotations)}'
        f"</Annotations><AnnotationGroups/></ASAP_Annotations>"
    )


def asap_annotation(
    points: list[list[int]], kind: str = "Polygon", group: str = "None", name: str = "mine"
) -> str:
    # written backwards, so that only Order tells the ring
    coordinates = "".join(
        f'<Coordinate Order="{order}" X="{x}.0" Y="{y}" />'
        for order, (x, y) in reversed(list(enumerate(points)))
    )
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{coordinates}</Coordinates></Annotation>"
    )


def imagescope(*layers: str) -> str:
    return f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>'


def layer(*regions: str, name: str = "", attribute: str = "") -> str:
    return (
        f'<Annotation Id="7" Name="{name}"><Attributes>{attribute}</Attributes>'
        f"<Regions>{''.join(regions)}</Regions></Annotation>"
    )


def region(points: list[list[int]], negative: int = 0, kind: int = 0, text: str = "") -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return (
        f'<Region Id="3" Type="{kind}" Text="{text}" NegativeROA="{negative}">'
        f"<Vertices>{vertices}</Vertices></Region>"
    )


def camicroscope(notes: str, kind: str, coordinates: Any) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": coordinates}
    return {
        "properties": {"annotations": {"name": f"{notes}_x1", "notes": notes}},
        "geometries": {"features": [{"type": "Feature", "geometry": geometry}]},
    }


SHARES = [[0.1, 0.1], [0.2, 0.1], [0.2, 0.3], [0.1, 0.3], [0.1, 0.1]]


def test_asap_areas_are_named_by_group_else_by_themselves(tmp_path: Path) -> None:
    document = asap(
        asap_annotation(SQUARE),
        asap_annotation(INNER, kind="Spline", group="Tumor"),
        asap_annotation([[5, 5]], kind="Dot", group="Tumor"),
        asap_annotation(SQUARE, kind="PointSet"),
    )
    found = read_annotations(write(tmp_path / "a.xml", document))

    assert names(found) == ["mine", "Tumor"]
    assert found[0].geometry.equals(box(0, 0, 10, 10))
    assert found[1].geometry.equals(box(2, 2, 4, 4))


@pytest.mark.parametrize(
    ("name", "attribute", "text", "expected"),
    [
        ("Tumor", '<Attribute Name="CaP" Value="x"/>', "t", "Tumor"),
        ("", '<Attribute Name="Description" Value="Stroma"/>', "t", "Stroma"),
        ("", '<Attribute Name="CaP" Value=""/>', "t", "CaP"),
        ("", '<Attribute Name="Description" Value=""/>', "t", "t"),
        ("", "", "", ""),
    ],
)
def test_imagescope_names_come_from_the_layer_first(
    tmp_path: Path, name: str, attribute: str, text: str, expected: str
) -> None:
    document = imagescope(layer(region(SQUARE, text=text), name=name, attribute=attribute))
    assert names(read_annotations(write(tmp_path / "a.xml", document))) == [expected]


def test_negative_regions_cut_holes_into_their_own_layer(tmp_path: Path) -> None:
    document = imagescope(
        layer(region(INNER, negative=1), region(SQUARE), name="with hole"),
        layer(region(SQUARE), name="whole"),
        layer(region(SQUARE, negative=1), region(INNER), name="nothing left"),
    )
    holed, whole = read_annotations(write(tmp_path / "a.xml", document))

    assert (holed.name, holed.geometry.area) == ("with hole", 96)
    assert not holed.geometry.contains(Point(3, 3))
    assert (whole.name, whole.geometry.area) == ("whole", 100)


def test_imagescope_ellipses_are_areas_and_rulers_are_not(tmp_path: Path) -> None:
    corners = [[10, 20], [50, 40]]
    document = imagescope(layer(region(corners, kind=2), region(corners, kind=4), name="e"))
    (ellipse,) = read_annotations(write(tmp_path / "a.xml", document))

    assert ellipse.geometry.bounds == pytest.approx((10, 20, 50, 40))
    assert ellipse.geometry.area == pytest.approx(3.14159 * 20 * 10, rel=1e-3)


def test_camicroscope_shares_become_level_0_pixels(tmp_path: Path) -> None:
    document = [
        camicroscope("High NC ", "Polygon", [SHARES]),
        camicroscope("Lymph-Positive", "LineString", [SHARES]),
        camicroscope("Necrosis", "LineString", SHARES[:-1]),
        camicroscope("Normal", "Point", [0.5, 0.5]),
    ]
    found = read_annotations(write(tmp_path / "a.json", document), SIZE_WH)

    assert names(found) == ["High_NC", "Lymph-Positive", "Necrosis"]
    assert all(area.geometry.equals_exact(found[0].geometry, 1e-9) for area in found)
    assert found[0].geometry.bounds == pytest.approx((200, 100, 400, 300))


def test_camicroscope_needs_the_size_of_the_slide(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [camicroscope("EN", "Polygon", [SHARES])])
    with pytest.raises(AnnotationError, match=r"a\.json states places as shares .*give the size"):
        read_annotations(path)


def test_ncrf_lists_are_two_classes(tmp_path: Path) -> None:
    document = {
        "negative": [{"name": "island", "vertices": INNER}],
        "positive": [{"name": "lesion", "vertices": SQUARE}],
    }
    found = read_annotations(write(tmp_path / "a.json", document))

    assert names(found) == ["positive", "negative"]
    assert [area.geometry.area for area in found] == [100, 4]


@pytest.mark.parametrize(
    ("content", "element"),
    [
        (asap(asap_annotation(SQUARE), asap_annotation(SQUARE[:2])), "Annotation 1 (Name 'mine')"),
        (asap(asap_annotation(SQUARE, kind="Blob")), "unknown Type 'Blob'"),
        (asap('<Annotation Name="a"/>'), "Annotation 0 (Name 'a')"),
        (asap(asap_annotation(SQUARE)).replace('X="10.0"', 'X="ten"'), "'ten'"),
        (asap(asap_annotation(SQUARE)).replace('Order="1"', ""), "Annotation 0"),
        (imagescope(layer(region([]))), "Annotation '7' Region '3'"),
        (imagescope(layer(region(SQUARE))).replace('X="10"', 'X="nan"'), "not finite"),
        (imagescope(layer(region(SQUARE))).replace("X=", "Q="), "Annotation '7' Region '3'"),
        ([camicroscope("EN", "Polygon", [SHARES]), {"geometries": 3}], "annotation 1"),
        ([camicroscope("EN", "Circle", [SHARES])], "unknown geometry type 'Circle'"),
        ([camicroscope("EN", "Polygon", [[[200, 100]] * 4])], "share of the slide's size"),
        ([{"geometries": {"features": []}, "properties": {}}], "annotation 0"),
        ({"positive": [{"vertices": SQUARE}, {}]}, "positive[1]"),
        ({"negative": [{"vertices": "none"}]}, "negative[0]"),
    ],
)
def test_a_malformed_element_is_named(tmp_path: Path, content: object, element: str) -> None:
    path = write(tmp_path / "bad", content)
    with pytest.raises(AnnotationError) as raised:
        read_annotations(path, SIZE_WH)
    assert element in str(raised.value)
    assert str(path) in str(raised.value)
    assert raised.value.path == path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<ASAP_Annotations><Annotations>", "cannot be read as XML"),
        ("<html/>", "XML of 'html'"),
        ("{", "cannot be read as JSON"),
        ({"positive": 3}, "is not ncrf"),
        ({"annotation": {"location": "POLYGON ((0 0))"}}, "not valid GeoJSON"),
        (
            '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><Annotations>&c;</Annotations>',
            "cannot be read as XML",
        ),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><Annotations>&x;</Annotations>',
            "cannot be read as XML",
        ),
    ],
)
def test_a_file_of_no_known_form_is_refused(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(AnnotationError, match="bad") as raised:
        read_annotations(write(tmp_path / "bad", content), SIZE_WH)
    assert said in str(raised.value)


def test_the_format_can_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [])
    assert read_annotations(path, SIZE_WH, AnnotationFormat.CAMICROSCOPE) == ()
    assert read_annotations(path) == ()
    with pytest.raises(AnnotationError, match="is not ncrf"):
        read_annotations(path, SIZE_WH, AnnotationFormat.NCRF)
    with pytest.raises(AnnotationError, match="cannot be read as XML"):
        read_annotations(path, SIZE_WH, AnnotationFormat.ASAP)


def test_a_byte_order_mark_and_blanks_hide_no_format(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    content = imagescope(layer(region(SQUARE), name="x"))
    path.write_bytes(b"\xef\xbb\xbf\n " + content.encode())
    assert names(read_annotations(path)) == ["x"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagescope_TCGA-EJ-5518.xml", {"CaP": 2, "": 2}),
        ("TCGA-B0-5710-01Z-00-DX1.xml", None),
        ("TCGA-B0-5711-01Z-00-DX1.xml", None),
        ("camelyon16_ncrf/Normal_001.json", None),
        ("camelyon16_ncrf/Tumor_001.json", None),
        ("camelyon16_ncrf/Tumor_009.json", None),
        ("camelyon16_ncrf/Tumor_010.json", None),
        ("camelyon16_ncrf/Tumor_110.json", None),
        ("wsidicom_formats/asap/asap-polygon.xml", {"Annotation 0": 1}),
        ("wsidicom_formats/asap/asap-dot.xml", {}),
        ("wsidicom_formats/asap/asap-pointset.xml", {}),
        ("histoqc_holed.geojson", {"": 1}),
        ("class-m_examples/TCGA-3Z-A93Z_852.json", None),
    ],
)
def test_real_files_are_read(data_dir: Path, name: str, expected: dict[str, int] | None) -> None:
    found = read_annotations(data_dir / "annotations" / name, (50_000, 40_000))
    counts = Counter(names(found))
    if expected is not None:
        assert counts == expected
    elif "ncrf" in name:
        assert set(counts) <= {"positive", "negative"}
        assert ("positive" in counts) == ("Tumor" in name)
    else:
        assert counts.total() > 5
    assert all(area.geometry.is_valid and area.geometry.area > 0 for area in found)


@pytest.mark.data
def test_a_real_hole_is_a_hole(data_dir: Path) -> None:
    (area,) = read_annotations(data_dir / "annotations" / "histoqc_holed.geojson")
    assert isinstance(area.geometry, Polygon)
    assert len(area.geometry.interiors) == 1


@pytest.fixture(scope="module")
def released_files(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 420 annotation files of the CLASS-M release, unpacked."""
    folder = tmp_path_factory.mktemp("class-m")
    with tarfile.open(data_dir / "annotations/class-m_tcga_ccrcc_annotations.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (details,) = folder.rglob("polygon_annotation_details")
    return details


@pytest.mark.data
def test_the_release_of_class_m_is_read_whole(released_files: Path) -> None:
    files = sorted(released_files.glob("*.json"))
    found = [area for file in files for area in read_annotations(file, (40_000, 30_000))]
    counts = Counter(names(tuple(found)))
    published = {
        "EN": 1183 - 1, "SN": 617 - 1, "Tubular": 529, "High_NC": 159, "Tubulopapillary": 151,
        "Normal": 141, "Fat": 103, "Necrosis": 78, "Lymphocytes": 60, "Rhabdoid": 48,
        "Hemangiomatous": 37, "SSP": 31, "Sarc": 28, "Alveolar": 28, "Paneth_cell": 17,
        "Pleomorphic_giant_cells": 15, "Regressive": 13, "Papillary": 13, "LGS": 13, "FN": 12,
    }  # fmt: skip

    assert len(files) == 420
    # 3,297 polygons, of which two are lines there and back, and 7 lines that outline areas
    assert len(found) == 3297 - 2 + 7
    assert len(counts) == 30 - 1  # Lymph-Negative marks points only
    assert {name: counts[name] for name in published} == published
    assert all(area.geometry.is_valid for area in found)
