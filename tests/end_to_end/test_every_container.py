"""Every container of the real slides at every level, beside OpenSlide and tifffile, or mutated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import openslide
import pytest
import tifffile

from tests.contracts.slide_files import RGB, halved
from wsi_pipeline.config import ReaderName
from wsi_pipeline.slide.readers import open_reader
from wsi_pipeline.slide.readers.base import composite_on_white

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsi_pipeline.slide.readers import Reader

pytestmark = pytest.mark.data

TIFFS = (
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region.ome.tif",
    "CMU-1-Small-Region_generic-pyramid.tif",
    "OS-1-detail_HE.ome.tif",
    "OS-2-vsi_Ki67-IHC.ome.tif",
    "mosaic_monuseg_train_40x.tif",
    "fixtures/boxes.tiff",
)
FOR_OPENSLIDE = (
    "CMU-1-Small-Region.svs",
    "CMU-1-Small-Region_generic-pyramid.tif",
    "mosaic_monuseg_train_40x.tif",
    "fixtures/boxes.tiff",
    "hamamatsu_fluorescence_DAPI.ndpi",
    "CMU-1-Small-Region_dicom",
    "fixtures/boxes_0.dcm",
    "fixtures/highdicom_sm_image.dcm",
)
SIDE = 700


def places(size_wh: tuple[int, int]) -> list[tuple[int, int]]:
    width, height = size_wh
    return [(0, 0), (width // 3 + 5, height // 4 + 3), (width - SIDE // 2, height - SIDE // 2)]


def patches(reader: Reader, level: int) -> list[RGB]:
    return [reader.read(level, xy, (SIDE, SIDE)) for xy in places(reader.level_sizes_wh[level])]


@pytest.mark.parametrize("name", TIFFS)
def test_every_level_equals_tifffile(data_dir: Path, name: str) -> None:
    path = data_dir / "slides" / name
    with open_reader(path, ReaderName.TIFF) as reader, tifffile.TiffFile(path) as tif:
        levels = tif.series[0].levels
        if name == "CMU-1-Small-Region.svs":
            # tifffile counts every page of an SVS of one level as a series of its own
            assert len(reader.level_sizes_wh) == 1
        else:
            assert reader.level_sizes_wh == tuple(
                (page.keyframe.imagewidth, page.keyframe.imagelength) for page in levels
            )
        for level, size in enumerate(reader.level_sizes_wh):
            whole = np.full((size[1] + SIDE, size[0] + SIDE, 3), 255, np.uint8)
            pixels = levels[level].asarray()
            whole[: size[1], : size[0]] = (
                np.moveaxis(pixels, 0, -1) if pixels.shape[0] == 3 else (pixels[..., :3])
            )
            for (x, y), patch in zip(places(size), patches(reader, level), strict=True):
                if x < 0 or y < 0:
                    continue
                np.testing.assert_array_equal(patch, whole[y : y + SIDE, x : x + SIDE])


@pytest.mark.parametrize("name", FOR_OPENSLIDE)
def test_every_level_equals_openslide(data_dir: Path, name: str) -> None:
    path = data_dir / "slides" / name
    file = next(iter(sorted(path.glob("*.dcm")))) if path.is_dir() else path
    with open_reader(path) as reader, openslide.OpenSlide(file) as other:
        assert reader.level_sizes_wh == other.level_dimensions[: len(reader.level_sizes_wh)]
        for level, size in enumerate(reader.level_sizes_wh):
            for xy, patch in zip(places(size), patches(reader, level), strict=True):
                downsample = reader.level_downsamples[level]
                corner = round(xy[0] * downsample), round(xy[1] * downsample)
                rgba = np.asarray(other.read_region(corner, level, (SIDE, SIDE)))
                theirs = np.empty(patch.shape, np.uint8)
                composite_on_white(rgba, theirs)
                if level == 0 or xy == (0, 0):
                    assert np.abs(patch.astype(int) - theirs).mean() < 0.01, (level, xy)
                    continue
                # OpenSlide interpolates where a downsample is not whole: what is as fine as a pixel
                # is blurred, and what is coarser must be the same
                ours, theirs = (
                    cv2.blur(picture, (5, 5)).astype(int) for picture in (patch, theirs)
                )
                assert np.abs(ours - theirs).mean() < 1.0, (level, xy)


# --- mutated pyramids ---


def real_pyramid(data_dir: Path) -> list[RGB]:
    path = data_dir / "slides" / "CMU-1-Small-Region.svs"
    with open_reader(path) as reader:
        pixels = reader.read(0, (100, 300), (2048, 2560))
    levels = [pixels]
    for _ in range(3):
        levels.append(halved(levels[-1]))
    return levels


def write(path: Path, images: list[tuple[RGB, dict[str, Any]]]) -> None:
    with tifffile.TiffWriter(path) as tif:
        for pixels, options in images:
            given = {"tile": (256, 256), "photometric": "rgb", "metadata": None, **options}
            tif.write(pixels, **given)


def macro() -> tuple[RGB, dict[str, Any]]:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return np.kron(blocks, np.ones((40, 40, 1), np.uint8)), {}


MUTATIONS: dict[str, Callable[[list[tuple[RGB, dict[str, Any]]]], Any]] = {
    "none": lambda images: images,
    "macro last": lambda images: [*images, macro()],
    "macro first": lambda images: [macro(), *images],
    "macro flagged as reduced": lambda images: [*images, (macro()[0], {"subfiletype": 1})],
    "levels coarse to fine": lambda images: [images[0], *images[:0:-1]],
    "base last": lambda images: [*images[1:], images[0]],
    "a level twice": lambda images: [*images, images[2]],
    "a level mirrored": lambda images: [
        *images, (np.ascontiguousarray(images[1][0][:, ::-1]), {"subfiletype": 1}),
    ],
    "thumbnail in strips": lambda images: [
        images[0], (images[2][0], {"tile": None, "rowsperstrip": 32}), *images[1:],
    ],
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
@pytest.mark.parametrize("compression", [None, "jpeg"])
@pytest.mark.parametrize("flagged", [True, False])
def test_mutated_pyramids_give_the_levels_that_were_there(
    data_dir: Path, tmp_path: Path, mutation: str, compression: str | None, *, flagged: bool
) -> None:
    levels = real_pyramid(data_dir)
    cm: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    images: list[tuple[RGB, dict[str, Any]]] = [
        (pixels, {"subfiletype": int(flagged and level > 0), **(cm if level == 0 else {})})
        for level, pixels in enumerate(levels)
    ]
    path = tmp_path / "mutated.tif"
    write(
        path,
        [(pixels, {**o, "compression": compression}) for pixels, o in MUTATIONS[mutation](images)],
    )
    with open_reader(path, ReaderName.TIFF) as reader:
        assert reader.level_sizes_wh == tuple(p.shape[1::-1] for p in levels)
        for level, pixels in enumerate(levels):
            loss = np.abs(reader.read(level, (0, 0), pixels.shape[1::-1]).astype(int) - pixels)
            assert loss.mean() <= (5 if compression == "jpeg" else 0)
