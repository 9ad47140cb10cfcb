"""Every method fulfils the contract; its choices are checked, and the average is what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from wsi_models.methods import (
    ClassM,
    ClassMConfig,
    FixMatch,
    FixMatchConfig,
    Method,
    MethodConfig,
    MixMatchConfig,
    Supervised,
    SupervisedConfig,
    TearConfig,
    build_method,
)
from wsi_models.methods.averaged import step_sizes
from wsi_models.methods.fixmatch import FIXMATCH_OPTIMISATION, threshold_sizes
from wsi_models.methods.optimisation import OptimisationConfig
from wsi_models.networks.class_m import ClassMNetwork
from wsi_models.parts.backbone import SmallConfig, ViTConfig
from wsi_models.views import RgbViewConfig, StainViewConfig

from tests.contracts.method_contract import CLASSES, NORMALISATION, MethodContract
from tests.tiny_patches import tiny_batch, without_labels

FAST = OptimisationConfig(name="adam", lr=3e-3, weight_decay=0.0)
STAIN_VIEWS = StainViewConfig(patch_px=32)
RGB_VIEWS = RgbViewConfig(patch_px=32)


def _class_m(**changes: Any) -> ClassMConfig:
    given: dict[str, Any] = {
        "encoder": SmallConfig(),
        "views": STAIN_VIEWS,
        "optimisation": FAST,
        "ema_decay": 0.5,
        "labelled_per_step": 6,
        "unlabelled_per_step": 4,
    }
    return ClassMConfig(**(given | changes))


class TestClassM(MethodContract):
    config = _class_m()


class TestClassMWithoutContrast(MethodContract):
    config = _class_m(contrastive=False)


class TestClass(MethodContract):
    """CLASS: no MixUp, hence no pseudo-labels."""

    config = _class_m(mixup=False)


class TestClassWithoutContrast(MethodContract):
    """Labels only, on stains."""

    config = _class_m(mixup=False, contrastive=False)


class TestSupervised(MethodContract):
    config = SupervisedConfig(
        encoder=SmallConfig(),
        views=RGB_VIEWS,
        optimisation=FAST,
        ema_decay=0.5,
        labelled_per_step=6,
    )


class TestLinearProbe(MethodContract):
    """The encoder is never touched."""

    config = TestSupervised.config.model_copy(
        update={"frozen_encoder": True, "optimisation": FAST.model_copy(update={"lr": 0.1})}
    )

    def test_learns(self) -> None:
        """As far as features of random weights let it: the labelled loss falls step by step."""
        method = self.build()
        optimizer, losses = method.optimizer(), []
        for _ in range(30):
            generator = torch.Generator().manual_seed(0)  # the same views at every step
            losses.append(self.step(method, optimizer, generator).parts["supervised"])
        assert losses[-1] < 0.9 * losses[0]


class TestSupervisedTransformer(MethodContract):
    config = SupervisedConfig(
        encoder=ViTConfig(token_px=8, hidden=16, layers=2, heads=2),
        views=RGB_VIEWS,
        optimisation=FAST,
        ema_decay=0.5,
        labelled_per_step=6,
    )


class TestFixMatch(MethodContract):
    config = FixMatchConfig(
        encoder=SmallConfig(),
        views=RGB_VIEWS,
        optimisation=FIXMATCH_OPTIMISATION.model_copy(update={"lr": 3e-3}),
        ema_decay=0.5,
        labelled_per_step=6,
        unlabelled_per_step=4,
        threshold=0.5,
    )


class TestFixMatchInChunks(MethodContract):
    """Batch normalisation sees a part of the step at a time."""

    config = TestFixMatch.config.model_copy(update={"normalised_together": 5})


class TestClassInChunks(MethodContract):
    config = _class_m(mixup=False, normalised_together=5)


class TestMixMatch(MethodContract):
    config = MixMatchConfig(
        encoder=SmallConfig(),
        views=RGB_VIEWS,
        optimisation=FAST,
        ema_decay=0.5,
        labelled_per_step=6,
        unlabelled_per_step=4,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"rgb_jitter": 0.0},
        {"stain_matrix": "fixed"},
        {"channels": "red_green"},
        {"channels": "red_blue"},
        {"same_geometry": True},
        {"rotation": "quarter"},
    ],
)
def test_every_ablation_of_the_views_trains_on_other_input(changes: dict[str, Any]) -> None:
    published, contract = _built(_class_m()), TestClassM()
    ablated = _built(_class_m(views=STAIN_VIEWS.model_copy(update=changes)))
    steps = [
        contract.step(method, method.optimizer(), torch.Generator().manual_seed(0)).parts["total"]
        for method in (published, ablated)
    ]
    assert all(map(math.isfinite, steps))
    assert steps[0] != steps[1]


@pytest.mark.parametrize(
    ("classes", "sizes"), [(2, (32, 32)), (3, (33, 31)), (4, (32, 32)), (5, (30, 34))]
)
def test_default_sizes_are_balanced_and_those_of_the_paper_for_three_classes(
    classes: int, sizes: tuple[int, int]
) -> None:
    assert step_sizes(classes, None, None) == sizes


def test_sizes_that_cannot_be_balanced_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labelled_per_step is 10, no multiple of 3.*choose 9"):
        step_sizes(3, 10, None)


def test_published_settings_are_the_defaults() -> None:
    config = ClassMConfig()
    assert config.encoder.name == "resnet18"
    assert (config.views.patch_px, config.views.rotation) == (256, "any")
    assert (config.views.rgb_jitter, config.views.channel_brightness) == (0.1, 0.1)
    assert (config.views.blur_px, config.views.noise) == (0, 0)
    assert (config.mixing.views, config.mixing.temperature, config.mixing.alpha) == (2, 0.5, 0.75)
    assert (config.mixing.unlabelled_weight, config.mixing.ramp_epochs) == (7.5, 16)
    assert (config.ema_decay, config.ema_restart_epoch, config.extra_decay) == (0.999, 1, 0.02)
    chosen = config.optimisation
    assert (chosen.name, chosen.lr, chosen.momentum, chosen.weight_decay) == (
        "rmsprop", 1e-4, 0.9, 1e-8,
    )  # fmt: skip
    assert (chosen.schedule, chosen.factor, chosen.patience) == ("plateau", 0.9, 15)


@pytest.mark.parametrize(("mixup", "weight"), [(True, 0.001), (False, 0.01)])
def test_contrastive_weight_follows_the_reduction(mixup: bool, weight: float) -> None:
    method = _built(_class_m(mixup=mixup))
    assert isinstance(method, ClassM)
    assert method.contrastive_weight == weight


@pytest.mark.parametrize("mixup", [True, False])
def test_balance_of_the_losses_does_not_depend_on_the_batch(mixup: bool) -> None:
    """Every patch twice: the same means, hence the same losses, whatever the published sizes."""
    ratios = []
    for labelled, unlabelled in ((33, 31), (6, 4), (66, 62)):
        config = _class_m(
            mixup=mixup, labelled_per_step=labelled, unlabelled_per_step=unlabelled, margin=1e4
        )
        method = _built(config)
        assert isinstance(method, ClassM)
        batch = tiny_batch(CLASSES, labelled // CLASSES)
        rest = without_labels(tiny_batch(1, unlabelled, seed=1))
        parts = method(batch, rest, 16.0, torch.Generator().manual_seed(0)).parts
        # with so wide a margin the mean of the hinge is the margin
        ratios.append(parts["contrastive"] / 1e4)
    published = 95 if mixup else 64
    assert ratios == pytest.approx([published] * 3, rel=1e-2)


@pytest.mark.parametrize("config", [FixMatchConfig(), TearConfig()])
def test_thresholds_come_with_seven_unlabelled_patches_for_each_labelled_one(
    config: FixMatchConfig | TearConfig,
) -> None:
    assert threshold_sizes(config, 4) == (64, 448)
    assert threshold_sizes(config, 3) == (63, 441)
    given = config.model_copy(update={"labelled_per_step": 6})
    assert threshold_sizes(given, 3) == (6, 42)
    assert threshold_sizes(given.model_copy(update={"unlabelled_per_step": 5}), 3) == (6, 5)


def test_ablations_take_no_patches_that_they_do_not_need() -> None:
    assert _built(_class_m(mixup=False)).unlabelled_per_step == 4
    assert _built(_class_m(contrastive=False)).unlabelled_per_step == 4
    assert _built(_class_m(mixup=False, contrastive=False)).unlabelled_per_step == 0


def test_a_linear_probe_leaves_the_encoder_as_it_is() -> None:
    method, contract = _built(TestLinearProbe.config), TestLinearProbe()
    network = method.get_submodule("network")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = method.optimizer()
    for seed in range(3):
        contract.step(method, optimizer, torch.Generator().manual_seed(seed))
    moved = [n for n, t in network.state_dict().items() if not torch.equal(t, before[n])]
    assert sorted(moved) == ["head.bias", "head.weight"]


def test_expected_label_noise_softens_the_targets_of_labels() -> None:
    losses = []
    for noise in (0.0, 0.2):
        config = TestSupervised.config.model_copy(update={"label_noise": noise})
        method, contract = _built(config), TestSupervised()
        losses.append(
            contract.step(method, method.optimizer(), torch.Generator().manual_seed(0)).parts
        )
        assert isinstance(method, Supervised)
        target = method._targets(tiny_batch(CLASSES, 2))
        assert torch.allclose(target.sum(dim=1), torch.ones(6))
        assert target[0].tolist() == pytest.approx([1 - noise, noise / 2, noise / 2])
    assert losses[0] != losses[1]


def test_recipe_names_its_method() -> None:
    adapter: TypeAdapter[MethodConfig] = TypeAdapter(MethodConfig)
    recipe = {"method": "fixmatch", "encoder": {"name": "small"}, "threshold": 0.9}
    assert adapter.validate_python(recipe) == FixMatchConfig(encoder=SmallConfig(), threshold=0.9)
    with pytest.raises(ValidationError, match="cutoff"):
        adapter.validate_python({"method": "fixmatch", "cutoff": 0.9})
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        adapter.validate_python({"method": "mean-teacher"})


@pytest.mark.parametrize("config", [ClassMConfig, SupervisedConfig, FixMatchConfig, MixMatchConfig])
def test_every_choice_is_described(config: type[ClassMConfig]) -> None:
    for name, field in config.model_fields.items():
        assert field.description, name


def test_class_m_needs_the_normalisation_of_its_data() -> None:
    with pytest.raises(ValueError, match="class-m needs the normalisation"):
        build_method(_class_m(), CLASSES)


def test_average_starts_anew_after_the_first_epoch() -> None:
    method = _built(_class_m())
    contract = TestClassM()
    contract.step(method, method.optimizer(), torch.Generator().manual_seed(0))
    trained = method.get_submodule("network")
    averaged = method.export_network()
    method.after_epoch(2)
    assert not torch.equal(
        averaged.state_dict()["head.weight"], trained.state_dict()["head.weight"]
    )
    method.after_epoch(1)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(averaged.state_dict()[name], tensor), name


def test_exported_network_gives_the_predictions() -> None:
    method = _built(_class_m())
    network, batch = method.export_network(), tiny_batch(CLASSES, 2)
    assert isinstance(network, ClassMNetwork)
    assert not any(module.training for module in network.modules())
    logits = network.classify(method.evaluation_input(batch))
    assert torch.equal(logits.detach(), method.predict(batch))


def test_fixmatch_ignores_what_it_is_not_sure_of() -> None:
    config = TestFixMatch.config.model_copy(update={"threshold": 1.0})
    method = _built(config)
    losses = TestFixMatch().step(method, method.optimizer(), torch.Generator().manual_seed(0))
    assert losses.pseudo is not None
    assert losses.pseudo.tolist() == [-1] * 4
    assert losses.parts["consistency"] == 0
    assert losses.parts["total"] == losses.parts["supervised"]


def test_fixmatch_equals_its_equations() -> None:
    """Trusted weak pseudo-labels are targets of strong views; all patches count in the mean."""
    method = _built(TestFixMatch.config)
    assert isinstance(method, FixMatch)
    labelled, unlabelled = tiny_batch(CLASSES, 2), TestFixMatch().unlabelled(method)
    assert unlabelled is not None
    generator = torch.Generator().manual_seed(1)
    views = [
        method.views.random(labelled, generator),
        method.views.random(unlabelled, generator),
        method.views.strong(unlabelled, generator, (0.3, 1.3)),
    ]
    prob = method.network.train()(torch.cat(views)).softmax(dim=1).tolist()
    best = [max(prob[6 + i]) for i in range(4)]
    threshold = sum(sorted(best)[1:3]) / 2
    supervised = -sum(math.log(prob[i][int(labelled.label[i])]) for i in range(6)) / 6
    pseudo = [prob[6 + i].index(best[i]) if best[i] >= threshold else -1 for i in range(4)]
    consistency = -sum(math.log(prob[10 + i][pseudo[i]]) for i in range(4) if pseudo[i] >= 0) / 4

    method = _built(TestFixMatch.config.model_copy(update={"threshold": threshold}))
    losses = method.training_step(labelled, unlabelled, 1.0, torch.Generator().manual_seed(1))
    assert pseudo.count(-1) == 2
    assert losses.pseudo is not None
    assert losses.pseudo.tolist() == pseudo
    assert losses.parts["supervised"] == pytest.approx(supervised, rel=1e-5)
    assert losses.parts["consistency"] == pytest.approx(consistency, rel=1e-5)
    assert losses.parts["total"] == pytest.approx(supervised + consistency, rel=1e-5)


def test_mixmatch_adds_the_ramped_error() -> None:
    method, contract = _built(TestMixMatch.config), TestMixMatch()
    unlabelled = contract.unlabelled(method)
    losses = method.training_step(
        tiny_batch(CLASSES, 2), unlabelled, 4.0, torch.Generator().manual_seed(0)
    )
    parts = losses.parts
    assert parts["consistency"] > 0
    assert parts["total"] == pytest.approx(
        parts["supervised"] + 7.5 * 4 / 16 * parts["consistency"], rel=1e-5
    )


def _built(config: MethodConfig) -> Method:
    torch.manual_seed(0)
    return build_method(config, CLASSES, NORMALISATION)
