"""Cores of a tissue microarray: found, named by their place, written and read as QuPath's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.results import make_result, spec_of
from tests.stores import SLIDE, make_header, make_store
from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.predict.origin import with_origin
from wsi_pipeline.predict.trained import TrainedModel
from wsi_pipeline.results.export.anndata_file import build_anndata
from wsi_pipeline.results.export.geojson import write_geojson
from wsi_pipeline.results.export.parquet import read_predictions, write_predictions
from wsi_pipeline.results.export.regions import write_regions
from wsi_pipeline.results.export.tissue import write_cores, write_outlines
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.tissue.cores import name_cores
from wsi_pipeline.tissue.pieces import find_pieces
from wsi_pipeline.types import Area, Predictions, TissueMask

MPP = 0.5
MASK_PX = 16.0
"""Level-0 px per pixel of the mask: 8 um."""


def array(
    missing: set[str], *, radius: int = 50, tilt: float = 0.0
) -> tuple[TissueMask, list[str]]:
    """Draw 3 x 4 cores of 0.8 mm, 1.2 mm apart, some of them missing, and crumbs beside them."""
    areas = np.full((600, 800), Area.GLASS, dtype=np.uint8)
    names = []
    for row in range(3):
        for col in range(4):
            name = f"{'ABC'[row]}-{col + 1}"
            x, y = 110 + 150 * col, 110 + round(150 * row + tilt * 150 * col)
            if name not in missing:
                cv2.circle(areas, (x, y), radius - (row + col) % 3, int(Area.TISSUE), -1)
                names.append(name)
    return TissueMask(areas=areas, downsample=(MASK_PX, MASK_PX)), names


@pytest.mark.parametrize("tilt", [0.0, 0.08])
@pytest.mark.parametrize("missing", [set(), {"A-1"}, {"A-2", "B-4", "C-1"}])
def test_cores_are_named_by_their_place(missing: set[str], tilt: float) -> None:
    mask, names = array(missing, tilt=tilt)
    cv2.circle(mask.areas, (30, 560), 6, int(Area.TISSUE), -1)  # a crumb is no core
    pieces = find_pieces(mask, MPP)
    assert pieces.count == len(names) + 1

    found = name_cores(pieces, MPP)

    assert sorted(filter(None, found)) == names
    for name, number in zip(found, range(1, pieces.count + 1), strict=True):
        rows, cols = np.nonzero(pieces.labels == number)
        col = (cols.mean() - 110) / 150
        row = (rows.mean() - 110) / 150 - tilt * col
        crumb = len(rows) < 200
        assert name == ("" if crumb else f"{'ABC'[round(row)]}-{round(col) + 1}")


def test_sections_are_no_cores() -> None:
    few, _ = array({f"{row}-{col}" for row in "ABC" for col in (3, 4)} | {"C-1"})
    large, _ = array(set(), radius=60)
    wide = TissueMask(areas=large.areas, downsample=(100.0, 100.0))  # 6 mm
    line = TissueMask(areas=large.areas[:200], downsample=(MASK_PX, MASK_PX))
    for mask in (few, wide, line):
        pieces = find_pieces(mask, MPP)
        assert name_cores(pieces, MPP) == ("",) * pieces.count


def test_the_core_of_a_tile_is_in_every_table_and_export(tmp_path: Path) -> None:
    mask, _ = array({"A-2", "C-3"})
    cv2.circle(mask.areas, (260, 110), 6, int(Area.TISSUE), -1)  # a crumb where A-2 was
    size_wh = (12_800, 9_600)
    slide = replace(SLIDE, size_wh=size_wh, level_sizes_wh=(size_wh,), level_downsamples=(1.0,))
    store = make_store(tmp_path / "s" / "p.zarr", make_header(4, mask=mask, slide=slide))
    rc = np.array([[0, 0], [0, 1], [1, 3], [2, 0]], dtype=np.int32)
    found = Predictions(
        prob=np.full((4, 2), 0.5, dtype=np.float32),
        xy=np.array([560, 560]) + 2400 * rc[:, ::-1].astype(np.int64),
        rc=rc,
        shape=(3, 4),
        extent=2400.0,
        pitch=2400.0,
        class_names=("a", "b"),
        class_colors=("#000000", "#ffffff"),
    )
    model = TrainedModel(
        module=None,  # type: ignore[arg-type]  # nothing is predicted with it
        spec=spec_of(found),
        fingerprint="weights",
        trained_on="nothing",
    )
    found = with_origin(found, store, model)
    result = SlideResult(records=store, found=found)
    names = ["A-1", None, "B-4", "C-1"]

    write_predictions(tmp_path / "p.parquet", found)
    assert pq.read_table(tmp_path / "p.parquet")["core"].to_pylist() == names
    assert read_predictions(tmp_path / "p.parquet").core == names
    assert [name if name == name else None for name in build_anndata(result).obs["core"]] == names
    write_geojson(tmp_path / "tiles.geojson", found)
    tiles = json.loads((tmp_path / "tiles.geojson").read_text())["features"]
    assert [tile["properties"].get("name") for tile in tiles] == names
    write_regions(tmp_path / "regions.geojson", result)
    regions = json.loads((tmp_path / "regions.geojson").read_text())["features"]
    shown = {
        (region["properties"].get("name"), int(region["properties"]["measurements"]["piece"]))
        for region in regions
    }
    assert {name for name, _ in shown} >= set(names)
    assert all((result.cores[piece - 1] or None) == name for name, piece in shown)

    single = make_result(tmp_path / "none")
    write_predictions(tmp_path / "n.parquet", single.predictions)
    assert "core" not in pq.read_table(tmp_path / "n.parquet").column_names
    assert "core" not in build_anndata(single).obs


def test_cores_go_to_qupath_and_come_back(tmp_path: Path) -> None:
    mask, names = array({"B-2"})
    header = make_header(4, mask=mask)
    result = SlideResult(records=make_store(tmp_path / "p.zarr", header))
    write_outlines(tmp_path / "tissue.geojson", result)
    tissue = json.loads((tmp_path / "tissue.geojson").read_text())["features"]
    assert sorted(piece["properties"]["name"] for piece in tissue) == names

    write_cores(tmp_path / "cores.geojson", result)

    document = json.loads((tmp_path / "cores.geojson").read_text())
    cores = document["features"]
    assert sorted(core["properties"]["name"] for core in cores) == names
    assert {core["properties"]["objectType"] for core in cores} == {"tmaCore"}
    outlines = read_annotations(tmp_path / "cores.geojson", SLIDE.size_wh)
    assert len(outlines) == len(names)
    cores[0]["properties"]["isMissing"] = True
    (tmp_path / "back.geojson").write_text(json.dumps(document))
    assert len(read_annotations(tmp_path / "back.geojson", SLIDE.size_wh)) == len(names) - 1
