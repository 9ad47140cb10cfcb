"""Areas of synthetic slides: drawn again, they are the class map they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_pipeline.annotations import read_annotations
from wsi_pipeline.synthetic import CLASS_NAMES, SyntheticTruth, default_stains, write_areas

SIZE = 24
DOWNSAMPLE = 8


def make_truth(class_map: np.ndarray) -> SyntheticTruth:
    height, width = class_map.shape
    return SyntheticTruth(
        class_map=class_map.astype(np.uint8),
        downsample=DOWNSAMPLE,
        size_wh=(width * DOWNSAMPLE, height * DOWNSAMPLE),
        mpp=0.5,
        stains=default_stains(),
    )


def redraw(path: Path, truth: SyntheticTruth) -> np.ndarray:
    """Look up the class at the centre of each map pixel; -1 where areas of two classes meet."""
    height, width = truth.class_map.shape
    y, x = np.mgrid[0:height, 0:width]
    points = shapely.points((x + 0.5) * DOWNSAMPLE, (y + 0.5) * DOWNSAMPLE)
    drawn = np.zeros((height, width), dtype=np.int64)
    for area in read_annotations(path, truth.size_wh):
        inside = shapely.contains(area.geometry, points)
        drawn[inside] = np.where(drawn[inside] == 0, CLASS_NAMES.index(area.name), -1)
    return drawn


def blocks(small: np.ndarray) -> np.ndarray:
    """Enlarge a map so that every area is at least 4 pixels wide, as those of slides are."""
    return np.kron(small, np.ones((4, 4), dtype=np.uint8))


@settings(max_examples=40, deadline=None)
@given(small=arrays(np.uint8, (SIZE // 4, SIZE // 4), elements=st.integers(0, 4)))
def test_areas_drawn_again_are_the_class_map(
    tmp_path_factory: pytest.TempPathFactory, small: np.ndarray
) -> None:
    truth = make_truth(blocks(small))
    path = tmp_path_factory.mktemp("areas") / "areas.geojson"
    if not small.any():
        write_areas(path, truth)
        assert '"features": []' in path.read_text()
        return

    write_areas(path, truth)

    assert np.array_equal(redraw(path, truth), truth.class_map)


def test_a_hole_is_a_hole_and_what_lies_in_it_is_an_area(tmp_path: Path) -> None:
    class_map = np.full((SIZE, SIZE), 2)
    class_map[6:18, 6:18] = 0
    class_map[10:14, 10:14] = 2
    truth = make_truth(class_map)
    write_areas(tmp_path / "areas.geojson", truth)

    areas = read_annotations(tmp_path / "areas.geojson", truth.size_wh)

    assert [area.name for area in areas] == ["stroma", "stroma"]
    expected = np.array([SIZE**2 - 12**2, 4**2]) * DOWNSAMPLE**2
    drawn = sorted(area.geometry.area for area in areas)
    assert drawn == pytest.approx(sorted(expected.tolist()), rel=0.005)  # corners of holes are cut
