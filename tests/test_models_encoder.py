"""Residual encoders and the ImageNet weights they start from."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from wsi_models.parts.backbone import SmallConfig, build_encoder
from wsi_models.parts.encoder import residual_network
from wsi_models.parts.imagenet import (
    RESNET18_SHA256,
    WeightsError,
    load_imagenet,
    load_rgb_weights,
)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def torchvision_state() -> dict[str, Tensor]:
    """A ResNet-18 of three channels under torchvision's names, with its classification layer."""
    torch.manual_seed(0)
    state = residual_network(3).state_dict()
    return state | {"fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def save(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_default_encoder_is_resnet18_with_one_input_channel() -> None:
    encoder = residual_network(1)
    conv = encoder.get_submodule("conv1")

    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.shape == (64, 1, 7, 7)
    assert (conv.stride, conv.padding, conv.bias) == ((2, 2), (3, 3), None)
    # 11,176,512 in torchvision's ResNet-18 without its last layer, less two input channels
    assert sum(p.numel() for p in encoder.parameters()) == 11_176_512 - 2 * 64 * 49


def test_encoder_has_torchvision_names(torchvision_state: dict[str, Tensor]) -> None:
    names = set(torchvision_state)

    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.0.weight"} <= names
    assert {"layer4.1.bn2.bias", "layer4.1.conv2.weight"} <= names
    assert "layer2.0.downsample.0.bias" not in names
    assert not any(name.startswith("layer1.0.downsample") for name in names)


def test_encoder_gives_non_negative_features() -> None:
    torch.manual_seed(0)
    features = residual_network(1, layers=(1, 1, 1, 1), block_inplanes=(4, 4, 8, 8))(
        torch.randn(3, 1, 64, 96)
    )

    assert features.shape == (3, 8)
    assert (features >= 0).all()
    assert (features > 0).any()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_grey_image_gives_what_it_gives_as_rgb(
    torchvision_state: dict[str, Tensor], tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(torchvision_state, path)
    else:
        save_file(torchvision_state, path)
    rgb_network = residual_network(3)
    rgb_network.load_state_dict({k: v for k, v in torchvision_state.items() if k[:2] != "fc"})
    encoder = residual_network(1)

    load_imagenet(encoder, path, sha256=sha256(path))

    grey = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = rgb_network.eval()(grey.expand(2, 3, 64, 64))
    torch.testing.assert_close(encoder.eval()(grey), expected, rtol=1e-4, atol=1e-5)
    kernels = encoder.get_parameter("conv1.weight")
    by_hand = sum(torchvision_state["conv1.weight"][:, c] for c in range(3))
    torch.testing.assert_close(kernels[:, 0], by_hand)


def test_old_files_without_batch_counts_load(torchvision_state: dict[str, Tensor]) -> None:
    old = {k: v for k, v in torchvision_state.items() if "num_batches" not in k}

    encoder = residual_network(1)
    load_rgb_weights(encoder, old, origin="old")

    torch.testing.assert_close(
        encoder.get_parameter("layer4.1.conv2.weight"), old["layer4.1.conv2.weight"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"lacks 1 tensors.*layer1\.0\.conv1\.weight"),
        ({"layer9.weight": torch.zeros(1)}, r"has unknown 1 tensors.*layer9\.weight"),
        ({"bn1.weight": torch.zeros(3)}, r"reshapes 1 tensors.*bn1\.weight"),
        ({"conv1.weight": None}, r"conv1\.weight must have shape \(C, 3, k, k\), got none"),
        ({"conv1.weight": torch.zeros(64, 1, 7, 7)}, r"got \(64, 1, 7, 7\)"),
    ],
)
def test_weights_of_another_network_are_refused(
    torchvision_state: dict[str, Tensor], change: dict[str, Tensor | None], message: str
) -> None:
    changed = {k: v for k, v in (torchvision_state | change).items() if v is not None}
    encoder = residual_network(1)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}

    with pytest.raises(WeightsError, match=message):
        load_rgb_weights(encoder, changed, origin="weights.pth")

    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_smaller_network_is_refused(torchvision_state: dict[str, Tensor]) -> None:
    small = residual_network(1, layers=(1, 1, 1, 1), block_inplanes=(4, 4, 8, 8))

    with pytest.raises(WeightsError, match="same residual network"):
        load_rgb_weights(small, torchvision_state, origin="weights.pth")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"conv1.weight": Payload(mark)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(mark), protocol=2))

    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="cannot be read as weights"):
            load_imagenet(residual_network(1), tmp_path / name)

    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["absent.pth", "absent.safetensors", "text.pth", "text.safetensors"]
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("this is no file of weights, whatever its name says")

    with pytest.raises(WeightsError, match=name):
        load_imagenet(residual_network(1), tmp_path / name)


def test_checkpoint_instead_of_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": {}}, tmp_path / "checkpoint.pth")

    with pytest.raises(WeightsError, match=r"model\.state_dict\(\)"):
        load_imagenet(residual_network(1), tmp_path / "checkpoint.pth")


def test_local_file_with_another_checksum_is_refused(
    torchvision_state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = save(tmp_path / "weights.pth", torchvision_state)

    with pytest.raises(WeightsError, match=f"expected {RESNET18_SHA256}"):
        load_imagenet(residual_network(1), path, sha256=RESNET18_SHA256)


def test_url_is_fetched_once_and_checked(
    torchvision_state: dict[str, Tensor], tmp_path: Path, server: str
) -> None:
    path = save(tmp_path / "served" / "weights.pth", torchvision_state)
    digest, cache = sha256(path), tmp_path / "cache"
    encoder = residual_network(1)

    load_imagenet(encoder, f"{server}/weights.pth", sha256=digest.upper(), cache_dir=cache)
    path.unlink()
    load_imagenet(residual_network(1), f"{server}/weights.pth", sha256=digest, cache_dir=cache)

    assert [p.name for p in cache.iterdir()] == [f"{digest}.pth"]
    torch.testing.assert_close(
        encoder.get_parameter("layer1.0.conv1.weight"), torchvision_state["layer1.0.conv1.weight"]
    )


def test_cached_file_that_was_changed_is_refused(
    torchvision_state: dict[str, Tensor], tmp_path: Path, server: str
) -> None:
    path = save(tmp_path / "served" / "weights.pth", torchvision_state)
    cached = tmp_path / f"{sha256(path)}.pth"
    cached.write_bytes(b"changed")

    with pytest.raises(WeightsError, match="delete it and fetch it again"):
        load_imagenet(
            residual_network(1), f"{server}/weights.pth", sha256=sha256(path), cache_dir=tmp_path
        )


def test_url_with_wrong_content_leaves_nothing_behind(tmp_path: Path, server: str) -> None:
    (tmp_path / "served" / "weights.pth").write_bytes(b"something else")
    cache = tmp_path / "cache"

    with pytest.raises(WeightsError, match="is not the file expected"):
        load_imagenet(
            residual_network(1), f"{server}/weights.pth", sha256="0" * 64, cache_dir=cache
        )

    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("digest", "message"),
    [
        (None, "has no checksum"),
        ("f37072fd", "64 hexadecimal digits"),
        ("0" * 64, "cannot be fetched"),
    ],
)
def test_url_that_cannot_be_trusted_or_reached_is_refused(
    tmp_path: Path, server: str, digest: str | None, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_imagenet(
            residual_network(1), f"{server}/absent.pth", sha256=digest, cache_dir=tmp_path / "cache"
        )


@pytest.mark.parametrize(("width", "last"), [(8, False), (12, False), (16, True), (24, True)])
def test_narrow_encoders_keep_their_channels_first(width: int, last: bool) -> None:
    """With the channels last, oneDNN overruns memory in their backward pass."""
    planes = (width, 2 * width, 4 * width, 8 * width)
    encoder = build_encoder(SmallConfig(planes=planes), 3, 64).module
    kernel = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d)).weight
    assert kernel.is_contiguous(memory_format=torch.channels_last) is last


@pytest.mark.slow
def test_a_narrow_encoder_trains_on_two_threads() -> None:
    """An odd batch is what oneDNN could overrun memory at, so in a process of its own."""
    script = """
import torch
from wsi_models.parts.backbone import SmallConfig, build_encoder
torch.set_num_threads(2)
encoder = build_encoder(SmallConfig(), 1, 96).module
for _ in range(12):
    encoder(torch.randn(33, 1, 96, 96)).square().sum().backward()
"""
    settings = {
        **os.environ,
        "OMP_NUM_THREADS": "2",
        "MALLOC_CHECK_": "3",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=settings, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
