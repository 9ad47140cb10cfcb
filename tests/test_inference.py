"""The engine of inference: devices, batch sizes, running out of memory, folding, unmixing."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from wsi_models.networks.description import RgbClassifierConfig, StainPairConfig, build_network
from wsi_models.parts.backbone import SmallConfig
from wsi_models.parts.patch_network import Classifier

from tests.stores import make_stain
from wsi_pipeline.config import Precision, PredictConfig
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.inference import (
    Feed,
    Outputs,
    choose_devices,
    he_feed,
    run_network,
    unmixing_feed,
)
from wsi_pipeline.inference.batches import SMALLEST_BATCH, automatic_batch_size, find_batch_size
from wsi_pipeline.inference.devices import arithmetic
from wsi_pipeline.inference.folding import fold_batch_norms
from wsi_pipeline.inference.stages import Normalise, Unmix
from wsi_pipeline.stain import encode_he, fixed_stain_matrix
from wsi_pipeline.types import ModelSpec, NoProgress, StainMatrix

SPEC = ModelSpec(
    name="tiny",
    class_names=("a", "b"),
    class_colors=("#ff0000", "#00ff00"),
    mpp=0.5,
    patch_px=16,
    mean=(0.0, 0.0),
    std=(1.0, 1.0),
)
CPU = torch.device("cpu")
TWO = Outputs(model="tiny", count=2)


class Means(nn.Module):
    """Gives the means of both channels as logits and notes the sizes of its batches."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most = most
        self.batches: list[int] = []

    def forward(self, he: Tensor) -> Tensor:
        if len(he) > self.most:
            raise torch.OutOfMemoryError(f"no room for {len(he)} patches\nin this device")
        self.batches.append(len(he))
        return he.mean(dim=(2, 3))


class Steps(NoProgress):
    """Counts what is done."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, steps: int = 1) -> None:
        self.done += steps


def patches(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 2, 16, 16), dtype=np.uint8)


def means(he: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(he.mean(axis=(2, 3)) / 255)


def run(
    model: nn.Module, he: NDArray[np.uint8], devices: int = 1, batch_size: int = 8
) -> NDArray[np.float32]:
    feed = he_feed(len(he), lambda start, stop: he[start:stop], SPEC)
    config = PredictConfig(batch_size=batch_size)
    logits = run_network(model, feed, TWO, (CPU,) * devices, config, NoProgress())
    return np.asarray(logits.numpy())


@settings(deadline=None, max_examples=25)
@given(n=st.integers(0, 200), devices=st.integers(1, 4), batch_size=st.integers(1, 40))
def test_devices_share_the_patches_and_keep_their_order(
    n: int, devices: int, batch_size: int
) -> None:
    he = patches(n)

    logits = run(Means(), he, devices, batch_size)

    np.testing.assert_allclose(logits, means(he).reshape(-1, 2), atol=1e-6)


class Taking(nn.Module):
    """Waits in its first batch until as many copies of it wait as there are devices."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.barrier = barrier
        self.waited = False

    def __deepcopy__(self, memo: object) -> Taking:
        return Taking(self.barrier)

    def forward(self, he: Tensor) -> Tensor:
        if not self.waited:
            self.waited = True
            self.barrier.wait(timeout=30)
        return he.mean(dim=(2, 3))


def test_every_device_computes_at_the_same_time_as_the_others() -> None:
    he = patches(64 * 9)

    logits = run(Taking(threading.Barrier(3)), he, devices=3, batch_size=64)

    np.testing.assert_allclose(logits, means(he), atol=1e-6)


class Failing(Means):
    """Fails at once."""

    def forward(self, he: Tensor) -> Tensor:
        raise RuntimeError("the network is broken")


@pytest.mark.parametrize("devices", [1, 3])
def test_error_of_a_device_ends_the_run_and_leaves_no_threads(devices: int) -> None:
    with pytest.raises(RuntimeError, match="the network is broken"):
        run(Failing(), patches(1000), devices)

    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("read-ahead", "predict"))]


@pytest.mark.parametrize(
    ("most", "batches"), [(8, [8, 8, 4]), (7, [4] * 5), (3, [2] * 10), (1, [1] * 20)]
)
def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost(
    most: int, batches: list[int]
) -> None:
    model, he, steps = Means(most), patches(20), Steps()
    feed = he_feed(20, lambda start, stop: he[start:stop], SPEC)

    logits = run_network(model, feed, TWO, (CPU,), PredictConfig(batch_size=8), steps)

    assert model.batches == batches
    assert steps.done == 20
    np.testing.assert_allclose(logits.numpy(), means(he), atol=1e-6)


def test_device_too_small_for_one_patch_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cpu has no memory for a single patch of 16 px: no room"):
        run(Means(most=0), patches(3))


@given(room=st.integers(0, 2000), limit=st.integers(1, 1000))
def test_batch_is_doubled_as_long_as_it_fits(room: int, limit: int) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= room

    found = find_batch_size(fits, limit)

    assert found <= limit
    assert found <= max(room, SMALLEST_BATCH)
    assert 2 * found > room or found == limit or found * 2 > limit > room
    assert len(asked) <= 8


@pytest.mark.parametrize(("count", "expected"), [(1000, SMALLEST_BATCH), (3, 3)])
def test_processor_has_small_batches(count: int, expected: int) -> None:
    model = Means()

    size = automatic_batch_size(model, torch.zeros(2, 2, 16, 16), count)

    assert size == expected
    assert model.batches == []


@pytest.mark.parametrize("name", ["nonsense", "cpu:x", "cuda:99", "hpu", "vulkan", "meta"])
def test_device_that_is_not_there_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}' cannot be used.*--device auto"):
        choose_devices(name)


def test_auto_is_every_gpu_if_there_is_one() -> None:
    devices = choose_devices("auto")

    if torch.cuda.is_available():
        assert devices == choose_devices("cuda")
        assert len(devices) == torch.cuda.device_count()
    else:
        assert devices == (CPU,)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16])
def test_precision_asked_for_is_used_whatever_was_published(precision: Precision) -> None:
    assert arithmetic(CPU, precision) is precision
    assert arithmetic(CPU, precision, "float16") is precision


def test_published_precision_is_for_gpus() -> None:
    gpu = torch.device("cuda")
    for published in (Precision.FLOAT16, Precision.BFLOAT16, Precision.FLOAT32):
        assert arithmetic(gpu, Precision.AUTO, published) is published
        assert arithmetic(CPU, Precision.AUTO, published) is Precision.FLOAT32


@pytest.mark.parametrize("precision", [Precision.FLOAT16, Precision.BFLOAT16])
def test_half_precision_rounds_products_and_keeps_the_rest(precision: Precision) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(2 * 16 * 16, 2))
    he = patches(9)
    feed = he_feed(len(he), lambda start, stop: he[start:stop], SPEC)

    def given(precision: Precision) -> Tensor:
        config = PredictConfig(batch_size=4, precision=precision)
        return run_network(network, feed, TWO, (CPU,), config, NoProgress())

    exact, rounded = given(Precision.FLOAT32), given(precision)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, atol=2e-2, rtol=2e-2)


@pytest.fixture(scope="module")
def stain_network() -> nn.Module:
    """A residual network whose normalisations have seen data."""
    torch.manual_seed(0)
    encoder = SmallConfig(planes=(8, 8, 16, 16))
    network = build_network(StainPairConfig(encoder=encoder), 3, 32)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(3 + 2 * torch.randn(8, 2, 32, 32))
    nn.init.normal_(network.head.weight, std=3.0)
    return Classifier(network).eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@torch.no_grad()
def test_folding_changes_nothing_but_the_number_of_passes(stain_network: nn.Module) -> None:
    # in double precision nothing but folding can tell the two apart
    network = copy.deepcopy(stain_network).double()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    folded = fold_batch_norms(network, torch.randn(2, 2, 32, 32).double())

    assert norms(network) > 10
    assert norms(folded) == 0
    other = 3 * torch.randn(5, 2, 32, 32).double()
    torch.testing.assert_close(folded(other), network(other), atol=1e-10, rtol=1e-10)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_network_without_normalisation_is_not_run() -> None:
    model = Means()

    assert fold_batch_norms(model, torch.zeros(2, 2, 16, 16)) is model
    assert model.batches == []


class TakesTwice(nn.Module):
    """Needs the output of a convolution also without its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        nn.init.normal_(self.norm.bias)

    def forward(self, patches: Tensor) -> Tensor:
        out = self.conv(patches)
        logits: Tensor = (out + self.norm(out)).mean(dim=(2, 3))
        return logits


class Repeats(TakesTwice):
    """Runs its convolution twice, once before the normalisation."""

    def forward(self, patches: Tensor) -> Tensor:
        logits: Tensor = (self.norm(self.conv(patches)) + self.conv(patches)).mean(dim=(2, 3))
        return logits


@pytest.mark.parametrize("kind", [TakesTwice, Repeats])
@torch.no_grad()
def test_normalisation_that_cannot_be_folded_is_left_alone(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = kind().eval()

    assert fold_batch_norms(network, torch.randn(2, 2, 16, 16)) is network


@torch.no_grad()
def test_networks_of_colours_are_folded_too() -> None:
    network = build_network(RgbClassifierConfig(encoder=SmallConfig()), 2, 64)
    classifier = Classifier(network).eval()

    assert norms(fold_batch_norms(classifier, torch.randn(2, 3, 64, 64))) == 0


@pytest.mark.parametrize("colours_last", [True, False])
@pytest.mark.parametrize("channels", [2, 3])
def test_normalising_bytes_in_one_pass_gives_the_bits_of_the_formula(
    channels: int, colours_last: bool
) -> None:
    mean, std = (0.1, 0.37, 0.9)[:channels], (0.11, 0.5, 1.3)[:channels]
    values = torch.randint(0, 256, (3, channels, 20, 24), dtype=torch.uint8)
    if colours_last:
        values = values.contiguous(memory_format=torch.channels_last)

    given = Normalise(replace(SPEC, mean=mean, std=std))(values[:, :, 2:18, 3:19])

    scaled = values[:, :, 2:18, 3:19].float() - 255 * torch.tensor(mean).view(1, -1, 1, 1)
    assert torch.equal(given, scaled / (255 * torch.tensor(std).view(1, -1, 1, 1)))
    assert given.is_contiguous(memory_format=torch.channels_last)


def test_channels_without_a_mean_are_refused() -> None:
    with pytest.raises(ValueError, match="3 channels cannot be normalised by 2 means"):
        Normalise(SPEC)(torch.zeros((1, 3, 8, 8), dtype=torch.uint8))


STAINS = [
    make_stain().matrix,
    fixed_stain_matrix(),
    replace(make_stain().matrix, background=np.array([240.0, 238.0, 245.0])),
]


@pytest.mark.parametrize("stains", STAINS)
def test_unmixing_on_the_device_gives_the_stored_bytes(stains: StainMatrix) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    expected = np.stack([encode_he(patch, stains) for patch in rgb])

    given = Unmix(stains)(torch.from_numpy(rgb).permute(0, 3, 1, 2))

    assert given.dtype == torch.uint8
    assert np.array_equal(given.numpy(), expected)


def test_unmixing_feed_gives_the_input_of_the_stored_patches() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    stains = make_stain().matrix
    he = np.stack([encode_he(patch, stains) for patch in rgb])
    config = PredictConfig(batch_size=4)

    def logits(feed: Feed) -> NDArray[np.float32]:
        return np.asarray(run_network(Means(), feed, TWO, (CPU,), config, NoProgress()).numpy())

    direct = logits(unmixing_feed(9, lambda start, stop: rgb[start:stop], SPEC, stains))
    stored = logits(he_feed(9, lambda start, stop: he[start:stop], SPEC))

    assert np.array_equal(direct, stored)
    assert direct.std() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_finds_its_batch_size(stain_network: nn.Module) -> None:
    spec = replace(SPEC, patch_px=32, class_names=("a", "b", "c"), class_colors=("#ff0000",) * 3)
    he = np.random.default_rng(3).integers(0, 256, (700, 2, 32, 32), dtype=np.uint8)
    feed = he_feed(700, lambda start, stop: he[start:stop], spec)
    config = PredictConfig(device="cuda", precision=Precision.FLOAT32)
    three = Outputs(model="tiny", count=3)

    on_gpu = run_network(stain_network, feed, three, choose_devices("cuda"), config, NoProgress())
    stain_network.cpu()
    on_cpu = run_network(stain_network, feed, three, (CPU,), config, NoProgress())

    torch.testing.assert_close(on_gpu, on_cpu, atol=2e-2, rtol=2e-2)
