"""The stain matrix, its verdict, and the separation into hematoxylin and eosin."""

from __future__ import annotations

import csv
import io
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tests.oracles import density_oracle, macenko_oracle, network_input_oracle
from wsi_pipeline.config import StainConfig
from wsi_pipeline.errors import StainEstimationError
from wsi_pipeline.stain import (
    decode_he,
    encode_he,
    encode_he_float16,
    estimate_stain_matrix,
    fixed_stain_matrix,
    gate_pixels,
    optical_density,
    unmix,
    unmixing_matrix,
)
from wsi_pipeline.stain.estimate import ACCEPTED_RANGES
from wsi_pipeline.types import BLUE_STAIN, StainEstimate, StainMatrix, StainVerdict

Pixels = NDArray[np.uint8]

TRUE_VECTORS = np.array([[0.594, 0.731, 0.327], [0.154, 0.738, 0.644]])
TRUE_VECTORS /= np.linalg.norm(TRUE_VECTORS, axis=1, keepdims=True)


def he_pixels(count: int = 200_000, seed: int = 0, noise: float = 1.5) -> Pixels:
    """Pixels of a slide whose stain vectors are ``TRUE_VECTORS``, one in five of them glass."""
    rng = np.random.default_rng(seed)
    h = rng.gamma(2, 0.2, count) * (rng.random(count) < 0.6)
    e = rng.gamma(2, 0.15, count)
    od = np.outer(h, TRUE_VECTORS[0]) + np.outer(e, TRUE_VECTORS[1])
    od[rng.random(count) < 0.2] *= 0.02
    intensity = 255 * 10**-od + rng.normal(0, noise, od.shape)
    return np.clip(np.rint(intensity), 1, 255).astype(np.uint8)


def glass(count: int, level: float = 244, noise: float = 1.5) -> Pixels:
    rng = np.random.default_rng(1)
    return np.clip(rng.normal(level, noise, (count, 3)), 0, 255).astype(np.uint8)


def flat(count: int, rgb: tuple[int, int, int], noise: float = 1.5) -> Pixels:
    rng = np.random.default_rng(2)
    return np.clip(rng.normal(rgb, noise, (count, 3)), 0, 255).astype(np.uint8)


def errors_deg(vectors: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angle between each vector and its truth."""
    cosines = np.clip((vectors * truth).sum(axis=1), -1, 1)
    return np.asarray(np.degrees(np.arccos(cosines)))


class TestOpticalDensity:
    def test_is_the_decadic_logarithm_of_transmission_inverted(self) -> None:
        rgb = np.array([[255, 51, 1], [0, 128, 254]], dtype=np.uint8)
        np.testing.assert_allclose(optical_density(rgb), density_oracle(rgb), atol=1e-15)

    def test_intensity_zero_is_read_as_one(self) -> None:
        assert optical_density(np.zeros((1, 3), np.uint8)).max() == pytest.approx(np.log10(255))

    def test_background_is_per_channel(self) -> None:
        background = np.array([240.0, 230.0, 250.0])
        od = optical_density(np.array([[240, 23, 250]], np.uint8), background)
        np.testing.assert_allclose(od, [[0, 1, 0]], atol=1e-12)


class TestEstimateRecoversKnownStains:
    def test_vectors_within_three_degrees(self) -> None:
        estimate = estimate_stain_matrix(he_pixels())
        assert estimate.verdict is StainVerdict.OK
        assert estimate.reasons == ()
        assert (errors_deg(estimate.matrix.vectors, TRUE_VECTORS) < 3).all()
        assert (estimate.matrix.vectors > 0).all()

    def test_hematoxylin_comes_first(self) -> None:
        vectors = estimate_stain_matrix(he_pixels()).matrix.vectors
        assert vectors[0, 0] > vectors[1, 0]
        assert vectors[0, 2] < vectors[1, 2]

    def test_a_projection_of_centred_densities_fails_the_same_test(self) -> None:
        pixels = he_pixels(20_000)
        faithful, _ = macenko_oracle(pixels)
        centred, _ = macenko_oracle(pixels, centred=True)
        assert (errors_deg(faithful, TRUE_VECTORS) < 3).all()
        assert (errors_deg(centred, TRUE_VECTORS) > 3).all()

    def test_equals_the_literal_oracle(self) -> None:
        pixels = he_pixels(20_000)
        pixels = pixels[gate_pixels(pixels)]
        vectors, maxima = macenko_oracle(pixels)
        matrix = estimate_stain_matrix(pixels).matrix
        np.testing.assert_allclose(matrix.vectors, vectors, atol=1e-9)
        np.testing.assert_allclose(matrix.max_concentration, maxima, atol=1e-9)

    def test_one_percent_of_the_stained_pixels_lie_beyond_either_vector(self) -> None:
        pixels = he_pixels(50_000)
        estimate = estimate_stain_matrix(pixels)
        c = optical_density(pixels[gate_pixels(pixels)]) @ unmixing_matrix(estimate.matrix).T
        in_plane = c @ estimate.matrix.vectors
        stained = np.linalg.norm(in_plane, axis=1) >= 0.15
        # beyond one vector, the amount of the other is negative
        beyond = (c[stained] < -1e-12).sum(axis=0)
        assert estimate.pixel_count == stained.sum()
        assert beyond.tolist() == [round(0.01 * stained.sum())] * 2

    def test_one_percent_of_the_concentrations_exceed_the_maximum(self) -> None:
        pixels = he_pixels(50_000)
        matrix = estimate_stain_matrix(pixels).matrix
        c = optical_density(pixels[gate_pixels(pixels)]) @ unmixing_matrix(matrix).T
        for stain in range(2):
            values = c[c[:, stain] >= 0.15, stain]
            above = (values > matrix.max_concentration[stain] + 1e-12).mean()
            assert above == pytest.approx(0.01, abs=2 / len(values))

    def test_is_evidence_not_just_a_matrix(self) -> None:
        estimate = estimate_stain_matrix(he_pixels(50_000))
        assert 30_000 < estimate.pixel_count < 50_000
        assert estimate.angle_deg == pytest.approx(estimate.matrix.angle_deg(), abs=1e-9)
        assert estimate.angle_deg == pytest.approx(
            estimate.theta_deg[1] - estimate.theta_deg[0], abs=1e-9
        )
        assert estimate.condition == pytest.approx(np.linalg.cond(estimate.matrix.vectors))


class TestEstimateInvariance:
    @settings(max_examples=10, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1))
    def test_to_the_order_of_pixels(self, seed: int) -> None:
        pixels = he_pixels(20_000)
        shuffled = np.random.default_rng(seed).permutation(pixels)
        assert_same(estimate_stain_matrix(shuffled), estimate_stain_matrix(pixels), 1e-9)

    @settings(max_examples=5, deadline=None)
    @given(times=st.integers(2, 4))
    def test_to_duplicates(self, times: int) -> None:
        pixels = he_pixels(20_000)
        repeated = np.repeat(pixels, times, axis=0)
        assert_same(estimate_stain_matrix(repeated), estimate_stain_matrix(pixels), 2e-3)

    @settings(max_examples=5, deadline=None)
    @given(seed=st.integers(0, 1000))
    def test_nearly_to_the_sample(self, seed: int) -> None:
        pixels = he_pixels()
        rng = np.random.default_rng(seed)
        sample = rng.choice(pixels, 20_000, replace=False)
        whole, part = estimate_stain_matrix(pixels), estimate_stain_matrix(sample)
        assert (errors_deg(whole.matrix.vectors, part.matrix.vectors) < 1.5).all()

    @pytest.mark.parametrize("lamp", [0.94, 0.97])
    def test_nearly_to_the_brightness_of_the_lamp(self, lamp: float) -> None:
        pixels = he_pixels(noise=0.5)
        dimmed = np.rint(pixels * lamp).astype(np.uint8)
        bright, dim = estimate_stain_matrix(pixels), estimate_stain_matrix(dimmed)
        assert (errors_deg(bright.matrix.vectors, dim.matrix.vectors) < 3).all()


def assert_same(a: StainEstimate, b: StainEstimate, tolerance: float) -> None:
    assert a.verdict is b.verdict
    np.testing.assert_allclose(a.matrix.vectors, b.matrix.vectors, atol=tolerance)
    np.testing.assert_allclose(
        a.matrix.max_concentration, b.matrix.max_concentration, rtol=10 * tolerance
    )


def one_percent_tissue() -> Pixels:
    return np.concatenate([he_pixels(10_000), glass(990_000)])


class TestNoSilentFailure:
    """Inputs on which known estimators crash or return a matrix of nothing; none may be OK."""

    @pytest.mark.parametrize(
        ("pixels", "reason"),
        [
            pytest.param(
                np.full((100_000, 3), 255, np.uint8), "0 pixels have a direction", id="blank"
            ),
            pytest.param(glass(100_000), "0 pixels have a direction", id="near-white"),
            pytest.param(flat(100_000, (220, 150, 190)), "degrees apart", id="flat-pink"),
            pytest.param(
                flat(100_000, (220, 150, 190), 0), "0 pixels have a direction", id="constant-pink"
            ),
            pytest.param(one_percent_tissue(), "hold stain", id="one-percent-tissue"),
            pytest.param(he_pixels(1000), "fewer than 2000", id="little-tissue"),
            pytest.param(np.empty((0, 3), np.uint8), "0 pixels have a direction", id="no-pixels"),
            pytest.param(flat(100_000, (150, 150, 150)), "degrees apart", id="grey"),
        ],
    )
    def test_unsupported_pixels_fall_back_and_say_why(self, pixels: Pixels, reason: str) -> None:
        estimate = estimate_stain_matrix(pixels)
        assert estimate.verdict is StainVerdict.FALLBACK
        assert any(reason in text for text in estimate.reasons), estimate.reasons
        np.testing.assert_array_equal(estimate.matrix.vectors, fixed_stain_matrix().vectors)
        with pytest.raises(StainEstimationError, match=reason):
            estimate_stain_matrix(pixels, StainConfig(allow_fallback=False))

    @pytest.mark.parametrize(
        "pixels",
        [
            pytest.param(np.zeros((50_000, 3), np.uint8), id="black"),
            pytest.param(flat(50_000, (10, 10, 10), 4), id="near-black"),
            pytest.param(flat(50_000, (60, 60, 65), 4), id="pen-black"),
            pytest.param(flat(50_000, (30, 60, 180), 6), id="pen-blue"),
            pytest.param(flat(50_000, (20, 140, 100), 6), id="pen-green"),
            pytest.param(
                np.concatenate([flat(50_000, (30, 60, 180), 6), glass(50_000)]), id="pen-on-glass"
            ),
            pytest.param(flat(50_000, (0, 1, 120), 1), id="fluorescence"),
        ],
    )
    @pytest.mark.parametrize("allow_fallback", [True, False])
    def test_what_is_not_tissue_is_refused(self, pixels: Pixels, allow_fallback: bool) -> None:
        with pytest.raises(StainEstimationError, match="not H&E tissue"):
            estimate_stain_matrix(pixels, StainConfig(allow_fallback=allow_fallback))

    @pytest.mark.parametrize("ink", [(40, 40, 160), (20, 30, 140), (200, 30, 60), (90, 40, 120)])
    def test_ink_in_the_colours_of_stain_is_a_single_stain(self, ink: tuple[int, int, int]) -> None:
        pixels = np.concatenate([flat(50_000, ink, 3), glass(50_000)])
        try:
            assert estimate_stain_matrix(pixels).verdict is StainVerdict.FALLBACK
        except StainEstimationError as error:
            assert "not H&E tissue" in str(error)  # noqa: PT017

    def test_pen_beside_tissue_does_not_move_the_vectors(self) -> None:
        pixels = np.concatenate([he_pixels(), flat(20_000, (30, 60, 180), 6)])
        estimate = estimate_stain_matrix(pixels)
        assert (errors_deg(estimate.matrix.vectors, TRUE_VECTORS) < 3).all()

    def test_much_pen_is_flagged(self) -> None:
        pixels = np.concatenate([he_pixels(), flat(100_000, (30, 60, 180), 6)])
        estimate = estimate_stain_matrix(pixels)
        assert estimate.verdict is StainVerdict.FLAGGED
        assert any("ink" in text for text in estimate.reasons)

    def test_brown_second_stain_is_flagged(self) -> None:
        rng = np.random.default_rng(0)
        dab = np.array([0.27, 0.57, 0.78])
        od = np.outer(rng.gamma(2, 0.1, 50_000), TRUE_VECTORS[0])
        od += np.outer(rng.gamma(2, 0.2, 50_000) * (rng.random(50_000) < 0.4), dab)
        pixels = np.clip(np.rint(255 * 10**-od), 1, 255).astype(np.uint8)
        estimate = estimate_stain_matrix(pixels)
        assert estimate.verdict is StainVerdict.FLAGGED
        assert any("brown" in text for text in estimate.reasons)

    @pytest.mark.parametrize(
        ("stains", "said"),
        [
            # aniline blue with azocarmine, methyl blue with ponceau, hematoxylin with PAS
            (((0.853, 0.509, 0.113), (0.093, 0.866, 0.491)), BLUE_STAIN),
            (((0.800, 0.591, 0.105), (0.100, 0.737, 0.668)), BLUE_STAIN),
            (((0.650, 0.704, 0.286), (0.175, 0.972, 0.155)), "magenta, as PAS is"),
        ],
        ids=["azan", "trichrome", "PAS"],
    )
    def test_other_special_stains_are_flagged(self, stains: Any, said: str) -> None:
        amounts = np.random.default_rng(0).gamma(1.7, 0.2, (40_000, 2))
        pixels = np.rint(245 * 10 ** -(amounts @ np.array(stains))).astype(np.uint8)
        estimate = estimate_stain_matrix(pixels)
        assert estimate.verdict is not StainVerdict.OK
        assert any(said in reason for reason in estimate.reasons)
        if said is BLUE_STAIN:
            assert estimate.is_blue
            with pytest.raises(StainEstimationError, match="this is not H&E: first stain"):
                estimate_stain_matrix(pixels, StainConfig(strict_stain=True))

    def test_fixed_matrix_on_request_is_marked_as_such(self) -> None:
        estimate = estimate_stain_matrix(
            he_pixels(1000), StainConfig(adaptive=False, allow_fallback=False)
        )
        assert estimate.verdict is StainVerdict.FALLBACK
        assert "adaptive = false" in estimate.reasons[0]

    @pytest.mark.parametrize(
        "pixels", [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4), np.uint8), np.zeros((5, 3))]
    )
    def test_other_shapes_and_types_are_programming_errors(self, pixels: Pixels) -> None:
        with pytest.raises(ValueError, match=r"\(N, 3\) uint8"):
            estimate_stain_matrix(pixels)


class TestGate:
    def test_keeps_stained_tissue_and_glass(self) -> None:
        assert gate_pixels(he_pixels()).mean() > 0.995
        assert gate_pixels(glass(10_000)).all()

    @pytest.mark.parametrize(
        "rgb", [(30, 60, 180), (20, 140, 100), (60, 190, 150), (5, 5, 5), (50, 52, 55), (0, 0, 250)]
    )
    def test_drops_ink_and_black(self, rgb: tuple[int, int, int]) -> None:
        assert gate_pixels(flat(1000, rgb)).mean() < 0.01

    def test_keeps_brown_pigment(self) -> None:
        assert gate_pixels(flat(1000, (170, 120, 60))).all()


class TestFixedMatrix:
    def test_unmixes_with_the_published_rows(self) -> None:
        rows = unmixing_matrix(fixed_stain_matrix())
        published = np.array([[1.838, 0.0341, -0.760], [-1.373, 0.772, 1.215]])
        np.testing.assert_allclose(rows, published, rtol=2e-4)

    def test_scales_network_input_exactly_as_published(self) -> None:
        stains = fixed_stain_matrix()
        rows = unmixing_matrix(stains) / (2 * stains.max_concentration[:, None])
        published = np.array([[1.838, 0.0341, -0.760], [-1.373, 0.772, 1.215]])
        np.testing.assert_allclose(rows, published / (2 * 0.5), rtol=1e-12)


class TestWorkedExample:
    """The first of the 420 published solutions, to the digits it is printed with."""

    V1 = np.array([0.4740, 0.7488, 0.4632])
    V2 = np.array([-0.8574, 0.2727, 0.4365])
    V3 = np.array([0.2005, -0.6041, 0.7713])
    THETA = np.radians([-13.812, 20.239])

    def matrix(self) -> StainMatrix:
        vectors = np.outer(np.cos(self.THETA), self.V1) + np.outer(np.sin(self.THETA), self.V2)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return StainMatrix(vectors=vectors, max_concentration=np.array([0.7614, 0.5393]))

    def test_rows(self) -> None:
        expected = [[1.7296, 0.0057, -0.4452], [-1.2849, 0.7922, 0.9545]]
        np.testing.assert_allclose(unmixing_matrix(self.matrix()), expected, atol=3e-4)

    def test_inverse_with_the_residual_has_the_same_rows(self) -> None:
        matrix = self.matrix()
        full = np.linalg.inv(np.column_stack([*matrix.vectors, self.V3]))
        np.testing.assert_allclose(full[:2], unmixing_matrix(matrix), atol=3e-4)
        np.testing.assert_allclose(full[2], self.V3, atol=3e-4)
        columns = np.column_stack([*matrix.vectors, self.V3])
        np.testing.assert_allclose(full @ columns, np.eye(3), atol=1e-12)


def stain_matrices() -> st.SearchStrategy[StainMatrix]:
    """Stain matrices across the published ranges."""

    def build(seed: int) -> StainMatrix:
        rng = np.random.default_rng(seed)
        vectors = TRUE_VECTORS + rng.uniform(-0.1, 0.1, (2, 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return StainMatrix(vectors=vectors, max_concentration=rng.uniform(0.3, 2.0, 2))

    return st.integers(0, 2**32 - 1).map(build)


patches = arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3)))


class TestSeparation:
    @settings(max_examples=50, deadline=None)
    @given(stains=stain_matrices())
    def test_rows_times_vectors_is_identity(self, stains: StainMatrix) -> None:
        np.testing.assert_allclose(
            unmixing_matrix(stains) @ stains.vectors.T, np.eye(2), atol=1e-12
        )

    @settings(max_examples=50, deadline=None)
    @given(stains=stain_matrices(), rgb=patches)
    def test_all_forms_agree_with_the_float_oracle(self, stains: StainMatrix, rgb: Pixels) -> None:
        expected = network_input_oracle(rgb, stains.vectors, stains.max_concentration)
        scale = 2 * stains.max_concentration[:, None, None]
        np.testing.assert_allclose(np.clip(unmix(rgb, stains) / scale, 0, 1), expected, atol=2e-5)
        assert np.abs(encode_he_float16(rgb, stains) - expected).max() <= 2**-11
        counts = encode_he(rgb, stains).astype(int) - np.rint(255 * expected).astype(int)
        assert np.abs(counts).max() <= 1

    def test_patch_of_all_colours_is_within_one_count(self) -> None:
        levels = np.arange(0, 256, 5, dtype=np.uint8)
        rgb = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
        stains = estimate_stain_matrix(he_pixels(20_000)).matrix
        c = optical_density(rgb) @ unmixing_matrix(stains).T
        expected = np.rint(255 * np.clip(c / (2 * stains.max_concentration), 0, 1))
        counts = encode_he(rgb, stains).astype(int) - expected.transpose(2, 0, 1).astype(int)
        assert np.abs(counts).max() <= 1
        assert (counts != 0).mean() < 1e-3

    @settings(max_examples=50, deadline=None)
    @given(stains=stain_matrices(), c=arrays(np.float64, (2, 3, 3), elements=st.floats(0, 0.4)))
    def test_recovers_known_concentrations(
        self, stains: StainMatrix, c: NDArray[np.float64]
    ) -> None:
        od = np.tensordot(c, stains.vectors, axes=(0, 0))
        rgb = np.rint(255 * 10**-od).astype(np.uint8)
        # half a grey level at the darkest channel, times the largest row sum of the inverse
        step = 0.5 / (rgb.min() * np.log(10))
        tolerance = 1.1 * step * np.abs(unmixing_matrix(stains)).sum(axis=1).max() + 1e-5
        assert np.abs(unmix(rgb, stains) - c).max() <= tolerance

    def test_measured_background_is_respected(self) -> None:
        stains = StainMatrix(
            vectors=TRUE_VECTORS,
            max_concentration=np.ones(2),
            background=np.array([240.0, 235.0, 245.0]),
        )
        lamp = np.broadcast_to(np.array([240, 235, 245], np.uint8), (2, 2, 3))
        np.testing.assert_allclose(unmix(lamp, stains), 0, atol=1e-6)

    def test_views_give_the_same_as_copies(self) -> None:
        rgb = he_pixels(64 * 64).reshape(64, 64, 3)
        stains = fixed_stain_matrix()
        np.testing.assert_array_equal(
            encode_he(rgb[::2, ::-1], stains), encode_he(rgb[::2, ::-1].copy(), stains)
        )

    def test_decoding_inverts_encoding_to_half_a_count(self) -> None:
        rgb = he_pixels(64 * 64).reshape(64, 64, 3)
        stains = estimate_stain_matrix(he_pixels(20_000)).matrix
        expected = network_input_oracle(rgb, stains.vectors, stains.max_concentration)
        decoded = decode_he(encode_he(rgb, stains))
        assert decoded.dtype == np.float32
        assert np.abs(decoded - expected).max() <= 0.5 / 255 + 1e-5

    @pytest.mark.parametrize("separate", [unmix, encode_he, encode_he_float16])
    @pytest.mark.parametrize(
        "rgb", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
    )
    def test_other_shapes_and_types_are_programming_errors(
        self, separate: type, rgb: Pixels
    ) -> None:
        with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8"):
            separate(rgb, fixed_stain_matrix())


def published_solutions(data_dir: Path) -> NDArray[np.float64]:
    """The 420 solutions published with CLASS-M: columns 4 to 45 of the file, its text left out."""
    archive = data_dir / "annotations" / "class-m_tcga_ccrcc_annotations.tar.gz"
    with tarfile.open(archive) as tar:
        name = next(name for name in tar.getnames() if "StepF_output" in name)
        file = tar.extractfile(name)
        assert file is not None
        rows = list(csv.reader(io.TextIOWrapper(file), delimiter=";"))[1:]
    return np.array([[float(x) for x in (*row[4:31], *row[32:47])] for row in rows])


@pytest.mark.data
class TestPublishedSolutions:
    def test_rows_are_reproduced(self, data_dir: Path) -> None:
        table = published_solutions(data_dir)
        assert len(table) == 420
        axes, theta = table[:, 15:21].reshape(-1, 2, 3), np.radians(table[:, 29:31])
        for (v1, v2), rays, rows in zip(axes, theta, table[:, 31:37], strict=True):
            vectors = np.outer(np.cos(rays), v1) + np.outer(np.sin(rays), v2)
            matrix = StainMatrix(vectors=vectors, max_concentration=np.ones(2))
            np.testing.assert_allclose(unmixing_matrix(matrix).ravel(), rows, atol=3e-9)

    def test_acceptance_ranges_are_theirs(self, data_dir: Path) -> None:
        table = published_solutions(data_dir)
        theta = table[:, 29:31]
        blue = (
            np.cos(np.radians(theta[:, 0])) * table[:, 17]
            + np.sin(np.radians(theta[:, 0])) * table[:, 20]
        )
        columns = [*theta.T, theta[:, 1] - theta[:, 0], blue, *table[:, 40:42].T]
        for (low, high), column in zip(ACCEPTED_RANGES.values(), columns, strict=True):
            assert low == pytest.approx(column.min(), abs=6e-3)
            assert high == pytest.approx(column.max(), abs=6e-3)


def image_pixels(path: Path) -> Pixels:
    """Every fourth pixel that is not glass."""
    image = tifffile.imread(path) if path.suffix in {".svs", ".tif", ".ndpi"} else None
    if image is None:
        image = np.asarray(cv2.imread(str(path)))[..., ::-1]
    pixels = image[::4, ::4].reshape(-1, 3)
    return np.ascontiguousarray(pixels[pixels.min(axis=1) < 225])


@pytest.mark.data
class TestRealSlides:
    @pytest.mark.parametrize(
        ("name", "verdict"),
        [
            ("stain/torchstain_source.png", StainVerdict.FLAGGED),
            ("stain/torchstain_target.png", StainVerdict.FLAGGED),
            ("stain/tiatoolbox_target_image.png", StainVerdict.FLAGGED),
            ("stain/histolytics_hgsc_nest.jpg", StainVerdict.FLAGGED),
            ("stain/histolab_tcga-lung-rgb.png", StainVerdict.OK),
            ("slides/OS-1-detail_HE.ome.tif", StainVerdict.FLAGGED),
            ("slides/CMU-1-Small-Region.svs", StainVerdict.OK),
        ],
    )
    def test_he_is_used(self, data_dir: Path, name: str, verdict: StainVerdict) -> None:
        estimate = estimate_stain_matrix(image_pixels(data_dir / name))
        assert estimate.verdict is verdict, estimate.reasons
        assert bool(estimate.reasons) is (verdict is StainVerdict.FLAGGED)

    @pytest.mark.parametrize(
        "name", ["slides/OS-2-vsi_Ki67-IHC.ome.tif", "stain/skimage_ihc_DAB.png"]
    )
    def test_immunohistochemistry_is_flagged_as_brown(self, data_dir: Path, name: str) -> None:
        estimate = estimate_stain_matrix(image_pixels(data_dir / name))
        assert estimate.verdict is StainVerdict.FLAGGED
        assert any("brown" in reason for reason in estimate.reasons)

    @pytest.mark.parametrize(
        "name",
        ["slides/hamamatsu_fluorescence_DAPI.ndpi", "stain/histolab_tile_no-tissue-green-pen.png"],
    )
    def test_fluorescence_and_ink_are_refused(self, data_dir: Path, name: str) -> None:
        with pytest.raises(StainEstimationError, match="not H&E tissue"):
            estimate_stain_matrix(image_pixels(data_dir / name))

    @pytest.mark.parametrize(
        "name", ["no-tissue", "no-tissue2", "no-tissue-line", "almost-white-2"]
    )
    def test_glass_is_never_an_estimate(self, data_dir: Path, name: str) -> None:
        path = data_dir / "stain" / f"histolab_tile_{name}.png"
        assert estimate_stain_matrix(image_pixels(path)).verdict is StainVerdict.FALLBACK
