"""Cores of a tissue microarray: found, named by their place, written and read as QuPath's."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.stores import SLIDE, make_header, make_store
from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.results.export.tissue import write_cores, write_outlines
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.tissue.cores import name_cores
from wsi_pipeline.tissue.pieces import find_pieces
from wsi_pipeline.types import Area, TissueMask

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
