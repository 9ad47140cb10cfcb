"""S5CL fulfils the contract, equals its equations, and its views are what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from skimage.color import hed2rgb, rgb2hed
from torch import Tensor
from wsi_models.losses.supervised_contrast import supervised_contrast
from wsi_models.methods import S5CL, S5CLConfig, build_method
from wsi_models.methods.optimisation import OptimisationConfig
from wsi_models.networks.description import RgbEmbeddingConfig, build_network
from wsi_models.parts.backbone import SmallConfig
from wsi_models.recipe import load_recipe
from wsi_models.recipes import find_recipe
from wsi_models.views import TwinViewConfig, TwinViews
from wsi_models.views.hed import change_stains, jitter_hed
from wsi_models.views.warp import warped_crops

from tests.contracts.method_contract import CLASSES, MethodContract
from tests.tiny_patches import tiny_batch

FAST = OptimisationConfig(name="adam", lr=3e-3, weight_decay=0.0, schedule="constant")


def _s5cl(**changes: Any) -> S5CLConfig:
    given: dict[str, Any] = {
        "encoder": SmallConfig(),
        "embedding": 8,
        "views": TwinViewConfig(patch_px=32, least_area=0.5),
        "optimisation": FAST,
        "ema_decay": 0.5,
        "labelled_per_step": 6,
        "unlabelled_per_step": 4,
    }
    return S5CLConfig(**(given | changes))


class TestS5CL(MethodContract):
    config = _s5cl()


class TestS5CLBeforePseudoLabels(MethodContract):
    """Each unlabelled patch is its own class."""

    config = _s5cl(warmup_epochs=100.0)


class TestSupConAndCrossEntropy(MethodContract):
    config = _s5cl(unlabelled_contrast=False)


class TestCrossEntropy(MethodContract):
    config = _s5cl(unlabelled_contrast=False, labelled_contrast=False)


def test_published_settings_are_the_defaults() -> None:
    config = S5CLConfig()
    assert (config.encoder.name, config.embedding) == ("resnet18", 64)
    assert (config.labelled_temperature, config.unlabelled_temperature) == (0.2, 0.7)
    assert (config.warmup_epochs, config.ema_decay, config.extra_decay) == (1, 0, 0)
    chosen = config.optimisation
    assert (chosen.name, chosen.lr, chosen.weight_decay, chosen.schedule) == (
        "adamax", 1e-4, 1e-4, "constant",
    )  # fmt: skip
    views = config.views
    assert (views.rotation, views.rgb_jitter, views.hue_jitter) == ("quarter", 0.1, 0.1)
    assert (views.hed_jitter, views.least_area, views.displacement) == (0.01, 0.08, 0.05)


def test_default_step_has_four_labelled_patches_per_class() -> None:
    config = S5CLConfig(encoder=SmallConfig())
    method = build_method(config, 9)
    assert (method.labelled_per_step, method.unlabelled_per_step) == (36, 128)
    method = build_method(config.model_copy(update={"unlabelled_contrast": False}), 9)
    assert (method.labelled_per_step, method.unlabelled_per_step) == (36, 0)


def test_every_choice_is_described() -> None:
    for name, field in S5CLConfig.model_fields.items():
        assert field.description, name


def test_temperatures_keep_the_hierarchy() -> None:
    with pytest.raises(ValidationError, match=r"unlabelled_temperature is 0.2, not above"):
        S5CLConfig(labelled_temperature=0.2, unlabelled_temperature=0.2)


@pytest.mark.parametrize("clock", [1.0, 1.99, 2.0, 16.0])
def test_losses_equal_their_equations(clock: float) -> None:
    """Until the second epoch each unlabelled patch is a class, then the class it is taken for."""
    method = _built(_s5cl())
    labelled, unlabelled = tiny_batch(CLASSES, 2), TestS5CL().unlabelled(method)
    assert unlabelled is not None
    generator = torch.Generator().manual_seed(1)
    views = [
        method.views.random(labelled, generator),
        method.views.warped(labelled, generator),
        method.views.random(unlabelled, generator),
        method.views.warped(unlabelled, generator),
    ]
    embedding = method.network.train().features(torch.cat(views))
    prob = method.network.head(embedding).softmax(dim=1).tolist()
    vectors = embedding.detach().double().numpy()
    truth = labelled.label.tolist()
    guessed = [row.index(max(row)) for row in prob[12:16]]
    group = [0, 1, 2, 3] if clock < 2 else guessed
    expected = {
        "supervised": -sum(math.log(prob[i][truth[i]]) for i in range(6)) / 6,
        "labelled_contrast": contrast_oracle(vectors[:12], truth * 2, 0.2),
        "unlabelled_contrast": contrast_oracle(vectors[12:], group * 2, 0.7),
    }

    method = _built(_s5cl())
    losses = method.training_step(labelled, unlabelled, clock, torch.Generator().manual_seed(1))
    for name, value in expected.items():
        assert losses.parts[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert losses.parts["total"] == pytest.approx(sum(expected.values()), rel=1e-4)
    assert losses.pseudo is not None
    assert losses.pseudo.tolist() == guessed
    confidence = sum(max(row) for row in prob[12:16]) / 4
    assert losses.parts["pseudo_confidence"] == pytest.approx(confidence, rel=1e-4)


def test_pseudo_labels_give_the_classifier_no_gradient() -> None:
    """Only the cross-entropy of labelled patches moves the head."""
    gradients = []
    for config in (_s5cl(), _s5cl(unlabelled_temperature=5.0)):
        method = _built(config)
        losses = method.training_step(
            tiny_batch(CLASSES, 2), TestS5CL().unlabelled(method), 16.0, _generator()
        )
        losses.total.backward()  # type: ignore[no-untyped-call]
        gradients.append(method.network.head.weight.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_example_recipe_has_the_published_settings() -> None:
    recipe = load_recipe(find_recipe("s5cl"))
    assert recipe.train.epochs * recipe.train.iterations == 3905
    assert isinstance(recipe.method, S5CLConfig)
    published = S5CLConfig(unlabelled_per_step=128)
    views = {"patch_px": 224, "mean": recipe.method.views.mean, "std": recipe.method.views.std}
    assert recipe.method == published.model_copy(
        update={"views": published.views.model_copy(update=views)}
    )


def test_evaluation_does_not_freeze_training() -> None:
    method = _built(_s5cl())
    method.predict(tiny_batch(CLASSES, 2))
    method.network.eval()
    TestS5CL().step(method, method.optimizer(), _generator())
    assert all(module.training for module in method.network.modules())


def test_network_embeds_then_classifies() -> None:
    network = build_network(RgbEmbeddingConfig(encoder=SmallConfig(), embedding=5), 3, 32).eval()
    patches = torch.randn(2, 3, 32, 32)
    features = network.features(patches)
    assert features.shape == (2, 5)
    assert torch.equal(network.classify(patches), network.head(features))
    assert torch.equal(network(patches), network.classify(patches))


def contrast_oracle(vectors: NDArray[np.float64], label: list[int], temperature: float) -> float:
    """Supervised contrast, one anchor at a time."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    losses = []
    for i in range(len(label)):
        exps = {a: math.exp(unit[i] @ unit[a] / temperature) for a in range(len(label)) if a != i}
        positive = [a for a in exps if label[a] == label[i]]
        if positive:
            total = sum(exps.values())
            losses.append(-sum(math.log(exps[p] / total) for p in positive) / len(positive))
    counted = [loss for loss in losses if loss > 0]
    return sum(counted) / len(counted) if counted and len(set(label)) > 1 else 0.0


@settings(max_examples=40, deadline=None)
@given(
    label=st.lists(st.integers(0, 3), min_size=2, max_size=9),
    temperature=st.sampled_from([0.2, 0.7, 2.0]),
    seed=st.integers(0, 1000),
)
def test_contrast_equals_its_equation(label: list[int], temperature: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(len(label), 4))
    found = supervised_contrast(torch.from_numpy(vectors), torch.tensor(label), temperature)
    assert float(found) == pytest.approx(contrast_oracle(vectors, label, temperature), abs=1e-9)


def test_contrast_of_pairs_is_nt_xent() -> None:
    vectors, label = torch.randn(12, 5, dtype=torch.float64), torch.arange(6).repeat(2)
    unit = torch.nn.functional.normalize(vectors)
    others = (unit @ unit.T / 0.7).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
    partner = torch.arange(12).roll(6)
    expected = torch.nn.functional.cross_entropy(others, partner)
    torch.testing.assert_close(supervised_contrast(vectors, label, 0.7), expected)


@pytest.mark.parametrize("label", [[0, 0, 0], [0, 1, 2]])
def test_contrast_without_positives_or_negatives_is_zero_with_a_gradient(label: list[int]) -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    loss = supervised_contrast(vectors, torch.tensor(label), 0.2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert vectors.grad is not None
    assert not vectors.grad.any()


def test_contrast_is_exact_under_mixed_precision() -> None:
    vectors, label = torch.randn(8, 16), torch.arange(4).repeat(2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = supervised_contrast(vectors, label, 0.2)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, supervised_contrast(vectors, label, 0.2))


def test_stains_change_as_in_scikit_image() -> None:
    """For colours that hematoxylin, eosin and DAB can mix, whose amounts it does not clip."""
    amounts = np.random.default_rng(0).uniform(0.01, 0.05, (6, 6, 3))
    rgb = hed2rgb(amounts)
    scale, shift = np.array([1.01, 0.99, 1.0]), np.array([0.005, -0.002, 0.001])
    expected = hed2rgb(rgb2hed(rgb) * scale + shift)
    found = change_stains(
        torch.from_numpy(rgb).permute(2, 0, 1)[None],
        torch.from_numpy(scale)[None],
        torch.from_numpy(shift)[None],
    )
    np.testing.assert_allclose(found[0].permute(1, 2, 0).numpy(), expected, atol=2e-6)


def test_unchanged_stains_are_the_patch() -> None:
    rgb = torch.rand(2, 3, 5, 5).clamp(min=1e-3)
    same = change_stains(rgb, torch.ones(2, 3), torch.zeros(2, 3))
    torch.testing.assert_close(same, rgb, rtol=1e-4, atol=1e-5)


def test_stain_jitter_is_drawn_for_each_patch_at_each_call() -> None:
    rgb, generator = torch.rand(1, 3, 9, 9).expand(3, 3, 9, 9), _generator()
    first, second = (jitter_hed(rgb, 0.01, generator) for _ in range(2))
    drawn = [*first, *second]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert torch.equal(first, jitter_hed(rgb, 0.01, _generator()))
    for patch in drawn:
        assert (float(patch.min()), float(patch.max())) == pytest.approx((0, 1), abs=1e-6)


def test_stain_jitter_leaves_blank_patches_blank() -> None:
    blank = jitter_hed(torch.full((2, 3, 4, 4), 0.9), 0.0, _generator())
    torch.testing.assert_close(blank, torch.full((2, 3, 4, 4), 0.9))


def _places(side: int, count: int) -> Tensor:
    """Make patches that hold their own column and row, from -1 to 1, shape (N, 2, S, S)."""
    steps = (torch.arange(side) + 0.5) / side * 2 - 1
    rows, cols = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([cols, rows]).expand(count, 2, side, side)


@settings(max_examples=25, deadline=None)
@given(least=st.sampled_from([0.3, 0.6, 0.9]), seed=st.integers(0, 10_000))
def test_warped_crops_show_a_part_of_the_patch_of_the_right_size(least: float, seed: int) -> None:
    """Without slant every crop is a rectangle inside the patch, at most P x P, enlarged to it."""
    found = warped_crops(
        _places(48, 4),
        32,
        torch.Generator().manual_seed(seed),
        least_area=least,
        displacement=0.0,
    )
    # one output pixel to the right and one down, in output pixels of stored tissue
    right = (found[:, :, 16, 17] - found[:, :, 16, 16]) * 24
    down = (found[:, :, 17, 16] - found[:, :, 16, 16]) * 24
    area = (right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]).abs()
    assert bool((area >= least * 3 / 4 - 1e-3).all())
    assert bool((area <= 1 + 1e-3).all())
    lengths = torch.stack([right.abs().amax(dim=1), down.abs().amax(dim=1)])
    assert bool((lengths <= 1 + 1e-3).all())
    ratio = lengths[0] / lengths[1]
    assert bool(((ratio > 3 / 4 - 1e-3) & (ratio < 4 / 3 + 1e-3)).all())
    # nothing of it is mirrored: all is where these two steps lead to, up to half a stored pixel
    offset = torch.arange(32.0) - 16
    across = right[:, :, None, None] / 24 * offset + down[:, :, None, None] / 24 * offset[:, None]
    assert float((found - found[:, :, 16:17, 16:17] - across).abs().max()) < 1 / 48 + 1e-3
    # axes stay axes
    assert bool((torch.minimum(right.abs(), right.abs().flip(1)) < 1e-4).all())


def test_warped_crops_come_in_all_eight_orientations() -> None:
    found = warped_crops(_places(16, 100), 16, _generator(), least_area=0.5, displacement=0.0)
    steps = torch.stack([found[:, :, 8, 9], found[:, :, 9, 8]], dim=1) - found[:, None, :, 8, 8]
    signs = steps.sign().where(steps.abs() > 1e-4, 0).flatten(1).to(torch.int64)
    assert len(set(map(tuple, signs.tolist()))) == 8


def test_slant_moves_what_is_shown_by_its_share_of_the_side() -> None:
    still, slanted = (
        warped_crops(_places(64, 200), 32, _generator(), least_area=1.0, displacement=displacement)
        for displacement in (0.0, 0.05)
    )
    # a stored pixel is 2 / 64; at the centre, the middle of two anchors, by up to 0.05 * 32 px
    moved = (slanted - still)[:, :, 15:17, 15:17].abs().amax(dim=(1, 2, 3)) * 32
    assert 0 < float(moved.max()) < 0.05 * 32 * 1.3
    assert float(moved.mean()) > 0.2


def test_warped_crops_need_patches_of_the_input_side() -> None:
    with pytest.raises(ValueError, match="stored patches of 30 px"):
        warped_crops(_places(30, 1), 32, _generator(), least_area=0.5, displacement=0.0)


def test_twin_views_differ_and_can_be_switched_off() -> None:
    batch = tiny_batch(CLASSES, 1, side=32)
    views = TwinViews(TwinViewConfig(patch_px=32))
    weak, strong = views.random(batch, _generator()), views.warped(batch, _generator())
    assert weak.shape == strong.shape == (3, 3, 32, 32)
    assert not torch.allclose(weak, strong)
    off = TwinViews(TwinViewConfig(patch_px=32, rgb_jitter=0, hue_jitter=0))
    crop, plain = off.random(batch, _generator()), off.plain(batch)
    turns = [torch.rot90(p, k, (2, 3)) for p in (plain, plain.flip(3)) for k in range(4)]
    for index in range(3):
        assert any(torch.allclose(crop[index], turn[index], atol=1e-5) for turn in turns)
    hued = TwinViews(TwinViewConfig(patch_px=32, rgb_jitter=0)).random(batch, _generator())
    for index in range(3):
        assert not any(torch.allclose(hued[index], turn[index], atol=1e-2) for turn in turns)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _built(config: S5CLConfig) -> S5CL:
    torch.manual_seed(0)
    method = build_method(config, CLASSES)
    assert isinstance(method, S5CL)
    return method
