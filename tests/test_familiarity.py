"""How far patches lie from a training set: near ones within the limit, far ones beyond it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from wsi_models.familiarity import Assessor, Familiarity, measure_familiarity
from wsi_models.networks.description import (
    NetworkConfig,
    RgbClassifierConfig,
    RgbClusterConfig,
    RgbEmbeddingConfig,
    StainPairConfig,
    build_network,
)
from wsi_models.parts.backbone import SmallConfig

CENTRES = torch.tensor([[0.0, 5.0, 2.0, 0.0], [6.0, 0.0, 2.0, 0.0]])


def draw(count: int, seed: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Draw features around two centres; the third varies ten times as much, the last never."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 2
    noise = torch.randn((count, 4), generator=generator) * torch.tensor([0.5, 0.5, 5.0, 0.0])
    return CENTRES[label] + noise + shift, label


def test_one_in_a_hundred_training_patches_lies_beyond() -> None:
    features, label = draw(2000, 0)
    found = measure_familiarity(features, label, draw(3000, 1)[0])
    assert (found.distance(features) > 1).double().mean() == pytest.approx(0.01, abs=1e-3)
    assert found.usual == pytest.approx(0.01, abs=0.006)
    assert found.share_beyond(draw(500, 2, shift=4.0)[0]) > 0.95


@given(seed=st.integers(0, 1000))
def test_distance_is_that_of_the_nearest_centre(seed: int) -> None:
    features, label = draw(60, seed)
    found = measure_familiarity(features, label, features[:0])
    assert found.usual == 0
    wanted = [
        min(
            float(
                np.sqrt(
                    np.mean(
                        [
                            ((x - c) / s) ** 2
                            for x, c, s in zip(row, centre, found.scale, strict=True)
                        ]
                    )
                )
            )
            for centre in found.centres
        )
        / found.limit
        for row in features.tolist()
    ]
    np.testing.assert_allclose(found.distance(features), wanted, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        StainPairConfig(encoder=SmallConfig()),
        RgbClassifierConfig(encoder=SmallConfig()),
        RgbEmbeddingConfig(encoder=SmallConfig(), embedding=5),
        RgbClusterConfig(encoder=SmallConfig(), projected=8, hidden=8),
    ],
)
def test_logits_and_distance_come_in_one_pass(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    network = build_network(config, 3, 32).eval()
    passes = []
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    patches = torch.randn(6, 2 if config.input == "he" else 3, 32, 32)
    with torch.inference_mode():
        features, logits = network.features(patches), network.classify(patches)
        found = measure_familiarity(features, logits.argmax(dim=1), features)
        first.register_forward_hook(lambda *_: passes.append(1))
        given = Assessor(network, found).eval()(patches)
    assert len(passes) == 1
    torch.testing.assert_close(given[:, :-1], logits)
    torch.testing.assert_close(given[:, -1], found.distance(features))


def test_what_is_no_number_is_refused() -> None:
    values = {"centres": ((0.0,),), "scale": (1.0,), "limit": 1.0, "usual": 0.0}
    Familiarity(**values)  # type: ignore[arg-type]
    for wrong in ({"scale": (0.0,)}, {"limit": float("nan")}, {"centres": ((float("inf"),),)}):
        with pytest.raises(ValidationError):
            Familiarity(**(values | wrong))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="of \\[1, 2\\] features"):
        Familiarity(**(values | {"scale": (1.0, 2.0)}))  # type: ignore[arg-type]
