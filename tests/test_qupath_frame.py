"""QuPath counts from the corner of the scanned part; files from and for it do the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shapely.geometry import box, mapping

from tests.mirax import TILE_PX, write_mirax
from tests.stores import make_predictions
from wsi_pipeline.annotations import AnnotationFormat, read_annotations
from wsi_pipeline.results.export.geojson import write_geojson
from wsi_pipeline.slide.open import open_slide

FIRST_TILE = (4, 3)
BOUNDS_XY = (4 * TILE_PX, 3 * TILE_PX)


@pytest.fixture(scope="module")
def mirax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 2 x 3 tiles, glass but for one coloured tile in the middle of the left column."""
    path = tmp_path_factory.mktemp("mirax") / "s.mrxs"
    rgb = np.full((3 * TILE_PX, 2 * TILE_PX, 3), 245, dtype=np.uint8)
    rgb[TILE_PX : 2 * TILE_PX, :TILE_PX] = (150, 60, 140)
    write_mirax(path, rgb, FIRST_TILE)
    return path


def test_a_slide_with_room_around_it_says_where_it_begins(mirax: Path) -> None:
    with open_slide(mirax) as slide:
        assert slide.info.size_wh == (6 * TILE_PX, 6 * TILE_PX)
        assert slide.info.bounds_xy == BOUNDS_XY
        inside = slide.read_level(0, (BOUNDS_XY[0] + 40, BOUNDS_XY[1] + TILE_PX + 40), (9, 9))
    assert np.abs(inside.astype(int) - (150, 60, 140)).max() <= 6


def test_geojson_counts_from_there_and_other_formats_do_not(tmp_path: Path) -> None:
    square = box(10, 20, 30, 40)
    (tmp_path / "a.geojson").write_text(json.dumps(mapping(square)))
    points = [[10, 20], [30, 20], [30, 40], [10, 40]]
    (tmp_path / "ncrf.json").write_text(json.dumps({"positive": [{"vertices": points}]}))
    shares = [[x / 100, y / 100] for x, y in points]
    feature = {"geometry": {"type": "Polygon", "coordinates": [shares]}}
    camicroscope = [
        {
            "properties": {"annotations": {"notes": "x"}},
            "geometries": {"features": [feature]},
        }
    ]
    (tmp_path / "cami.json").write_text(json.dumps(camicroscope))
    corners = "".join(
        f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(points)
    )
    (tmp_path / "asap.xml").write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="x" Type="Polygon" PartOfGroup="None">'
        f"<Coordinates>{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
    (tmp_path / "imagescope.xml").write_text(
        f'<Annotations><Annotation Id="1" Name="x"><Regions><Region Id="1"><Vertices>{vertices}'
        "</Vertices></Region></Regions></Annotation></Annotations>"
    )

    found = {
        path.name: read_annotations(path, (100, 100), bounds_xy=(1000, 500))[0].geometry.bounds
        for path in tmp_path.iterdir()
    }

    assert len(found) + 1 == len(AnnotationFormat)
    assert found.pop("a.geojson") == (1010, 520, 1030, 540)
    assert set(found.values()) == {square.bounds}


def test_predictions_are_written_where_qupath_shows_them(tmp_path: Path) -> None:
    predictions = make_predictions((2, 2), extent=256.0, pitch=256.0)
    write_geojson(tmp_path / "a.geojson", predictions, (256, 512))

    again = read_annotations(tmp_path / "a.geojson", bounds_xy=(256, 512))

    first = json.loads((tmp_path / "a.geojson").read_text())["features"][0]
    assert first["geometry"]["coordinates"][0][0] == [-256, -512]
    assert [area.geometry.bounds[:2] for area in again] == [tuple(xy) for xy in predictions.xy]
