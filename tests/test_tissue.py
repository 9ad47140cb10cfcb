"""Tissue masks of pictures with known truth, and of real pictures marked by eye."""

from __future__ import annotations

import json
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from tests.drawn_slides import INKS, SIZE, areas_of, disc, glass, on_glass, overlap, stain, tissue
from tests.marked_pictures import MarkedPicture, marked_pictures
from wsi_pipeline.config import TileConfig, TissueConfig
from wsi_pipeline.errors import UnsupportedSlideError
from wsi_pipeline.tiles.grid import lay_grid
from wsi_pipeline.tissue import detect, detect_tissue, require_brightfield, sharpness
from wsi_pipeline.tissue.regions import connected_to, keep_by_area, within
from wsi_pipeline.types import Area, MppSource, SlideInfo, TissueMask

COVERSLIP = "histoqc_coverslip_edge_he.png"


@pytest.mark.parametrize("depth", [0.4, 1.0, 1.6])
def test_finds_a_disc_of_tissue(depth: float) -> None:
    truth = disc(90)
    assert overlap(areas_of(on_glass(truth, depth)) == Area.TISSUE, truth) > 0.97


def test_finds_faint_eosin() -> None:
    truth = disc(90)
    picture = glass()
    picture[truth] = stain(0.0, 0.12)
    assert overlap(areas_of(picture) == Area.TISSUE, truth) > 0.97


def test_clean_glass_holds_no_tissue() -> None:
    assert (areas_of(glass()) == Area.GLASS).all()


@pytest.mark.parametrize("rgb", [(240, 236, 228), (228, 232, 238), (255, 255, 255)])
def test_tinted_glass_holds_no_tissue(rgb: tuple[int, int, int]) -> None:
    assert (areas_of(np.full((64, 64, 3), rgb, dtype=np.uint8)) == Area.GLASS).all()


def test_a_field_of_tissue_without_glass_is_all_tissue() -> None:
    assert (areas_of(tissue()) == Area.TISSUE).mean() > 0.99


def test_mask_keeps_the_downsample() -> None:
    assert detect_tissue(glass(), 8.0, (31.9, 32.1), TissueConfig()).downsample == (31.9, 32.1)


@pytest.mark.parametrize(("mpp", "expected"), [(4.0, False), (12.0, True)])
def test_pieces_are_judged_by_micrometres(mpp: float, *, expected: bool) -> None:
    # pi * 13^2 = 531 px: 8,500 um2 at 4 um/px, 76,000 um2 at 12 um/px.
    found = areas_of(on_glass(disc(13)), mpp) == Area.TISSUE
    assert bool(found.any()) is expected


@pytest.mark.parametrize(("max_hole_um2", "filled"), [(60_000.0, True), (10_000.0, False)])
def test_holes_are_filled_up_to_a_size(max_hole_um2: float, *, filled: bool) -> None:
    hole = disc(15)  # 707 px = 45,000 um2
    found = areas_of(on_glass(disc(90) & ~hole), config=TissueConfig(max_hole_um2=max_hole_um2))
    assert bool(found[150, 150] == Area.TISSUE) is filled


def marked(ink: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A stroke across a disc of tissue and the glass around it, and where the stroke is."""
    stroke = np.zeros((SIZE, SIZE), dtype=np.uint8)
    cv2.line(stroke, (20, 60), (280, 170), (1,), 25)
    picture = on_glass(disc(90))
    picture[stroke > 0] = np.rint(picture[stroke > 0] * (np.array(ink) / 255))
    return picture, stroke > 0


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS.keys())
def test_pen_is_rejected_and_the_tissue_around_it_kept(ink: tuple[int, int, int]) -> None:
    picture, stroke = marked(ink)
    areas = areas_of(picture)
    assert (areas[stroke] == Area.PEN).mean() > 0.99
    kept = areas[disc(90) & ~stroke] == Area.TISSUE
    assert kept.mean() > 0.92  # a margin of 24 um on either side of the stroke goes with it
    assert not (areas == Area.TISSUE)[~disc(93)].any()


def test_a_blot_of_black_ink_is_pen() -> None:
    picture = on_glass(disc(90))
    blot = disc(35, centre=(80.0, 80.0))
    picture[blot] = (24, 24, 25)
    areas = areas_of(picture)
    assert (areas[blot] == Area.PEN).mean() > 0.99


@pytest.mark.parametrize("ink", ["green", "red"])
def test_pen_may_be_left_alone(ink: str) -> None:
    picture, stroke = marked(INKS[ink])
    areas = areas_of(picture, config=TissueConfig(reject_pen=False))
    assert not (areas == Area.PEN).any()
    assert (areas[stroke] == Area.TISSUE).mean() > 0.9


@pytest.mark.parametrize(
    "rgb",
    [
        pytest.param(tuple(stain(1.1, 0.3)), id="packed nuclei"),
        pytest.param(tuple(stain(0.0, 0.75)), id="muscle"),
        pytest.param((200, 112, 125), id="haemorrhage"),
    ],
)
def test_unusual_tissue_is_not_ink(rgb: tuple[int, int, int]) -> None:
    picture = on_glass(disc(90))
    picture[disc(30)] = rgb
    areas = areas_of(picture)
    assert not (areas == Area.PEN).any()
    assert (areas[disc(90)] == Area.TISSUE).mean() > 0.98


def test_black_border_is_named_and_costs_no_tissue() -> None:
    picture = on_glass(disc(90))
    border = np.ones((SIZE, SIZE), dtype=np.bool_)
    border[20:, :-30] = False
    picture[border] = 3
    areas = areas_of(picture)
    assert (areas[border] == Area.BLACK).mean() > 0.99
    assert overlap(areas == Area.TISSUE, disc(90)) > 0.97


def test_glass_edge_is_named_and_costs_little_tissue() -> None:
    picture = on_glass(disc(90))
    line = np.zeros((SIZE, SIZE), dtype=np.uint8)
    cv2.polylines(line, [np.array([(70, -5), (90, 120), (80, 305)])], False, (1,), 7)
    picture[line > 0] = (60, 61, 62)
    areas = areas_of(picture)
    assert (areas[line > 0] == Area.EDGE).mean() > 0.95
    assert (areas[disc(90) & (line == 0)] == Area.TISSUE).mean() > 0.95


def test_borders_and_edges_may_be_left_alone() -> None:
    picture = on_glass(disc(90))
    picture[:20] = 3
    areas = areas_of(picture, config=TissueConfig(reject_edges=False))
    assert set(np.unique(areas)) == {Area.GLASS, Area.TISSUE}


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_slide_has_a_mirrored_mask(axis: int) -> None:
    picture, _ = marked(INKS["green"])
    mirrored = areas_of(np.ascontiguousarray(np.flip(picture, axis)))
    assert (np.flip(mirrored, axis) == areas_of(picture)).mean() > 0.998


@settings(max_examples=40, deadline=None)
@given(
    rgb=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)), fill=st.just(240)
    ),
    mpp=st.sampled_from([2.0, 8.0, 40.0]),
)
def test_every_picture_gets_a_mask_of_its_shape(rgb: NDArray[np.uint8], mpp: float) -> None:
    areas = areas_of(rgb, mpp)
    assert areas.shape == rgb.shape[:2]
    assert np.isin(areas, list(Area)).all()


def test_large_overviews_are_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, _ = marked(INKS["green"])
    full = areas_of(picture)
    monkeypatch.setattr(detect, "MAX_PIXELS", SIZE * SIZE // 4)
    assert (areas_of(picture) == full).mean() > 0.95


def flood(region: NDArray[np.bool_], start: tuple[int, int]) -> set[tuple[int, int]]:
    """The 8-connected component of a pixel, one pixel at a time."""
    seen, waiting = set(), [start]
    while waiting:
        row, col = waiting.pop()
        inside = 0 <= row < region.shape[0] and 0 <= col < region.shape[1]
        if (row, col) in seen or not inside or not region[row, col]:
            continue
        seen.add((row, col))
        waiting += [(row + i, col + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return seen


@settings(max_examples=25, deadline=None)
@given(
    seeds=hnp.arrays(np.bool_, (7, 9)), region=hnp.arrays(np.bool_, (7, 9)), least=st.integers(0, 9)
)
def test_components_equal_those_of_a_flood(
    seeds: NDArray[np.bool_], region: NDArray[np.bool_], least: int
) -> None:
    both = seeds | region
    floods = {(r, c): flood(both, (int(r), int(c))) for r, c in np.argwhere(both)}
    held, large = np.zeros_like(both), np.zeros_like(both)
    for place, component in floods.items():
        held[place] = any(seeds[other] for other in component)
        large[place] = len(component) * 4.0 >= least * 4.0
    assert (connected_to(seeds, region) == held).all()
    assert (keep_by_area(both, 2.0, least_um2=least * 4.0) == large).all()


def test_growing_a_region_measures_micrometres() -> None:
    region = np.zeros((41, 41), dtype=np.bool_)
    region[20, 20] = True
    grown = within(region, 60.0, mpp=6.0)
    assert grown[20, 30]
    assert not grown[20, 31]
    assert not within(np.zeros_like(region), 60.0, mpp=6.0).any()


@pytest.mark.parametrize(
    "rgb",
    [
        pytest.param(glass(), id="glass"),
        pytest.param(tissue(depth=2.0), id="dense tissue"),
        pytest.param(np.pad(tissue(), ((0, 0), (400, 0), (0, 0))), id="black border"),
    ],
)
def test_brightfield_passes(rgb: NDArray[np.uint8]) -> None:
    require_brightfield(rgb, "case-1")


@pytest.mark.parametrize("channels", [(0, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_fluorescence_is_refused(channels: tuple[int, int, int]) -> None:
    nuclei = cv2.GaussianBlur((tissue()[..., 0] < 110).astype(np.float32) * 200, (0, 0), 2)
    rgb = (nuclei[..., np.newaxis] * np.array(channels)).astype(np.uint8)
    rgb[:150] = 4
    with pytest.raises(UnsupportedSlideError, match=r"case-1 is not a brightfield slide: \d+%"):
        require_brightfield(rgb, "case-1")


def test_a_black_overview_is_refused() -> None:
    with pytest.raises(UnsupportedSlideError, match="100% of its overview is black"):
        require_brightfield(np.zeros((20, 30, 3), dtype=np.uint8), "case-1")


def test_sharpness_falls_with_blur_and_is_zero_when_flat() -> None:
    patch = tissue(64, 64)
    blurs = [
        sharpness(np.asarray(cv2.GaussianBlur(patch, (0, 0), sigma), dtype=np.uint8))
        for sigma in (0.5, 1.0, 2.0)
    ]
    assert sharpness(patch) > blurs[0] > blurs[1] > blurs[2] > 0
    assert sharpness(np.full((64, 64, 3), 200, dtype=np.uint8)) == 0.0


def shrunk(rgb: NDArray[np.uint8], mpp: float) -> tuple[NDArray[np.uint8], float]:
    """The picture as the pipeline would see it: at 8 um/px, or as it is where that is coarser."""
    factor = max(1.0, 8.0 / mpp)
    size = (round(rgb.shape[1] / factor), round(rgb.shape[0] / factor))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8), mpp * factor


def picture_of(data_dir: Path, name: str) -> NDArray[np.uint8]:
    bgr = cv2.imread(str(data_dir / "stain" / name))
    assert bgr is not None
    return np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)


def mask_of(rgb: NDArray[np.uint8], mpp: float) -> TissueMask:
    small, small_mpp = shrunk(rgb, mpp)
    downsample = (rgb.shape[1] / small.shape[1], rgb.shape[0] / small.shape[0])
    return detect_tissue(small, small_mpp, downsample, TissueConfig())


def at_full_size(mask: TissueMask, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (rgb.shape[1], rgb.shape[0])
    return np.asarray(cv2.resize(mask.areas, size, interpolation=cv2.INTER_NEAREST))


def one_level(rgb: NDArray[np.uint8], mpp: float) -> SlideInfo:
    size = (rgb.shape[1], rgb.shape[0])
    return SlideInfo(
        slide_id="picture",
        size_wh=size,
        mpp=mpp,
        mpp_source=MppSource.FLAG,
        level_sizes_wh=(size,),
        level_downsamples=(1.0,),
        reader="none",
        vendor="none",
    )


@pytest.mark.data
@pytest.mark.parametrize(
    "marked_picture",
    [picture for picture in marked_pictures() if picture.name != COVERSLIP],
    ids=lambda picture: picture.name,
)
def test_marked_pictures_keep_tissue_and_no_tile_on_ink(
    data_dir: Path, marked_picture: MarkedPicture
) -> None:
    # Measured: tissue kept 0.968 to 1.000; strokes taken for tissue 0 to 0.023; the most ink in a
    # kept tile 0.016.
    rgb = picture_of(data_dir, marked_picture.name)
    mask = mask_of(rgb, marked_picture.mpp)
    areas = at_full_size(mask, rgb)
    ink = marked_picture.ink_mask(areas.shape)
    assert (areas[marked_picture.tissue_mask(areas.shape)] == Area.TISSUE).mean() >= 0.95
    assert (areas[ink] == Area.TISSUE).mean() <= 0.025
    side = max(8, round(128 / marked_picture.mpp))
    grid = lay_grid(
        one_level(rgb, marked_picture.mpp),
        mask,
        TileConfig(mpp=marked_picture.mpp, patch_size=side),
    )
    assert len(grid) > 0
    assert max(ink[y : y + side, x : x + side].mean() for x, y in grid.level_xy) <= 0.02


@pytest.mark.data
def test_coverslip_edge_is_named_and_the_tissue_kept(data_dir: Path) -> None:
    # Measured: tissue kept 0.993; edge named 1.000.
    (coverslip,) = (picture for picture in marked_pictures() if picture.name == COVERSLIP)
    rgb = picture_of(data_dir, COVERSLIP)
    areas = at_full_size(mask_of(rgb, coverslip.mpp), rgb)
    assert (areas[coverslip.tissue_mask(areas.shape)] == Area.TISSUE).mean() >= 0.95
    assert (areas[coverslip.ink_mask(areas.shape)] == Area.EDGE).mean() >= 0.95


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("histolab_tile_no-tissue-green-pen.png", 4.0),
        ("histolab_tile_no-tissue-red-pen.png", 4.0),
        ("histolab_tile_no-tissue-line.png", 1.0),
        ("histolab_tile_no-tissue.png", 1.0),
        ("histolab_tile_no-tissue2.png", 1.0),
        ("histoqc_pen_black.png", 16.0),
    ],
)
def test_pictures_without_tissue_have_none(data_dir: Path, name: str, mpp: float) -> None:
    rgb = picture_of(data_dir, name)
    require_brightfield(rgb, name)
    assert not mask_of(rgb, mpp).tissue.any()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("histolab_tcga-lung-rgb.png", 0.5),
        ("histolab_tile_high-nuclei-score-level0.png", 0.5),
        ("histolab_tile_tissue-level0-4302-10273-4814-10785.png", 0.5),
        ("histolytics_hgsc_nest.jpg", 0.25),
        ("skimage_ihc_DAB.png", 0.5),
        ("tiatoolbox_target_image.png", 0.25),
        ("torchstain_source.png", 1.0),
        ("torchstain_target.png", 1.0),
    ],
)
def test_fields_of_tissue_are_tissue(data_dir: Path, name: str, mpp: float) -> None:
    rgb = picture_of(data_dir, name)
    require_brightfield(rgb, name)
    assert mask_of(rgb, mpp).tissue.mean() > 0.99


@pytest.mark.data
def test_fluorescence_slide_is_refused_and_skin_is_not(data_dir: Path) -> None:
    slides = data_dir / "slides"
    fluorescence = tifffile.imread(slides / "hamamatsu_fluorescence_DAPI.ndpi", level=3)
    with pytest.raises(UnsupportedSlideError):
        require_brightfield(fluorescence, "DAPI")
    require_brightfield(tifffile.imread(slides / "CMU-1-Small-Region.svs"), "CMU-1")


def mosaic_overlaps(
    data_dir: Path, rgb: NDArray[np.uint8], mask: TissueMask
) -> tuple[list[float], NDArray[np.bool_]]:
    """Overlap of each of the 30 regions with the mask around it, and where any region is near."""
    outlines = data_dir / "slides" / "mosaic_monuseg_train_40x.geojson"
    regions = json.loads(outlines.read_text())["features"]
    scale = 4 * np.array([rgb.shape[1] / mask.areas.shape[1], rgb.shape[0] / mask.areas.shape[0]])
    overlaps, near_any = [], np.zeros(mask.areas.shape, dtype=np.bool_)
    for region in regions:
        corners = np.array(region["geometry"]["coordinates"][0]) / scale
        (x0, y0), (x1, y1) = np.rint([corners.min(axis=0), corners.max(axis=0)]).astype(int)
        truth, near = np.zeros_like(near_any), np.zeros_like(near_any)
        truth[y0:y1, x0:x1] = True
        near[y0 - 5 : y1 + 5, x0 - 5 : x1 + 5] = True
        overlaps.append(overlap(mask.tissue & near, truth))
        near_any |= near
    return overlaps, near_any


def mosaic(data_dir: Path) -> NDArray[np.uint8]:
    path = data_dir / "slides" / "mosaic_monuseg_train_40x.tif"
    return np.asarray(tifffile.imread(path, level=2), dtype=np.uint8)


@pytest.mark.data
def test_every_region_of_the_mosaic_is_found(data_dir: Path) -> None:
    rgb = mosaic(data_dir)
    mask = mask_of(rgb, 0.2527 * 4)
    overlaps, near_any = mosaic_overlaps(data_dir, rgb, mask)
    assert len(overlaps) == 30
    # Measured: mean 0.917, least 0.88; a region is 32 mask px wide, a row too many costs 0.03.
    assert np.mean(overlaps) >= 0.85
    assert min(overlaps) >= 0.8
    assert not (mask.tissue & ~near_any).any()
    assert not np.isin(mask.areas, [Area.PEN, Area.BLACK, Area.EDGE]).any()


@pytest.mark.data
@pytest.mark.parametrize(
    ("glass_rgb", "density"),
    [
        ((232, 227, 215), 1.0),
        ((218, 226, 238), 0.5),
        ((243, 242, 244), 1.5),
        ((243, 242, 244), 2.5),
    ],
)
def test_the_mosaic_is_found_on_other_glass_and_otherwise_stained(
    data_dir: Path, glass_rgb: tuple[int, int, int], density: float
) -> None:
    rgb = mosaic(data_dir)
    share = np.arange(256)[:, np.newaxis] / np.array([242, 242, 244])
    table = (np.array(glass_rgb) * share**density).round().clip(0, 255).astype(np.uint8)
    changed = np.asarray(cv2.LUT(rgb, table[np.newaxis]), dtype=np.uint8)

    mask = mask_of(changed, 0.2527 * 4)

    # Measured: mean 0.91 to 0.93.
    assert np.mean(mosaic_overlaps(data_dir, changed, mask)[0]) >= 0.85
    clean = mask_of(rgb, 0.2527 * 4).tissue.mean()
    assert mask.tissue.mean() == pytest.approx(clean, rel=0.1)


@pytest.mark.data
@pytest.mark.slow
def test_a_large_overview_takes_seconds(data_dir: Path) -> None:
    picture = picture_of(data_dir, "histoqc_pen_red.png")
    large = np.asarray(cv2.resize(picture, (5000, 5000)), dtype=np.uint8)
    begin = time.process_time()
    areas_of(large)
    assert time.process_time() - begin < 5.0


@pytest.mark.data
def test_scraps_of_a_drying_pen_are_ink(data_dir: Path) -> None:
    rgb = picture_of(data_dir, "histoqc_pen_red.png")
    areas = at_full_size(mask_of(rgb, 24.0), rgb)

    beside_the_stroke = areas[565:612, 790:850]

    assert (beside_the_stroke == Area.PEN).any()
    assert not (beside_the_stroke == Area.TISSUE).any()
