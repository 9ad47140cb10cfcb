"""Pictures: the right colour at the right place, and every word a reader needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from tests.stores import make_header, make_predictions, make_stain, make_store
from wsi_pipeline.results.heatmap import paint_heatmap
from wsi_pipeline.results.pictures import draw_heatmap, draw_qc
from wsi_pipeline.results.pictures.frame import nice_length_um
from wsi_pipeline.results.pictures.heatmap import (
    OPACITY,
    class_overlay,
    class_shares,
    heatmap_figure,
    legend_classes,
    probability_overlay,
)
from wsi_pipeline.results.pictures.qc import AREA_COLORS, qc_figure, stain_colors
from wsi_pipeline.types import Area, Heatmap, StainVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from wsi_pipeline.store import PatchStore

COLORS = ("#ff0000", "#00ff00", "#0000ff")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return make_store(tmp_path_factory.mktemp("pictures") / "a.zarr", make_header(21))


def checkered() -> Heatmap:
    """Predict class 0 in the top half, class 1 in the bottom left, nothing at the right edge."""
    values = np.full((8, 10, 3), np.nan, dtype=np.float32)
    values[:4, :9] = (1, 0, 0)
    values[4:, :5] = (0, 1, 0)
    return Heatmap(values=values, cell_px=8.0, class_names=("A", "B", "C"), class_colors=COLORS)


def words(figure: Figure) -> str:
    """Join every text of a figure, legends included."""
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [text.get_text() for text in axes.texts]
        legend = axes.get_legend()
        texts += [text.get_text() for text in legend.get_texts()] if legend else []
    return "\n".join(texts)


def rendered(figure: Figure) -> NDArray[np.uint8]:
    figure.canvas.draw()
    rgba: NDArray[np.uint8] = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    return rgba[..., :3]


def pixel_at(figure: Figure, axes: Axes, xy: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the colour that the picture shows at a place of the slide."""
    image = rendered(figure)
    x, y = axes.transData.transform(xy)
    return np.asarray(image[round(len(image) - 1 - y), round(x)])


def test_class_colours_lie_where_the_classes_are(store: PatchStore) -> None:
    figure = heatmap_figure(store, checkered())
    axes = figure.axes[0]
    grey = np.full(3, 230.0)
    for xy, color in (((36, 16), (255, 0, 0)), ((20, 48), (0, 255, 0))):
        expected = (1 - OPACITY[1]) * grey + OPACITY[1] * np.array(color)
        assert_allclose(pixel_at(figure, axes, xy), expected, atol=3)
    for xy in ((76, 16), (60, 48), (110, 70)):
        assert_allclose(pixel_at(figure, axes, xy), grey, atol=2, err_msg="nothing predicted here")


def test_the_boundary_of_classes_is_where_the_cells_say(store: PatchStore) -> None:
    figure = heatmap_figure(store, checkered())
    axes = figure.axes[0]
    above, below = (pixel_at(figure, axes, (20, y)).astype(int) for y in (31.5, 32.5))
    assert above[0] > above[1]
    assert below[1] > below[0]


def test_the_legend_names_classes_and_shares(store: PatchStore) -> None:
    text = words(heatmap_figure(store, checkered()))
    for expected in ("A", "B", "C", f"{36 / 56:.1%}", f"{20 / 56:.1%}", "0.0%", "slide-1"):
        assert expected in text
    assert text.index("A\n64.3%") < text.index("B\n35.7%") < text.index("C\n0.0%")


def test_opacity_grows_with_probability() -> None:
    values = np.array([[[0.34, 0.33, 0.33], [0.6, 0.2, 0.2], [1, 0, 0]]], dtype=np.float32)
    rgba = class_overlay(Heatmap(values=values, cell_px=1, class_names=COLORS, class_colors=COLORS))
    alpha = rgba[0, :, 3]
    assert alpha[0] == pytest.approx(OPACITY[0], abs=0.01)
    assert alpha[2] == pytest.approx(OPACITY[1])
    assert (np.diff(alpha) > 0).all()
    assert_allclose(rgba[0, :, :3], [[1, 0, 0]] * 3)


def test_one_class_is_shown_by_its_probability(store: PatchStore) -> None:
    figure = heatmap_figure(store, checkered(), class_name="B")
    low = pixel_at(figure, figure.axes[0], (36, 16)).astype(int)
    high = pixel_at(figure, figure.axes[0], (20, 48)).astype(int)
    assert high[1] > low[1] + 50, "yellow is certain, violet is not"
    assert "Probability of B" in words(figure)
    clear = probability_overlay(checkered(), 1)[..., 3] == 0
    assert (clear == np.isnan(checkered().values[..., 0])).all()


def test_an_unknown_class_is_refused(store: PatchStore) -> None:
    with pytest.raises(ValueError, match="'D' is not one of A, B, C"):
        heatmap_figure(store, checkered(), class_name="D")


def test_shares_count_painted_cells_only() -> None:
    assert_allclose(class_shares(checkered()), [36 / 56, 20 / 56, 0])
    assert_allclose(class_shares(paint_heatmap(make_predictions(n=0))), [0, 0, 0])


@pytest.mark.parametrize("shape", [(8, 10), (0, 0)])
def test_a_slide_without_tiles_is_drawn(tmp_path: Path, shape: tuple[int, int]) -> None:
    empty = make_store(tmp_path / "a.zarr", make_header(0))
    draw_qc(tmp_path / "qc.png", empty)
    heatmap = paint_heatmap(make_predictions(shape, 0))
    draw_heatmap(tmp_path / "heatmap.png", empty, heatmap)
    draw_heatmap(tmp_path / "one.png", empty, heatmap, class_name="stroma")
    assert imread(tmp_path / "qc.png").ndim == 3
    assert "no tile was predicted" in words(heatmap_figure(empty, heatmap))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".png", ".png", ".png", ".zarr"]


def test_every_kept_tile_is_outlined_and_no_other(store: PatchStore) -> None:
    axes = qc_figure(store).axes[0]
    (tiles,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    corners = np.array([np.asarray(path.vertices)[0] for path in tiles.get_paths()])
    assert_allclose(corners, store.xy)
    sizes = [np.ptp(np.asarray(path.vertices), axis=0) for path in tiles.get_paths()]
    assert_allclose(sizes, store.extent)


def test_the_funnel_and_the_verdict_are_written(store: PatchStore) -> None:
    text = words(qc_figure(store))
    assert "Tiles (80 candidates)" in text
    for reason, count in store.funnel().items():
        assert f"{reason.replace('_', ' ')}\n{count}\n{count / 80:.1%}" in text
    for expected in ("\nok\n", "40.2° between H and E", "12,345 pixels", "hematoxylin", "eosin"):
        assert expected in text
    assert "pen (left out)" in text
    assert "edge (left out)" not in text, "only what the slide shows is explained"


def test_a_fallback_says_why(tmp_path: Path) -> None:
    nan = float("nan")
    stain = make_stain(verdict=StainVerdict.FALLBACK, reasons=("too little tissue",), angle_deg=nan)
    text = words(qc_figure(make_store(tmp_path / "a.zarr", make_header(3, stain=stain))))
    assert "fallback" in text
    assert "too little tissue" in text
    assert "between H and E" not in text


def test_artefacts_are_tinted_and_tissue_is_outlined(store: PatchStore) -> None:
    figure = qc_figure(store)
    axes = figure.axes[0]
    magenta = np.array([int(AREA_COLORS[Area.PEN][i : i + 2], 16) for i in (1, 3, 5)])
    expected = 0.55 * 230 + 0.45 * magenta
    # mask pixel (14, 21): 5 level-0 px each, below the tiles of the lattice
    assert_allclose(pixel_at(figure, axes, (107.5, 71.0)), expected, atol=3)
    # the left edge of the tissue is at mask column 6
    column = [pixel_at(figure, axes, (x, 43.0)).astype(int) for x in np.arange(28.5, 31.6, 0.25)]
    assert any(green > red + 60 for red, green, _ in column)


def test_stain_colours_follow_the_beer_lambert_law() -> None:
    matrix = make_stain().matrix
    h = 10 ** -(matrix.vectors[0] * 1.5)
    assert_allclose(stain_colors(matrix)[0], h)
    assert (stain_colors(matrix) <= 1).all()


@pytest.mark.parametrize(
    ("width", "length"),
    [(4, 1), (7.9, 1), (8, 2), (20, 5), (40, 10), (4000, 1000), (59_999, 10_000), (0.4, 0.1)],
)
def test_scale_bars_have_round_lengths(width: float, length: float) -> None:
    assert nice_length_um(width) == pytest.approx(length)


def test_the_scale_bar_has_the_length_it_states(store: PatchStore) -> None:
    axes = heatmap_figure(store, checkered()).axes[0]
    (bar,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    # 120 px of 0.5 um are 60 um, a quarter of them 15 um
    assert bar.get_width() == pytest.approx(10 / 0.5)
    assert "10 µm" in [text.get_text() for text in axes.texts]


def test_a_failed_drawing_leaves_the_old_picture(
    tmp_path: Path, store: PatchStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "qc.png"
    draw_qc(path, store)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
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
    values = np.full((8, 10, 100), 0.001, dtype=np.float32)
    values[np.arange(80) // 10, np.arange(80) % 10, np.arange(80) // 2] = 0.9
    names = tuple(f"cluster {number}" for number in range(1, 101))
    colors = tuple(f"#0000{number:02x}" for number in range(100))
    many = Heatmap(values=values, cell_px=8.0, class_names=names, class_colors=colors)
    text = words(heatmap_figure(store, many))
    listed = text.count("cluster ")
    assert 10 < listed < 40
    assert f"and {40 - listed} more with {(40 - listed) / 40:.1%} together" in text
    assert "cluster 99" not in text
