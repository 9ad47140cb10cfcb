"""Re-stained tissue: the stains it is given are those found in it, and the tissue stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wsi_pipeline.stain import estimate_stain_matrix, unmix
from wsi_pipeline.synthetic import (
    SyntheticSlide,
    default_stains,
    draw_stains,
    plan_virtual_slides,
    restain,
)
from wsi_pipeline.types import StainMatrix, StainVerdict


def _degrees(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b, -1, 1))))


def _own() -> StainMatrix:
    return StainMatrix(vectors=default_stains().vectors, max_concentration=np.array([1.0, 0.8]))


@pytest.fixture(scope="module")
def tissue() -> NDArray[np.uint8]:
    slide = SyntheticSlide((2048, 2048), seed=3)
    return np.ascontiguousarray(slide.read((512, 512), (1024, 1024))[::2, ::2])


def test_drawn_stains_vary_as_the_published_slides_do() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_stains(rng) for _ in range(400)]
    vectors = np.stack([stains.vectors for stains in drawn])
    maxima = np.stack([stains.max_concentration for stains in drawn])
    published = [[0.594, 0.731, 0.327], [0.154, 0.738, 0.644]]
    np.testing.assert_allclose(vectors.mean(axis=0), published, atol=0.03)
    np.testing.assert_allclose(maxima.mean(axis=0), [1.151, 0.788], atol=0.06)
    assert 0.03 < vectors[:, 0, 0].std() < 0.06
    assert 0.15 < maxima.std(axis=0).min() < maxima.std(axis=0).max() < 0.3
    angles = [stains.angle_deg() for stains in drawn]
    assert 21.04 <= min(angles) < 26
    assert 40 < max(angles) <= 52.21


def test_the_new_stains_are_found_in_the_image(tissue: NDArray[np.uint8]) -> None:
    for seed in range(3):
        new = draw_stains(np.random.default_rng(seed))
        found = estimate_stain_matrix(restain(tissue, _own(), new).reshape(-1, 3))
        before = estimate_stain_matrix(tissue.reshape(-1, 3)).matrix.vectors
        assert found.verdict in (StainVerdict.OK, StainVerdict.FLAGGED)
        for stain in range(2):
            # as close as the estimate is for the stains that the tissue was drawn with
            slack = _degrees(before[stain], _own().vectors[stain]) + 2.5
            assert _degrees(found.matrix.vectors[stain], new.vectors[stain]) < slack


@given(seed=st.integers(0, 500))
def test_concentrations_keep_their_place_and_follow_the_maxima(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, new = _own(), draw_stains(rng)
    he = rng.uniform(0.05, 0.6, (12, 10, 2))
    rgb = np.rint(255 * 10 ** -(he @ own.vectors)).astype(np.uint8)
    ratio = new.max_concentration / own.max_concentration
    found = unmix(restain(rgb, own, new), new).transpose(1, 2, 0)
    wanted = he * ratio
    # one grey level of a dark channel is most that rounding can shift
    light = 255 * 10 ** -(wanted @ new.vectors)
    clear = light.min(axis=2) > 12
    np.testing.assert_allclose(found[clear], wanted[clear], atol=0.12)


def test_the_same_stains_give_the_same_image() -> None:
    rng = np.random.default_rng(1)
    rgb = np.rint(255 * 10 ** -(rng.uniform(0.0, 0.5, (20, 20, 2)) @ _own().vectors))
    same = restain(rgb.astype(np.uint8), _own(), _own())
    assert np.abs(same.astype(int) - rgb).max() <= 1


@given(seed=st.integers(0, 99), count=st.integers(1, 6))
def test_slides_share_every_class_and_no_group(seed: int, count: int) -> None:
    group = [f"{name}{i % 13}" for name in "abc" for i in range(40)]
    label = [name[0] for name in group]
    slide = plan_virtual_slides(label, group, count, np.random.default_rng(seed))
    homes = {name: set(slide[[g == name for g in group]].tolist()) for name in group}
    assert all(len(found) == 1 for found in homes.values())
    for value in "abc":
        sizes = [
            len({g for g, s in zip(group, slide, strict=True) if s == index and g[0] == value})
            for index in range(count)
        ]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1


def test_what_cannot_be_dealt_out_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="b has 1 groups, too few for 2 slides"):
        plan_virtual_slides(["a", "a", "b"], ["1", "2", "3"], 2, rng)
    with pytest.raises(ValueError, match="images of two classes"):
        plan_virtual_slides(["a", "b"], ["1", "1"], 1, rng)
