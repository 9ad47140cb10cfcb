"""The synthetic slide: what its truth says is what its pixels show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.stain import estimate_stain_matrix, unmix
from wsi_pipeline.synthetic import (
    CLASS_COLORS,
    CLASS_NAMES,
    SyntheticSlide,
    SyntheticTruth,
    default_stains,
    write_synthetic_slide,
)
from wsi_pipeline.synthetic.noise import NoiseField, Window, cell_uniform
from wsi_pipeline.synthetic.scene import BLOCK_PX
from wsi_pipeline.types import StainMatrix, StainVerdict

SIZE = (2048, 2048)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticTruth]:
    path = tmp_path_factory.mktemp("synthetic") / "slide.tif"
    return path, write_synthetic_slide(path, SIZE, seed=3)


@pytest.fixture(scope="module")
def image(written: tuple[Path, SyntheticTruth]) -> NDArray[np.uint8]:
    return np.asarray(tifffile.imread(written[0]))


def upsampled(truth: SyntheticTruth, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """The class map's pixels repeated to level 0."""
    block = np.ones((truth.downsample, truth.downsample), dtype=values.dtype)
    width, height = truth.size_wh
    return np.kron(values, block)[:height, :width]


class TestFile:
    def test_openslide_reads_levels_and_resolution(
        self, written: tuple[Path, SyntheticTruth]
    ) -> None:
        with openslide.OpenSlide(written[0]) as slide:
            assert slide.level_dimensions == ((2048, 2048), (512, 512))
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)

    def test_is_tiled_jpeg(self, written: tuple[Path, SyntheticTruth]) -> None:
        with tifffile.TiffFile(written[0]) as tiff:
            pages = [page.aspage() for page in tiff.pages]
        assert [page.is_tiled for page in pages] == [True, True]
        assert {page.compression for page in pages} == {tifffile.COMPRESSION.JPEG}
        assert [page.is_reduced for page in pages] == [False, True]

    def test_pixels_are_the_drawn_ones_up_to_jpeg(self, image: NDArray[np.uint8]) -> None:
        drawn = SyntheticSlide(SIZE, seed=3).read((700, 900), (300, 200))
        stored = image[900:1100, 700:1000]
        assert np.abs(drawn.astype(int) - stored).mean() < 4

    def test_levels_show_the_same(
        self, written: tuple[Path, SyntheticTruth], image: NDArray[np.uint8]
    ) -> None:
        level = np.asarray(tifffile.imread(written[0], level=1)).astype(float)
        means = image.reshape(512, 4, 512, 4, 3).mean(axis=(1, 3))
        error = np.abs(level - means).mean()
        assert error < 4
        for axis in (0, 1):
            assert error < 0.5 * np.abs(np.roll(level, 1, axis) - means).mean()

    @pytest.mark.parametrize("size_wh", [(700, 1300), (1, 1), (257, 40)])
    def test_any_size_and_resolution(self, tmp_path: Path, size_wh: tuple[int, int]) -> None:
        path = tmp_path / "odd.tif"
        truth = write_synthetic_slide(path, size_wh, mpp=0.25)
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].shape == (size_wh[1], size_wh[0], 3)
            for page in tiff.pages[1:]:
                assert page.shape[0] == size_wh[1] // (size_wh[0] // page.shape[1])
        assert truth.mpp == 0.25
        assert truth.downsample == 32
        assert truth.class_map.shape == (-(-size_wh[1] // 32), -(-size_wh[0] // 32))

    def test_leaves_no_other_files(self, tmp_path: Path) -> None:
        write_synthetic_slide(tmp_path / "only.tif", (600, 600))
        assert [path.name for path in tmp_path.iterdir()] == ["only.tif"]

    def test_equal_arguments_give_equal_files(self, tmp_path: Path) -> None:
        for name in ("a.tif", "b.tif"):
            write_synthetic_slide(tmp_path / name, (600, 600), seed=5)
        assert np.array_equal(
            tifffile.imread(tmp_path / "a.tif"), tifffile.imread(tmp_path / "b.tif")
        )


class TestTruth:
    def test_stain_vectors_are_recovered_within_three_degrees(
        self, written: tuple[Path, SyntheticTruth], image: NDArray[np.uint8]
    ) -> None:
        _, truth = written
        estimate = estimate_stain_matrix(image[upsampled(truth, truth.mask).astype(bool)])
        cosines = (estimate.matrix.vectors * truth.stains.vectors).sum(axis=1)
        assert (np.degrees(np.arccos(cosines)) < 3).all()
        assert estimate.verdict is StainVerdict.OK, estimate.reasons
        np.testing.assert_allclose(
            estimate.matrix.max_concentration, truth.stains.max_concentration, rtol=0.15
        )

    @pytest.mark.parametrize("turn", [-0.06, 0.06])
    def test_other_stains_are_recovered_too(self, turn: float) -> None:
        vectors = default_stains().vectors + np.array([[turn, 0, 0], [0, 0, -turn]])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        stains = StainMatrix(
            vectors=vectors, max_concentration=np.ones(2), background=np.full(3, 245.0)
        )
        slide = SyntheticSlide((1024, 1024), stains=stains, seed=1)
        truth = slide.truth(np.ones(2))
        image = slide.read((0, 0), (1024, 1024))
        estimate = estimate_stain_matrix(image[upsampled(truth, truth.mask).astype(bool)])
        cosines = (estimate.matrix.vectors * vectors).sum(axis=1)
        assert (np.degrees(np.arccos(cosines)) < 3).all()

    def test_unmixing_with_the_true_matrix_gives_the_drawn_concentrations(self) -> None:
        slide = SyntheticSlide(SIZE, seed=3)
        drawn, rgb = slide.block(2, 2)
        error = unmix(rgb, slide.truth(np.ones(2)).stains) - drawn
        assert np.abs(np.median(error, axis=(1, 2))).max() < 0.003
        assert np.percentile(np.abs(error), 95) < 0.06

    def test_every_class_has_tiles_of_its_own(self, written: tuple[Path, SyntheticTruth]) -> None:
        _, truth = written
        corners = np.arange(0, 2048 - 256 + 1, 64)
        xy = np.stack(np.meshgrid(corners, corners), axis=-1).reshape(-1, 2)
        labels, purity = truth.label_of(xy, 256)
        pure = np.bincount(labels[purity == 1], minlength=len(CLASS_NAMES))
        assert (pure >= 4).all(), dict(zip(CLASS_NAMES, pure.tolist(), strict=True))

    def test_background_is_glass_and_tissue_is_not(
        self, written: tuple[Path, SyntheticTruth], image: NDArray[np.uint8]
    ) -> None:
        _, truth = written
        codes = upsampled(truth, truth.class_map)
        glass = image[codes == 0]
        assert 243 <= glass.mean() <= 250
        assert (glass.min(axis=1) > 225).mean() > 0.97
        for code in (1, 2, 3):
            assert np.median(image[codes == code].min(axis=1)) < 180, CLASS_NAMES[code]

    def test_classes_differ_in_structure(self) -> None:
        slide = SyntheticSlide(SIZE, seed=3)
        truth = slide.truth(np.ones(2))
        corners = np.arange(0, 4) * BLOCK_PX
        nuclear: dict[int, list[float]] = {}
        empty: dict[int, list[float]] = {}
        for x, y in np.stack(np.meshgrid(corners, corners), axis=-1).reshape(-1, 2):
            he, _ = slide.block(x // BLOCK_PX, y // BLOCK_PX)
            part = np.s_[y // 16 : (y + BLOCK_PX) // 16, x // 16 : (x + BLOCK_PX) // 16]
            codes = np.kron(truth.class_map[part], np.ones((16, 16), np.uint8))
            for code in np.unique(codes):
                here = he[:, codes == code]
                nuclear.setdefault(int(code), []).append(float((here[0] > 0.4).mean()))
                empty.setdefault(int(code), []).append(float((here.sum(axis=0) < 0.05).mean()))
        of = {name: i for i, name in enumerate(CLASS_NAMES)}
        share = {code: np.mean(values) for code, values in nuclear.items()}
        assert share[of["tumor"]] > 0.3 > 0.12 > share[of["stroma"]]
        assert share[of["necrosis"]] < 0.15
        assert np.mean(empty[of["fat"]]) > 0.5 > np.mean(empty[of["stroma"]])

    def test_saves_and_loads(self, written: tuple[Path, SyntheticTruth], tmp_path: Path) -> None:
        _, truth = written
        truth.save(tmp_path / "truth.npz")
        loaded = SyntheticTruth.load(tmp_path / "truth.npz")
        np.testing.assert_array_equal(loaded.class_map, truth.class_map)
        assert loaded.stains.to_dict() == truth.stains.to_dict()
        assert (loaded.downsample, loaded.size_wh, loaded.mpp, loaded.class_names) == (
            truth.downsample,
            truth.size_wh,
            truth.mpp,
            truth.class_names,
        )

    def test_every_class_has_a_colour(self) -> None:
        assert len(CLASS_COLORS) == len(CLASS_NAMES)

    def test_labels_count_map_pixels(self) -> None:
        class_map = np.zeros((4, 4), dtype=np.uint8)
        class_map[:, 1:] = 2
        truth = SyntheticTruth(
            class_map=class_map, downsample=10, size_wh=(40, 40), mpp=1, stains=default_stains()
        )
        labels, purity = truth.label_of(np.array([[0, 0], [10, 10], [0, 0]]), 20)
        assert labels.tolist() == [0, 2, 0]
        np.testing.assert_allclose(purity, [0.5, 1, 0.5])
        none, nothing = truth.label_of(np.empty((0, 2), np.int64), 20)
        assert (len(none), len(nothing)) == (0, 0)


class TestPlaceDecides:
    @settings(max_examples=5, deadline=None)
    @given(x=st.integers(0, 1500), y=st.integers(0, 1500))
    def test_a_region_is_the_same_whatever_is_read_around_it(self, x: int, y: int) -> None:
        slide = SyntheticSlide((2048, 2048), seed=2)
        small = slide.read((x, y), (40, 30))
        large = slide.read((max(0, x - 30), max(0, y - 30)), (100, 90))
        left, top = x - max(0, x - 30), y - max(0, y - 30)
        np.testing.assert_array_equal(large[top : top + 30, left : left + 40], small)

    def test_blocks_join_without_a_seam(self) -> None:
        slide = SyntheticSlide(SIZE, seed=3)
        left, right = slide.block(1, 1)[0], slide.block(2, 1)[0]
        strip = np.concatenate([left, right], axis=2)
        steps = np.abs(np.diff(strip, axis=2)).mean(axis=(0, 1))
        seam = steps[BLOCK_PX - 1]
        assert seam < 1.5 * np.median(steps)

    @settings(max_examples=25, deadline=None)
    @given(
        x=st.integers(-300, 3000),
        y=st.integers(-300, 3000),
        scale=st.sampled_from([1, 2, 8, 64]),
        stream=st.integers(0, 200),
    )
    def test_noise_depends_on_place_alone(self, x: int, y: int, scale: int, stream: int) -> None:
        noise = NoiseField(0)
        inner = noise.sample(Window(x, y, 20, 10), scale, stream)
        outer = noise.sample(Window(x - 37, y - 5, 90, 40), scale, stream)
        np.testing.assert_allclose(outer[5:15, 37:57], inner, atol=1e-5)

    def test_cell_chances_are_uniform_and_independent(self) -> None:
        col, row = (grid.ravel() for grid in np.meshgrid(np.arange(-100, 100), np.arange(200)))
        a, b = (cell_uniform(col, row, 7, stream) for stream in (1, 2))
        assert np.abs(np.histogram(a, 10, (0, 1))[0] / len(a) - 0.1).max() < 0.01
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
        assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02

    def test_seeds_give_different_slides(self) -> None:
        first, second = (SyntheticSlide(SIZE, seed=seed) for seed in (0, 1))
        maps = [slide.truth(np.ones(2)).class_map for slide in (first, second)]
        assert (maps[0] != maps[1]).mean() > 0.2

    @pytest.mark.parametrize(("size_wh", "mpp"), [((0, 10), 0.5), ((10, 10), 0.0)])
    def test_no_pixels_or_resolution_is_refused(self, size_wh: tuple[int, int], mpp: float) -> None:
        with pytest.raises(ValueError, match="needs pixels and a resolution"):
            SyntheticSlide(size_wh, mpp)
