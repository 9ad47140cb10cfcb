"""Heads: the equations of their papers, and the weights of the release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor
from wsi_models.errors import TrainingError
from wsi_models.mil.config import (
    MODEL_NAMES,
    AbmilConfig,
    ClamSbConfig,
    DsmilConfig,
    ModelConfig,
    ModelName,
    PoolingConfig,
)
from wsi_models.mil.heads import (
    AbmilHead,
    ClamSbHead,
    DsmilHead,
    Head,
    PoolingHead,
    build_head,
    load_released_dsmil,
)

FEATURES = 5


def make_bag(count: int = 7, features: int = FEATURES, seed: int = 0) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed))


def make_head(config: ModelConfig, classes: int, features: int = FEATURES) -> Head:
    torch.manual_seed(3)
    head = build_head(config, features, classes).eval()
    for parameter in head.parameters():  # zero biases would hide mistakes
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def small(name: ModelName) -> ModelConfig:
    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    config = adapter.validate_python({"model": name})
    if isinstance(config, AbmilConfig | ClamSbConfig):
        return config.model_copy(update={"embedding": (8,), "attention": 4})
    return config


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("classes", [2, 4])
@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 99))
def test_attention_sums_to_one_and_follows_the_instances(
    name: ModelName, classes: int, count: int, seed: int
) -> None:
    head = make_head(small(name), classes)
    bag = make_bag(count, seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        scores, turned = head.score(bag), head.score(bag[order])
    assert scores.logits.shape == (1 if classes == 2 else classes,)
    assert scores.attention.shape[0] == count
    torch.testing.assert_close(
        scores.attention.sum(dim=0), torch.ones(scores.attention.shape[1]), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(scores.logits, turned.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.attention[order], turned.attention, atol=1e-4, rtol=1e-4)
    prob = head.probabilities(scores.logits)
    assert prob.shape == (classes,)
    assert float(prob.sum()) == pytest.approx(1, abs=1e-5)


def naive_dsmil(
    weights: dict[str, NDArray[Any]], bag: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return bag logits, attention and instance logits, class by class, after the paper."""
    outputs = len(weights["instance_classifier.bias"])
    instance = np.array(
        [[w @ x + b for w, b in zip(weights["instance_classifier.weight"],
                                    weights["instance_classifier.bias"], strict=True)] for x in bag]
    )  # fmt: skip
    queries = []
    for x in bag:
        hidden = np.maximum(weights["query.0.weight"] @ x + weights["query.0.bias"], 0)
        queries.append(np.tanh(weights["query.2.weight"] @ hidden + weights["query.2.bias"]))
    attention = np.zeros((len(bag), outputs))
    vectors = np.zeros((outputs, bag.shape[1]))
    for c in range(outputs):
        critical = queries[int(instance[:, c].argmax())]
        raw = np.array([q @ critical / np.sqrt(len(critical)) for q in queries])
        attention[:, c] = np.exp(raw) / np.exp(raw).sum()
        for x, share in zip(bag, attention[:, c], strict=True):
            vectors[c] += share * x
    kernel, bias = weights["bag_classifier.weight"], weights["bag_classifier.bias"]
    logits = np.array([(kernel[o] * vectors).sum() + bias[o] for o in range(outputs)])
    return logits, attention, instance


@pytest.mark.parametrize(("classes", "per_class"), [(2, False), (2, True), (3, False)])
def test_dsmil_is_that_of_the_paper(classes: int, per_class: bool) -> None:
    head = make_head(DsmilConfig(attention=4, per_class=per_class), classes)
    bag = make_bag()
    weights = {
        name.removeprefix("network."): value.double().numpy()
        for name, value in head.state_dict().items()
    }
    logits, attention, instance = naive_dsmil(weights, bag.double().numpy())
    with torch.inference_mode():
        scores, loss = head.score(bag), float(head.loss(bag, 1))
    np.testing.assert_allclose(scores.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores.attention, attention, rtol=1e-4, atol=1e-6)
    truth = np.array([1.0]) if head.outputs == 1 else np.eye(classes)[1]

    def cross_entropy(values: NDArray[Any]) -> float:
        prob = 1 / (1 + np.exp(-values))
        return float(-(truth * np.log(prob) + (1 - truth) * np.log(1 - prob)).mean())

    expected = 0.5 * cross_entropy(logits) + 0.5 * cross_entropy(instance.max(axis=0))
    assert loss == pytest.approx(expected, rel=1e-4)


def test_dsmil_starts_orthogonal_without_biases() -> None:
    head = DsmilHead(DsmilConfig(), 200, 2)
    weight = head.state_dict()["network.query.2.weight"]
    torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)
    assert all(not p.any() for name, p in head.named_parameters() if name.endswith("bias"))


def test_abmil_is_the_gated_attention_of_the_paper() -> None:
    head = make_head(AbmilConfig(embedding=(), attention=4), 2)
    assert isinstance(head, AbmilHead)
    bag = make_bag().double().numpy()
    p = {name: value.double().numpy() for name, value in head.network.state_dict().items()}
    raw = []
    for h in bag:
        signal = np.tanh(p["signal.weight"] @ h + p["signal.bias"])
        gate = 1 / (1 + np.exp(
            -(p["gate.weight"] @ h + p["gate.bias"])
        ))  # fmt: skip
        raw.append(float((p["weight.weight"] @ (signal * gate)).item()))
    attention = np.exp(raw) / np.exp(raw).sum()
    logit = p["classifier.weight"] @ (attention @ bag) + p["classifier.bias"]
    with torch.inference_mode():
        scores = head.score(make_bag())
    np.testing.assert_allclose(scores.attention[:, 0], attention, rtol=1e-4)
    np.testing.assert_allclose(scores.logits, logit, rtol=1e-4)


def test_pooling_heads_pool_the_outputs_of_instances() -> None:
    bag = make_bag()
    for name in ("mean", "max"):
        head = make_head(PoolingConfig(model=name), 3)
        assert isinstance(head, PoolingHead)
        with torch.inference_mode():
            instances = head.classifier(bag)
            scores = head.score(bag)
        expected = instances.mean(dim=0) if name == "mean" else instances.amax(dim=0)
        torch.testing.assert_close(scores.logits, expected)
        if name == "max":
            assert scores.attention.argmax(dim=0).tolist() == instances.argmax(dim=0).tolist()


def test_clam_clusters_the_most_and_the_least_attended() -> None:
    config = ClamSbConfig(embedding=(), attention=4, instances=2, dropout=0.0)
    head, bag = make_head(config, 2), make_bag(9)
    assert isinstance(head, ClamSbHead)
    with torch.inference_mode():
        scores, loss = head.score(bag), float(head.loss(bag, 1))
        order = scores.attention[:, 0].argsort(descending=True)
        chosen = torch.cat([bag[order[:2]], bag[order[-2:]]])
        logits = head.instance_classifiers[1](chosen).double().numpy()
        bag_loss = float(head.classification_loss(scores.logits, 1))
    truth = np.array([1, 1, 0, 0])
    losses = []
    for row, label in zip(logits, truth, strict=True):
        margins = row - row[label] + (np.arange(2) != label)
        losses.append(np.log(np.exp(margins).sum()))
    assert loss == pytest.approx(0.7 * bag_loss + 0.3 * np.mean(losses), rel=1e-4)


def test_clam_has_no_instance_loss_where_most_and_least_attended_overlap() -> None:
    config = ClamSbConfig(embedding=(), attention=4, instances=5, dropout=0.0)
    head, bag = make_head(config, 2), make_bag(9)
    with torch.inference_mode():
        expected = 0.7 * float(head.classification_loss(head.score(bag).logits, 0))
        assert float(head.loss(bag, 0)) == pytest.approx(expected)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_head_learns_a_bag(name: ModelName) -> None:
    torch.manual_seed(0)
    head = build_head(small(name), FEATURES, 2)
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    bags = [(make_bag(20, seed=0), 0), (make_bag(20, seed=1) + 1, 1)]

    def total() -> Tensor:
        return torch.stack([head.loss(bag, label) for bag, label in bags]).sum()

    head.eval()
    before = total().item()
    for _ in range(30):
        optimizer.zero_grad()
        total().backward()  # type: ignore[no-untyped-call] # of torch
        optimizer.step()
    assert total().item() < 0.8 * before
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.data
@pytest.mark.parametrize(("file", "outputs"), [("c16", 1), ("tcga", 2)])
def test_released_aggregators_load_and_attend(data_dir: Path, file: str, outputs: int) -> None:
    head = load_released_dsmil(data_dir / "mil" / f"dsmil_{file}_aggregator.pth")
    bag = make_bag(50, 512).abs()
    weights = {
        name.removeprefix("network."): value.double().numpy()
        for name, value in head.state_dict().items()
    }
    logits, attention, _ = naive_dsmil(weights, bag.double().numpy())
    with torch.inference_mode():
        scores = head.score(bag)
    assert head.outputs == outputs
    np.testing.assert_allclose(scores.attention.sum(dim=0), np.ones(outputs), atol=1e-5)
    np.testing.assert_allclose(scores.attention, attention, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(scores.logits, logits, rtol=1e-3, atol=1e-4)
    assert head.classification_loss(scores.logits, 1).isfinite()


@pytest.mark.data
def test_initial_weights_of_the_release_are_refused(data_dir: Path) -> None:
    with pytest.raises(TrainingError, match="hold only a part"):
        load_released_dsmil(data_dir / "mil" / "dsmil_init.pth")


def test_a_file_with_code_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("this would have run",)

    torch.save({"i_classifier.fc.0.weight": Code()}, tmp_path / "code.pth")
    with pytest.raises(TrainingError, match="not a file of tensors"):
        load_released_dsmil(tmp_path / "code.pth")
