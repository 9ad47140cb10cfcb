"""Pictures: the right colour at the right place, and every word a reader needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tests.results import make_result
from tests.stores import SLIDE, make_header, make_predictions, make_stain, make_store
from wsi_pipeline.results.class_map import ClassRule
from wsi_pipeline.results.heatmap import paint_heatmap
from wsi_pipeline.results.palette import SAFE, class_colors
from wsi_pipeline.results.pictures import draw_classes, draw_probability, draw_qc
from wsi_pipeline.results.pictures.heatmap import (
    OPACITY,
    class_opacity,
    classes_sheet,
    legend_classes,
    probability_sheet,
    viridis,
)
from wsi_pipeline.results.pictures.qc import (
    AREA_COLORS,
    LABEL_TINT,
    TILE_COLOR,
    TISSUE_COLOR,
    qc_sheet,
    stain_colors,
)
from wsi_pipeline.results.pictures.sheet import MARGIN_PX, TITLE_PX, Sheet, nice_length_um, rgb
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.types import Area, Heatmap, Predictions, StainVerdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsi_pipeline.store import PatchStore

COLORS = ("#ff0000", "#00ff00", "#0000ff")
GREY = np.full(3, 230.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return make_store(tmp_path_factory.mktemp("pictures") / "a.zarr", make_header(21))


def checkered() -> Heatmap:
    """Predict class 0 in the top half, class 1 in the bottom left, nothing at the right edge."""
    values = np.full((8, 10, 3), np.nan, dtype=np.float32)
    values[:4, :9] = (1, 0, 0)
    values[4:, :5] = (0, 1, 0)
    return Heatmap(values=values, cell_px=8.0, class_names=("A", "B", "C"), class_colors=COLORS)


def checkered_result(store: PatchStore, rule: ClassRule | None = None) -> SlideResult:
    rc = np.argwhere(~np.isnan(checkered().values[..., 0])).astype(np.int32)
    found = Predictions(
        prob=checkered().values[tuple(rc.T)],
        xy=rc[:, ::-1].astype(np.int64) * 8,
        rc=rc,
        shape=(8, 10),
        extent=8.0,
        pitch=8.0,
        class_names=("A", "B", "C"),
        class_colors=COLORS,
    )
    return SlideResult(records=store, found=found, rule=rule or ClassRule())


def words(sheet: Sheet) -> str:
    return "\n".join(sheet.words)


def pixel_at(sheet: Sheet, xy: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the colour that the picture shows at a place of the slide."""
    col, row = (int(side * sheet.scale) for side in xy)
    return np.asarray(sheet.pixels()[TITLE_PX + row, MARGIN_PX + col])


def test_class_colours_lie_where_the_classes_are_and_end_with_the_tissue(
    store: PatchStore,
) -> None:
    sheet = classes_sheet(checkered_result(store))
    # tissue are x 30 to 90 and y 20 to 60
    for xy, color in (((36, 26), (255, 0, 0)), ((36, 48), (0, 255, 0))):
        expected = (1 - OPACITY[1]) * GREY + OPACITY[1] * np.array(color)
        assert_allclose(pixel_at(sheet, xy), expected, atol=2)
    for xy in ((76, 26), (60, 48), (110, 70), (25, 26), (36, 15)):
        coloured = xy == (76, 26)  # the top row reaches to x 72 only
        assert_allclose(pixel_at(sheet, xy), GREY, atol=2, err_msg=str((xy, coloured)))


def test_the_boundary_of_classes_is_where_the_cells_say(store: PatchStore) -> None:
    sheet = classes_sheet(checkered_result(store))
    above, below = (pixel_at(sheet, (36, y)).astype(int) for y in (31.8, 32.2))
    assert above[0] > above[1]
    assert below[1] > below[0]


def test_the_legend_names_classes_areas_and_shares(store: PatchStore) -> None:
    text = words(classes_sheet(checkered_result(store)))
    mm2 = (0.5 / 1000) ** 2
    a, b = 42 * 12 * mm2, 10 * 28 * mm2
    assert f"A\n{a:.3g}\n{a / (a + b):.1%}\nB\n{b:.3g}\n{b / (a + b):.1%}\nC\n0\n0.0%" in text
    assert f"all tissue\n{2400 * mm2:.3g}" in text
    assert "slide-1" in text


def test_a_threshold_leaves_tissue_without_class(store: PatchStore) -> None:
    rule = ClassRule(classes=("B",), threshold=0.5)
    sheet = classes_sheet(checkered_result(store, rule))
    assert_allclose(pixel_at(sheet, (36, 26)), GREY, atol=2)
    assert pixel_at(sheet, (36, 48))[1] > 240
    assert "below the threshold" in words(sheet)


def test_opacity_grows_with_probability() -> None:
    values = np.array([[[0.34, 0.33, 0.33], [0.6, 0.2, 0.2], [1, 0, 0]]], dtype=np.float32)
    heatmap = Heatmap(values=values, cell_px=1, class_names=COLORS, class_colors=COLORS)
    (alpha,) = class_opacity(heatmap)
    assert alpha[0] == pytest.approx(OPACITY[0], abs=0.01)
    assert alpha[2] == pytest.approx(OPACITY[1])
    assert (np.diff(alpha) > 0).all()


def test_one_class_is_shown_by_its_probability(store: PatchStore) -> None:
    sheet = probability_sheet(store, checkered(), "B")
    low = pixel_at(sheet, (36, 16)).astype(int)
    high = pixel_at(sheet, (20, 48)).astype(int)
    assert high[1] > low[1] + 50, "yellow is certain, violet is not"
    assert_allclose(pixel_at(sheet, (60, 48)), GREY, atol=1)
    assert "Probability of B" in words(sheet)


def test_viridis_runs_from_violet_to_yellow() -> None:
    low, middle, high = viridis(np.array([0.0, 0.5, 1.0])).astype(int)
    assert low.tolist() == [68, 1, 84]
    assert middle[1] > middle[0]
    assert high[0] > 240 > 60 > high[2]


def test_an_unknown_class_is_refused(store: PatchStore) -> None:
    with pytest.raises(ValueError, match="'D' is not one of A, B, C"):
        probability_sheet(store, checkered(), "D")


def test_a_slide_without_tiles_is_drawn(tmp_path: Path) -> None:
    empty = make_result(tmp_path, n=0)
    draw_qc(tmp_path / "qc.png", empty.records)
    draw_classes(tmp_path / "heatmap.png", empty)
    draw_probability(tmp_path / "one.png", empty.records, empty.heatmap, "stroma")
    nothing = paint_heatmap(make_predictions((0, 0), 0))
    draw_probability(tmp_path / "none.png", empty.records, nothing, "stroma")
    assert "no tissue has a class" in words(classes_sheet(empty))
    assert len(list(tmp_path.glob("*.png"))) == 4


def test_the_picture_says_in_words_what_it_shows(tmp_path: Path, store: PatchStore) -> None:
    draw_qc(tmp_path / "qc.png", store)
    with Image.open(tmp_path / "qc.png") as picture:
        assert picture.text["Description"].startswith("slide-1: quality control")  # type: ignore[attr-defined]
        assert_array_equal(np.asarray(picture), qc_sheet(store).pixels())


def test_every_kept_tile_is_outlined_and_no_other(store: PatchStore) -> None:
    sheet = qc_sheet(store)
    bare = Sheet(store, "").panel.astype(int)
    touched = np.abs(sheet.panel - bare).max(axis=-1) > 30
    kept = {tuple(rc) for rc in store.rc.tolist()}
    for row, col in np.ndindex(8, 10):
        # the upper edge in its middle, drawn too where the tile above is kept
        y, x = (row * 8 * sheet.scale, (col * 8 + 4) * sheet.scale)
        drawn = touched[max(0, round(y) - 2) : round(y) + 2, round(x)].any()
        assert drawn == ((row, col) in kept or (row - 1, col) in kept), (row, col)


def test_lines_of_small_tiles_are_faint(tmp_path: Path) -> None:
    large = replace(
        SLIDE, size_wh=(12_000, 8_000), level_sizes_wh=((12_000, 8_000), (6_000, 4_000))
    )
    store = make_store(tmp_path / "a.zarr", make_header(80, slide=large))
    panel = qc_sheet(store).panel
    assert np.abs(panel[:40, :60].astype(int) - 230).max() < 60


def test_labels_are_tinted_counted_and_named(tmp_path: Path) -> None:
    label = np.full(30, -1, dtype=np.int16)
    label[:10], label[10:12] = 1, 0
    header = make_header(30, label=label, label_names=("tumour", "stroma"), group=("P-7",) * 30)
    store = make_store(tmp_path / "a.zarr", header)
    sheet = qc_sheet(store)
    text = words(sheet)
    mm2 = 64 * (0.5 / 1000) ** 2
    assert (
        f"Labels\ntumour\n2\n{2 * mm2:.3g} mm²\nstroma\n10\n{10 * mm2:.3g} mm²\nno class\n18"
        in text
    )
    assert "patient P-7" in text
    for index in (0, 10, 20):
        expected = GREY
        if label[index] >= 0:
            color = rgb(class_colors(2)[label[index]])
            expected = (1 - LABEL_TINT) * GREY + LABEL_TINT * color
        x, y = store.xy[index] + 4
        if store.areas[y // 5, x // 5] != Area.PEN:
            assert_allclose(pixel_at(sheet, (x, y)), expected, atol=3)


def test_the_funnel_and_the_verdict_are_written(store: PatchStore) -> None:
    text = words(qc_sheet(store))
    assert "Tiles (80 candidates)" in text
    for reason, count in store.funnel().items():
        assert f"{reason.replace('_', ' ')}\n{count}\n{count / 80:.1%}" in text
    for expected in ("\nok\n", "40.2° between H and E", "12,345 pixels", "hematoxylin", "eosin"):
        assert expected in text
    assert "pen (left out)" in text
    assert "edge (left out)" not in text, "only what the slide shows is explained"
    assert "Labels" not in text


def test_a_fallback_says_why(tmp_path: Path) -> None:
    nan = float("nan")
    stain = make_stain(verdict=StainVerdict.FALLBACK, reasons=("too little tissue",), angle_deg=nan)
    text = words(qc_sheet(make_store(tmp_path / "a.zarr", make_header(3, stain=stain))))
    assert "fallback" in text
    assert "too little tissue" in text
    assert "between H and E" not in text


def test_artefacts_are_tinted_and_tissue_is_outlined(tmp_path: Path) -> None:
    sheet = qc_sheet(make_store(tmp_path / "a.zarr", make_header(0)))
    expected = 0.55 * 230 + 0.45 * rgb(AREA_COLORS[Area.PEN])
    # mask pixel (14, 21): 5 level-0 px each, below the tiles of the lattice
    assert_allclose(pixel_at(sheet, (107.5, 71.0)), expected, atol=3)
    # the left edge of the tissue is at mask column 6
    column = np.array([pixel_at(sheet, (x, 43.0)) for x in np.arange(28.5, 31.6, 0.1)])
    assert np.abs(column - rgb(TISSUE_COLOR).astype(int)).max(axis=1).min() < 30


def test_tissue_up_to_the_border_is_outlined(tmp_path: Path) -> None:
    header = make_header(0)
    header.mask.areas[...] = Area.TISSUE
    panel = qc_sheet(make_store(tmp_path / "a.zarr", header)).panel
    assert_allclose(panel[300, 0], rgb(TISSUE_COLOR), atol=40)


def test_stain_colours_follow_the_beer_lambert_law() -> None:
    matrix = make_stain().matrix
    h = 255 * 10 ** -(matrix.vectors[0] * 1.5)
    assert_allclose(stain_colors(matrix)[0], h)
    assert (stain_colors(matrix) <= 255).all()


@pytest.mark.parametrize(
    ("width", "length"),
    [(4, 1), (7.9, 1), (8, 2), (20, 5), (40, 10), (4000, 1000), (59_999, 10_000), (0.4, 0.1)],
)
def test_scale_bars_have_round_lengths(width: float, length: float) -> None:
    assert nice_length_um(width) == pytest.approx(length)


def test_the_scale_bar_has_the_length_it_states(store: PatchStore) -> None:
    sheet = classes_sheet(checkered_result(store))
    row = sheet.pixels()[TITLE_PX + sheet.panel.shape[0] + 18]
    # 120 px of 0.5 um are 60 um, a quarter of them 15 um
    assert (row == 0).all(axis=1).sum() == pytest.approx(10 / 0.5 * sheet.scale, abs=2)
    assert "10 µm" in sheet.words


def test_a_failed_drawing_leaves_the_old_picture(
    tmp_path: Path, store: PatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "qc.png"
    draw_qc(path, store)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_qc(path, store)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("room", "listed"),
    [(5, [3, 1, 0, 2]), (4, [3, 1, 0, 2]), (3, [3, 1]), (1, [3])],
)
def test_a_legend_without_room_for_all_lists_the_largest_classes(
    room: int, listed: list[int]
) -> None:
    assert legend_classes(np.array([0, 0.3, 0, 0.7]), room).tolist() == listed


def test_a_legend_of_many_classes_says_what_it_leaves_out(store: PatchStore) -> None:
    result = checkered_result(store)
    prob = np.full((len(result.predictions), 100), 0.001, dtype=np.float32)
    prob[np.arange(len(prob)), np.arange(len(prob))] = 0.9
    many = replace(
        result.predictions,
        prob=prob,
        class_names=tuple(f"cluster {number}" for number in range(1, 101)),
        class_colors=tuple(f"#0000{number:02x}" for number in range(100)),
    )
    sheet = classes_sheet(SlideResult(records=store, found=many))
    text = words(sheet)
    with_area = sum(
        mm2 > 0 for mm2 in SlideResult(records=store, found=many).areas[0].class_mm2.values()
    )
    listed = text.count("cluster ")
    assert 5 < listed < with_area
    assert f"and {with_area - listed} more with" in text
    assert sheet.room > 0


def test_names_are_written_as_they_are(tmp_path: Path) -> None:
    named = replace(SLIDE, slide_id="a$b$_^{2} <c> 東京")
    text = words(qc_sheet(make_store(tmp_path / "a.zarr", make_header(3, slide=named))))
    assert text.startswith("a$b$_^{2} <c> 東京: quality control")


def test_default_colours_are_eight_that_anyone_tells_apart() -> None:
    assert class_colors(3) == SAFE[:3]
    assert len(set(class_colors(8))) == 8
    assert class_colors(9)[8] == SAFE[0]
    assert TILE_COLOR not in SAFE
