"""Prediction: the same answer however the patches are cut up, and refusals of what does not fit."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from wsi_models.networks.description import StainPairConfig, build_network
from wsi_models.parts.backbone import SmallConfig
from wsi_models.parts.patch_network import Classifier

from tests.stores import make_header, make_store
from wsi_pipeline.config import HeValues, Precision, PredictConfig, StoreConfig
from wsi_pipeline.errors import ModelMismatchError, ModelOutputError
from wsi_pipeline.predict.patches import predict_store
from wsi_pipeline.predict.trained import TrainedModel
from wsi_pipeline.types import STAIN_CONVENTION, ModelSpec

SPEC = ModelSpec(
    name="tiny",
    class_names=("a", "b", "c"),
    class_colors=("#ff0000", "#00ff00", "#0000ff"),
    mpp=0.5,
    patch_px=64,
    mean=(0.4, 0.3),
    std=(0.25, 0.5),
)
CPU = PredictConfig(device="cpu", batch_size=8)


@dataclass
class Source:
    """Patches in memory with places on a made-up slide."""

    he: NDArray[np.uint8]
    has_rgb: bool = False
    mpp: float = 0.5
    stain_convention: str = STAIN_CONVENTION
    extent: float = 64.0
    pitch: float = 64.0
    grid_shape: tuple[int, int] = (5, 9)
    xy: NDArray[np.int64] = field(init=False)
    rc: NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        cells = np.arange(len(self.he))
        self.rc = np.stack([cells // 9, cells % 9], axis=1).astype(np.int32)
        self.xy = self.rc[:, ::-1].astype(np.int64) * 64

    @property
    def patch_px(self) -> int:
        return int(self.he.shape[-1])

    def __len__(self) -> int:
        return len(self.he)

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8]:
        return self.he[start:stop]

    def read_rgb(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Give H as red, E as green and their mean as blue."""
        red, green = self.he[start:stop].transpose(1, 0, 2, 3)
        return np.stack([red, green, red // 2 + green // 2], axis=-1)


class Means(nn.Module):
    """Gives the mean of H, the mean of E and nothing as logits; notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.training_when_called = False

    def forward(self, he: Tensor) -> Tensor:
        assert he.dtype == torch.float32
        self.batches.append(len(he))
        self.training_when_called |= self.training
        return torch.cat([he.mean(dim=(2, 3)), he.new_zeros(len(he), 1)], dim=1)


def make_source(n: int, side: int = 64, **changes: object) -> Source:
    he = np.random.default_rng(4).integers(0, 256, (n, 2, side, side), dtype=np.uint8)
    return replace(Source(he), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network whose probabilities differ from patch to patch."""
    torch.manual_seed(0)
    encoder = SmallConfig(planes=(8, 8, 16, 16))
    net = build_network(StainPairConfig(encoder=encoder), 3, 64)
    net.train()(torch.randn(16, 2, 64, 64))
    nn.init.normal_(net.head.weight, std=3.0)
    return Classifier(net)


@pytest.fixture(scope="module")
def reference(network: nn.Module) -> NDArray[np.float32]:
    """The answer patch by patch, straight from the formulas."""
    network.eval()
    rows = []
    with torch.inference_mode():
        for patch in make_source(37).he:
            x = torch.from_numpy(patch).double() / 255
            x = (x - torch.tensor(SPEC.mean).view(2, 1, 1)) / torch.tensor(SPEC.std).view(2, 1, 1)
            rows.append(network(x.float()[None])[0].double().softmax(0))
    return torch.stack(rows).float().numpy()


def test_reference_is_worth_comparing_with(reference: NDArray[np.float32]) -> None:
    assert reference.std(axis=0).max() > 0.01


@pytest.mark.parametrize("batch_size", [1, 2, 7, 16, 37, 64])
def test_batch_size_does_not_change_the_answer(
    network: nn.Module, reference: NDArray[np.float32], batch_size: int
) -> None:
    config = PredictConfig(device="cpu", batch_size=batch_size, precision=Precision.FLOAT32)

    predictions = predict_store(make_source(37), network, SPEC, config)

    np.testing.assert_allclose(predictions.prob, reference, atol=1e-5, rtol=0)


def test_shards_do_not_change_a_single_bit(network: nn.Module, tmp_path: Path) -> None:
    answers = []
    for shard, chunk in ((4, 2), (8, 8), (80, 1)):
        config = StoreConfig(chunk_patches=chunk, shard_patches=shard)
        store = make_store(tmp_path / f"{shard}.zarr", make_header(75), config)
        spec = replace(SPEC, patch_px=8)
        answers.append(predict_store(store, network, spec, CPU).prob)

    assert all(np.array_equal(answers[0], other) for other in answers[1:])


def test_float32_is_the_network_as_it_was_trained(
    network: nn.Module, reference: NDArray[np.float32]
) -> None:
    source = make_source(37)
    config = PredictConfig(device="cpu", batch_size=8, precision=Precision.FLOAT32)

    prob = predict_store(source, network, SPEC, config).prob

    patches = torch.from_numpy(source.he).float()
    statistics = 255 * torch.tensor([SPEC.mean, SPEC.std]).view(2, 1, 2, 1, 1)
    with torch.inference_mode():
        batches = [
            network(((b - statistics[0]) / statistics[1]).to(memory_format=torch.channels_last))
            for b in torch.split(patches, 8)
        ]
    assert np.array_equal(prob, torch.cat(batches).softmax(1).numpy())
    np.testing.assert_allclose(prob, reference, atol=1e-5, rtol=0)


def test_bfloat16_stays_within_its_tolerance(
    network: nn.Module, reference: NDArray[np.float32]
) -> None:
    config = PredictConfig(device="cpu", batch_size=8, precision=Precision.BFLOAT16)

    prob = predict_store(make_source(37), network, SPEC, config).prob

    assert np.abs(prob - reference).max() < 0.05
    assert np.abs(prob - reference).max() > 1e-5  # it really was another arithmetic
    assert prob.dtype == np.float32
    np.testing.assert_allclose(prob.sum(axis=1), 1, atol=1e-6)


def test_places_and_classes_are_those_of_source_and_model(network: nn.Module) -> None:
    source = make_source(37)

    predictions = predict_store(source, network, SPEC, CPU)

    assert np.array_equal(predictions.xy, source.xy)
    assert np.array_equal(predictions.rc, source.rc)
    assert (predictions.shape, predictions.extent, predictions.pitch) == ((5, 9), 64.0, 64.0)
    assert predictions.class_names == SPEC.class_names
    assert predictions.class_colors == SPEC.class_colors
    assert predictions.prob.dtype == np.float32
    np.testing.assert_allclose(predictions.prob.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "batches"), [(0, []), (1, [1]), (7, [7]), (8, [8]), (9, [8, 1]), (17, [8, 8, 1])]
)
def test_any_number_of_patches(n: int, batches: list[int]) -> None:
    model = Means()

    predictions = predict_store(make_source(n), model, SPEC, CPU)

    assert model.batches == batches
    assert predictions.prob.shape == (n, 3)
    assert predictions.xy.shape == predictions.rc.shape == (n, 2)


def test_input_is_scaled_and_normalised_per_channel() -> None:
    he = np.empty((1, 2, 64, 64), dtype=np.uint8)
    he[:, 0], he[:, 1] = 51, 204  # 0.2 and 0.8

    prob = predict_store(Source(he), Means(), SPEC, CPU).prob[0]

    logits = np.array([(0.2 - 0.4) / 0.25, (0.8 - 0.3) / 0.5, 0.0])
    np.testing.assert_allclose(prob, np.exp(logits) / np.exp(logits).sum(), atol=1e-6)


def test_larger_patches_are_cropped_at_their_centre() -> None:
    he = np.full((3, 2, 80, 80), 255, dtype=np.uint8)
    he[:, :, 8:72, 8:72] = 0

    prob = predict_store(Source(he), Means(), SPEC, CPU).prob

    expected = predict_store(Source(np.zeros((3, 2, 64, 64), np.uint8)), Means(), SPEC, CPU).prob
    assert np.array_equal(prob, expected)


def test_half_precision_store_gives_nearly_the_same_as_bytes(tmp_path: Path) -> None:
    spec = replace(SPEC, patch_px=8)
    answers = []
    for values in HeValues:
        config = StoreConfig(he_values=values, chunk_patches=2, shard_patches=8)
        store = make_store(tmp_path / f"{values}.zarr", make_header(21), config)
        answers.append(predict_store(store, Means(), spec, CPU))

    assert answers[0].prob.shape == (21, 3)
    # bytes are rounded down here by up to 1/255, which the least std of 0.25 makes 0.016
    np.testing.assert_allclose(answers[0].prob, answers[1].prob, atol=0.01)
    assert np.array_equal(answers[0].rc, make_header(21).grid.rc)


def test_store_without_patches_gives_no_predictions(tmp_path: Path) -> None:
    store = make_store(tmp_path / "empty.zarr", make_header(0))

    predictions = predict_store(store, Means(), replace(SPEC, patch_px=8), CPU)

    assert len(predictions) == 0
    assert predictions.shape == (8, 10)


@pytest.mark.parametrize("n", [0, 3])
@pytest.mark.parametrize(
    ("changes", "side", "message"),
    [
        ({"mpp": 0.53}, 64, r"0\.53 um/px.*expects 0\.5 .*--mpp 0\.5"),
        ({"mpp": 0.25}, 64, r"0\.25 um/px"),
        ({}, 63, r"63 px.*at least 64.*--patch-size 64"),
        ({"stain_convention": "other"}, 64, r"'other'.*expects 'macenko-log10-he-v1'"),
    ],
)
def test_patches_of_another_kind_are_refused(
    n: int, changes: dict[str, object], side: int, message: str
) -> None:
    with pytest.raises(ModelMismatchError, match=message):
        predict_store(make_source(n, side, **changes), Means(), SPEC, CPU)


@pytest.mark.parametrize("mpp", [0.476, 0.4952, 0.5, 0.5249])
def test_resolution_within_five_percent_is_accepted(mpp: float) -> None:
    assert len(predict_store(make_source(2, mpp=mpp), Means(), SPEC, CPU)) == 2


def test_model_with_another_number_of_classes_is_refused() -> None:
    spec = replace(SPEC, class_names=("a", "b"), class_colors=("#ff0000", "#00ff00"))

    with pytest.raises(ModelMismatchError, match=r"shape \(8, 3\).*2 classes, expected \(8, 2\)"):
        predict_store(make_source(9), Means(), spec, CPU)


class Wrong(nn.Module):
    """Gives a value that is no number for the patches whose first pixel is 255."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, he: Tensor) -> Tensor:
        logits = he.new_zeros(len(he), 3)
        logits[he[:, 0, 0, 0] > (0.99 - 0.4) / 0.25, 1] = self.value
        return logits


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_an_error(value: float) -> None:
    source = Source(np.zeros((20, 2, 64, 64), dtype=np.uint8))
    source.he[[13, 17], 0, 0, 0] = 255

    with pytest.raises(ModelOutputError, match="for 2 of 20 patches, first for patch 13"):
        predict_store(source, Wrong(value), SPEC, CPU)


def test_training_flags_are_put_back() -> None:
    means, frozen = Means(), nn.BatchNorm1d(3)
    model = nn.Sequential(means, nn.Sequential(nn.Dropout(0.9), frozen)).train()
    frozen.eval()

    predict_store(make_source(9), model, SPEC, CPU)

    assert not means.training_when_called
    assert [m.training for m in model.modules()] == [True, True, True, True, False]


def test_training_flags_are_put_back_after_an_error() -> None:
    model = Wrong(float("nan")).train()
    spec = replace(SPEC, class_names=("a", "b"), class_colors=("#ff0000", "#00ff00"))

    with pytest.raises(ModelMismatchError):
        predict_store(make_source(9), model, spec, CPU)

    assert model.training


def test_no_gradients_are_kept(network: nn.Module) -> None:
    predict_store(make_source(3), network, SPEC, CPU)

    assert all(p.grad is None for p in network.parameters())


class DamagedSource(Source):
    """Cannot read on from its start."""

    def read_he(self, start: int, stop: int) -> NDArray[np.uint8]:
        if start:
            raise OSError(f"patches {start} to {stop} cannot be read")
        return super().read_he(start, stop)


def test_reading_errors_arrive_and_leave_no_threads() -> None:
    source = DamagedSource(make_source(100).he)

    with pytest.raises(OSError, match="patches 32 to 64 cannot be read"):
        predict_store(source, Means(), SPEC, CPU)

    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]


class Steps:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.total = -1
        self.done: list[int] = []

    def start(self, what: str, total: int) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.done.append(steps)


def test_progress_counts_patches() -> None:
    steps = Steps()

    predict_store(make_source(19), Means(), SPEC, CPU, steps)

    assert (steps.total, steps.done) == (19, [8, 8, 3])


def test_colours_are_normalised_per_channel_and_cropped() -> None:
    source = make_source(5, side=70, has_rgb=True)
    spec = replace(SPEC, input="rgb", mean=(0.4, 0.3, 0.2), std=(0.25, 0.5, 1.0))

    prob = predict_store(source, nn.Sequential(nn.AvgPool2d(64), nn.Flatten()), spec, CPU).prob

    rgb = source.read_rgb(0, 5)[:, 3:67, 3:67].astype(np.float64)
    logits = (rgb.mean(axis=(1, 2)) / 255 - spec.mean) / spec.std
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(prob, expected, atol=1e-6)


@pytest.mark.parametrize("n", [0, 3])
def test_model_of_colours_refuses_stains_alone(n: int) -> None:
    spec = replace(SPEC, input="rgb", mean=(0.4, 0.3, 0.2), std=(0.25, 0.5, 1.0))

    with pytest.raises(ModelMismatchError, match=r"tiny takes RGB patches.*--keep-rgb.*--no-store"):
        predict_store(make_source(n), Means(), spec, CPU)


def test_model_of_colours_does_not_care_for_the_stain_convention() -> None:
    spec = replace(SPEC, input="rgb", mean=(0.4, 0.3, 0.2), std=(0.25, 0.5, 1.0))
    source = make_source(3, has_rgb=True, stain_convention="other")
    model = nn.Sequential(nn.AvgPool2d(64), nn.Flatten())

    assert len(predict_store(source, model, spec, CPU)) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision.FLOAT32, 1e-2), (Precision.AUTO, 5e-2)]
)
def test_gpu_agrees_with_the_formulas(
    network: nn.Module, reference: NDArray[np.float32], precision: Precision, tolerance: float
) -> None:
    config = PredictConfig(device="cuda", batch_size=8, precision=precision)

    prob = predict_store(make_source(37), network, SPEC, config).prob

    network.cpu()
    np.testing.assert_allclose(prob, reference, atol=tolerance, rtol=0)


class Doubter(nn.Module):
    """Gives the logits of :class:`Means`, and the mean of H in units of 0.2 as a distance."""

    def forward(self, he: Tensor) -> Tensor:
        return torch.cat([Means()(he), he[:, :1].mean(dim=(2, 3)).abs() / 0.2], dim=1)


def test_a_distance_is_no_class() -> None:
    source = make_source(40)
    source.he[:10, 0] = 255  # far from the mean that the normalisation takes away
    plain = predict_store(source, Means(), SPEC, CPU)
    given = predict_store(source, Doubter(), replace(SPEC, gives_distance=True), CPU)
    np.testing.assert_array_equal(given.prob, plain.prob)
    assert plain.distance is None
    assert plain.unfamiliar_share is None
    assert given.distance is not None
    assert given.distance.shape == (40,)
    assert (given.distance[:10] > 1).all()
    assert given.unfamiliar_share == pytest.approx((given.distance > 1).mean())
    with pytest.raises(ModelMismatchError, match="patches and 3 classes"):
        predict_store(source, Doubter(), SPEC, CPU)


def test_a_slide_is_doubted_where_more_of_it_is_unfamiliar_than_usual() -> None:
    model = TrainedModel(
        module=Means(), spec=SPEC, fingerprint="", trained_on="made up", usual_share=0.05
    )
    assert model.doubt(0.05) is None
    assert model.doubt(0.15) is None
    assert model.doubt(None) is None
    said = model.doubt(0.6)
    assert said is not None
    assert said.startswith("60% of the tiles look unlike what model tiny was trained on (5% are")
    assert replace(model, usual_share=0.5).doubt(0.9) is None
    assert replace(model, usual_share=None).doubt(1.0) is None
