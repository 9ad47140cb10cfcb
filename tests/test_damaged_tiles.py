"""Slides with tiles that cannot be read: refused, or done without these and flagged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from tests.contracts.slide_files import halved
from tests.drawn_slides import disc, on_glass
from wsi_pipeline.config import ReadConfig, load_config
from wsi_pipeline.errors import SlideReadError
from wsi_pipeline.preprocess.doubts import find_doubts
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.slide.open import open_slide
from wsi_pipeline.types import TileReason

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

SIDE, COLUMNS = 32, 9
INSIDE = ((4, 4), (3, 5))
"""Row and column of tiles in the middle of the tissue."""

SLIDE = on_glass(disc(120))[: SIDE * COLUMNS, : SIDE * COLUMNS]


def write_damaged(path: Path, damaged: Any = INSIDE, level: int = 0) -> None:
    """Write a pyramid of two levels whose tiles are those of the grid, some of them overwritten."""
    options: dict[str, Any] = {"tile": (SIDE, SIDE), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tif:
        tif.write(SLIDE, compression="zlib", **options)
        tif.write(halved(SLIDE), subfiletype=1, compression="zlib", **options)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[level].aspage()
        columns = -(-page.imagewidth // SIDE)
        starts = [page.dataoffsets[row * columns + column] for row, column in damaged]
    with path.open("r+b") as file:
        for start in starts:
            file.seek(start)
            file.write(b"nonsense")


def prepared(path: Path, damaged_tiles: str = "drop", reader: str = "auto") -> PatchStore:
    config = load_config(
        overrides={
            "tile": {"mpp": 8.0, "patch_size": SIDE, "damaged_tiles": damaged_tiles},
            "read": {"slide_mpp": 8.0, "reader": reader},
        }
    )
    job = SlideJob(path=path, slide_id="damaged")
    return preprocess_slide(job, path.with_suffix(f".{damaged_tiles}.zarr"), config).store


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_damaged_tiles_are_dropped_with_a_reason_if_asked(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "a.tif"
    write_damaged(path, damaged=())
    sound = prepared(path, reader=reader)
    assert find_doubts(sound) == ()
    (tmp_path / "b").mkdir()
    path = tmp_path / "b" / "a.tif"
    write_damaged(path)

    store = prepared(path, reader=reader)

    expected = sound.reasons.copy()
    expected[tuple(np.transpose(INSIDE))] = TileReason.DAMAGED
    np.testing.assert_array_equal(store.reasons, expected)
    assert store.funnel()["damaged"] == len(INSIDE)
    assert len(store) == len(sound) - len(INSIDE)
    assert any("tiles that cannot be read are left out, 2 of them" in d for d in find_doubts(store))
    with pytest.raises(SlideReadError, match="--damaged-tiles drop"):
        prepared(path, "error", reader)


def test_what_a_reduced_level_lacks_is_made_from_the_finer_one(tmp_path: Path) -> None:
    write_damaged(tmp_path / "a.tif", ((2, 2), (0, 0)), level=1)
    with open_slide(tmp_path / "a.tif", ReadConfig(slide_mpp=8.0)) as s:
        lost: list[Any] = []
        rgb, _ = s.overview(16.0, oversampling=1, lost=lost)
        with pytest.raises(SlideReadError):
            s.overview(16.0, oversampling=1)
    assert not lost
    assert np.abs(rgb.astype(int) - halved(SLIDE)).max() <= 1


def test_what_no_level_holds_is_white_and_on_record(tmp_path: Path) -> None:
    write_damaged(tmp_path / "a.tif")
    with open_slide(tmp_path / "a.tif", ReadConfig(slide_mpp=8.0)) as s:
        lost: list[Any] = []
        rgb, _ = s.overview(8.0, oversampling=1, lost=lost)
    for row, column in INSIDE:
        tile = slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE)
        assert (rgb[tile] == 255).all()
        middle = (column + 0.5) * SIDE, (row + 0.5) * SIDE
        assert any(x0 < middle[0] < x1 and y0 < middle[1] < y1 for x0, y0, x1, y1 in lost)
