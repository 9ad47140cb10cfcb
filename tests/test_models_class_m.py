"""The CLASS-M network against the formulas of its paper."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from wsi_models.networks.class_m import ClassMNetwork
from wsi_models.networks.description import StainPairConfig, build_network
from wsi_models.parts.backbone import ResNet18Config, SmallConfig, build_encoder
from wsi_models.parts.patch_network import Classifier, FeatureExtractor

SHAPE = SmallConfig(planes=(4, 4, 8, 16))


def make_network(seed: int = 0) -> ClassMNetwork:
    torch.manual_seed(seed)
    return build_network(StainPairConfig(encoder=SHAPE), 3, 64)


def make_patches(n: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, 2, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_output_has_the_stated_shapes() -> None:
    logits, z_h, z_e = make_network()(make_patches(5))

    assert logits.shape == (5, 3)
    assert z_h.shape == z_e.shape == (5, 16)


def test_network_of_the_paper_has_512_features() -> None:
    shape = StainPairConfig(encoder=ResNet18Config(weights=None))
    with torch.device("meta"):
        network = build_network(shape, 4, 256)

    assert network.head.weight.shape == (4, 512)


def test_logits_are_linear_in_the_average_of_the_raw_features() -> None:
    network, he = make_network().eval(), make_patches(4)

    logits = network(he).logits

    weight, bias = network.head.weight, network.head.bias
    for i in range(4):
        f_h = network.encoder_h(he[i : i + 1, 0:1])[0]
        f_e = network.encoder_e(he[i : i + 1, 1:2])[0]
        by_hand = [
            sum(weight[c, k] * (f_h[k] + f_e[k]) * 0.5 for k in range(16)) + bias[c]
            for c in range(3)
        ]
        torch.testing.assert_close(logits[i], torch.stack(by_hand), rtol=1e-4, atol=1e-5)


def test_encoders_see_their_own_stain_and_share_no_weights() -> None:
    network, he = make_network().eval(), make_patches(4)
    other_e = he.clone()
    other_e[:, 1] = torch.rand(4, 64, 64)

    f_h, f_e = network.encode(he)
    g_h, g_e = network.encode(other_e)

    assert torch.equal(f_h, g_h)
    assert not torch.allclose(f_e, g_e)
    swapped_h, _ = network.encode(he.flip(1))
    assert not torch.allclose(swapped_h, f_e)
    pointers = [
        {p.data_ptr() for p in e.parameters()} for e in (network.encoder_h, network.encoder_e)
    ]
    assert pointers[0].isdisjoint(pointers[1])


def test_embeddings_have_zero_mean_and_unit_variance_in_training() -> None:
    network = make_network().train()
    he = make_patches(64)

    _, z_h, z_e = network(he)

    with torch.no_grad():
        features = network.encode(he)
    for z, f in zip((z_h, z_e), features, strict=True):
        variance = f.var(dim=0, unbiased=False)
        torch.testing.assert_close(z.mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
        # batch normalisation divides by sqrt(variance + 1e-5)
        expected = variance / (variance + 1e-5)
        torch.testing.assert_close(z.var(dim=0, unbiased=False), expected, atol=1e-3, rtol=0)


def test_normalisation_has_no_parameters_and_keeps_statistics_per_stain() -> None:
    network = make_network()

    assert not list(network.norm_h.parameters())
    assert not list(network.norm_e.parameters())
    network.train()(make_patches())
    assert network.norm_h.running_mean is not None
    assert network.norm_e.running_mean is not None
    assert not torch.allclose(network.norm_h.running_mean, torch.zeros(16))
    assert not torch.allclose(network.norm_h.running_mean, network.norm_e.running_mean)


@pytest.mark.parametrize("loss", ["logits", "z"])
def test_gradients_reach_both_encoders(loss: str) -> None:
    network = make_network().train()
    out = network(make_patches())
    direction = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))

    value = (
        out.logits.square().sum() if loss == "logits" else ((out.z_h - out.z_e) * direction).sum()
    )
    value.backward()

    for encoder in (network.encoder_h, network.encoder_e):
        for name, parameter in encoder.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert (network.head.weight.grad is not None) == (loss == "logits")


def test_classifier_gives_the_logits_only() -> None:
    network, he = make_network().eval(), make_patches()
    classifier = Classifier(network).eval()

    assert torch.equal(classifier(he), network(he).logits)
    assert {id(p) for p in classifier.parameters()} == {id(p) for p in network.parameters()}


def test_classifier_leaves_out_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("inference must not normalise embeddings")

    monkeypatch.setattr(nn.BatchNorm1d, "forward", refuse)

    Classifier(make_network()).eval()(make_patches(1))


def test_training_lowers_the_loss() -> None:
    network, he, label = make_network().train(), make_patches(8), torch.arange(8) % 3
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(network(he).logits, label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (2, 3, 64, 64), (2, 64, 64)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must have shape \(B, 2, P, P\)"):
        make_network()(torch.rand(shape))


def test_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        build_network(StainPairConfig(encoder=SHAPE), 1, 64)


def test_encoders_of_different_width_are_refused() -> None:
    with pytest.raises(ValueError, match="encoders give 16 and 8 features"):
        ClassMNetwork(
            2,
            build_encoder(SHAPE, 1, 64),
            build_encoder(SmallConfig(planes=(4, 4, 8, 8)), 1, 64),
        )


def test_features_are_those_of_both_stains() -> None:
    network, he = make_network().eval(), make_patches()
    f_h, f_e = network.encode(he)

    features = FeatureExtractor(network).eval()(he)

    assert torch.equal(features, torch.cat([f_h, f_e], dim=1))


def test_importing_the_package_is_light() -> None:
    code = "import sys, wsi_models, wsi_models.parts; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {"torch", "monai", "safetensors", "pydantic"}.isdisjoint(done.stdout.split())
