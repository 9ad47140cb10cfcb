"""Bundles: round trips, and everything that must be refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
from collections.abc import Callable
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from wsi_models.bundle import (
    BundleConfig,
    BundleError,
    available_bundles,
    bundle_path,
    load_bundle,
    save_bundle,
    schema_text,
)
from wsi_models.networks.class_m import ClassMNetwork
from wsi_models.networks.description import (
    RgbClassifierConfig,
    StainPairConfig,
    build_network,
)
from wsi_models.parts.backbone import (
    EfficientNetLite0Config,
    EncoderConfig,
    ResNet18Config,
    SmallConfig,
    ViTConfig,
)

from wsi_pipeline.types import STAIN_CONVENTION

VALUES: dict[str, Any] = {
    "name": "tiny",
    "method": "class-m",
    "network": {
        "kind": "stain-pair",
        "encoder": {"name": "small", "layers": [1, 1, 1, 1], "planes": [4, 4, 8, 8]},
    },
    "class_names": ["tumor", "stroma", "fat"],
    "class_colors": ["#8e2a8a", "#e0719c", "#f2c14e"],
    "mpp": 0.5,
    "patch_px": 64,
    "stain_convention": STAIN_CONVENTION,
    "mean": [0.1, 0.2],
    "std": [0.15, 0.25],
    "training": {"loss": "none", "data": "none", "seed": 3, "metrics": {"accuracy": 0.5}},
}


def make_config(**changes: object) -> BundleConfig:
    return BundleConfig.model_validate_json(json.dumps(VALUES | changes))


def make_network(config: BundleConfig, seed: int = 0) -> ClassMNetwork:
    torch.manual_seed(seed)
    assert isinstance(config.network, StainPairConfig)
    return build_network(config.network, len(config.class_names), config.patch_px)


def encoder(**changes: object) -> dict[str, Any]:
    """Return the description of the network with its encoder changed."""
    return {**VALUES["network"], "encoder": VALUES["network"]["encoder"] | changes}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = make_config()
    save_bundle(tmp_path / "tiny", config, make_network(config), "# tiny\n")
    return tmp_path / "tiny"


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    renew_sums(folder)


def renew_sums(folder: Path) -> None:
    """Do what the error tells one who changed a bundle on purpose to do."""
    names = ("config.json", "model.safetensors")
    lines = [f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    change(weights)
    save_file(weights, folder / "model.safetensors")
    renew_sums(folder)


def test_what_is_saved_is_loaded_exactly(tmp_path: Path) -> None:
    config = make_config()
    network = make_network(config).train()
    network(torch.rand(4, 2, 64, 64))  # so that running statistics are not those of a new network

    save_bundle(tmp_path / "a" / "tiny", config, network, "# tiny\n")
    bundle = load_bundle(tmp_path / "a" / "tiny")

    assert bundle.config == config
    assert bundle.network.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(bundle.network.state_dict()[name], tensor), name
    he = torch.rand(2, 2, 64, 64)
    assert torch.equal(bundle.classifier()(he), network.eval()(he).logits)
    assert (tmp_path / "a" / "tiny" / "README.md").read_text() == "# tiny\n"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["tiny"]


def test_loaded_network_can_be_trained_on(saved: Path) -> None:
    network = load_bundle(saved).network

    assert isinstance(network, ClassMNetwork)
    assert not network.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in network.parameters())
    network.train()(torch.rand(2, 2, 64, 64)).logits.sum().backward()
    assert network.head.weight.grad is not None


@pytest.mark.parametrize("kind", ["stain-pair", "rgb", "rgb-embedding"])
@pytest.mark.parametrize(
    "shape",
    [
        SmallConfig(planes=(4, 4, 8, 8)),
        ResNet18Config(weights=None),
        EfficientNetLite0Config(weights=None),
        ViTConfig(token_px=16, hidden=24, layers=1, heads=2),
    ],
)
def test_every_network_comes_back_as_it_was(
    tmp_path: Path, kind: str, shape: EncoderConfig
) -> None:
    channels = 2 if kind == "stain-pair" else 3
    network = {"kind": kind, "encoder": shape.model_dump(mode="json")}
    config = make_config(network=network, mean=[0.5] * channels, std=[0.2] * channels)
    original = build_network(config.network, 3, config.patch_px).eval()
    save_bundle(tmp_path / "tiny", config, original, "# tiny\n")

    bundle = load_bundle(tmp_path / "tiny")

    patches = torch.rand(2, channels, 64, 64)
    with torch.no_grad():
        assert torch.equal(bundle.classifier()(patches), original.classify(patches))
        assert torch.equal(bundle.extractor()(patches), original.features(patches))
    assert bundle.config.input == ("he" if channels == 2 else "rgb")


def test_starting_weights_that_a_bundle_names_are_not_sought(tmp_path: Path) -> None:
    named = EfficientNetLite0Config(weights=None)
    config = make_config(
        network=RgbClassifierConfig(encoder=named).model_dump(mode="json"),
        mean=[0.5] * 3,
        std=[0.2] * 3,
    )
    save_bundle(tmp_path / "tiny", config, build_network(config.network, 3, 64), "# tiny\n")
    file = str(tmp_path / "absent.pth")
    edit_config(tmp_path / "tiny", lambda values: values["network"]["encoder"].update(weights=file))

    assert load_bundle(tmp_path / "tiny").config.input == "rgb"

    edit_config(
        tmp_path / "tiny",
        lambda values: values.update(
            network={"kind": "rgb", "encoder": {"name": "resnet18", "weights": file}}
        ),
    )
    with pytest.raises(BundleError, match="lacks tensors"):  # and not: the file is absent
        load_bundle(tmp_path / "tiny")


def test_classifier_is_ready_to_predict(saved: Path) -> None:
    classifier = load_bundle(saved).classifier()

    assert not any(module.training for module in classifier.modules())
    assert classifier(torch.rand(1, 2, 64, 64)).shape == (1, 3)


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    load_bundle(saved)

    assert torch.equal(torch.rand(3), expected)


def test_fingerprint_is_that_of_the_weights_file(saved: Path) -> None:
    expected = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()

    assert load_bundle(saved).fingerprint == expected


def test_equal_networks_give_equal_files(saved: Path, tmp_path: Path) -> None:
    config = make_config()
    save_bundle(tmp_path / "again", config, make_network(config), "# again\n")

    for name in ("config.json", "model.safetensors"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_existing_folder_is_replaced_only_on_request(saved: Path) -> None:
    config = make_config(mpp=0.25)
    with pytest.raises(BundleError, match="overwrite=True"):
        save_bundle(saved, config, make_network(config), "# other\n")
    assert load_bundle(saved).config.mpp == 0.5

    save_bundle(saved, config, make_network(config), "# other\n", overwrite=True)

    assert load_bundle(saved).config.mpp == 0.25
    assert [p.name for p in saved.parent.iterdir()] == ["tiny"]


def test_failing_to_save_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bytes:
        raise OSError("no space left")

    monkeypatch.setattr(safetensors.torch, "save", fail)
    config = make_config()

    with pytest.raises(OSError, match="no space left"):
        save_bundle(tmp_path / "tiny", config, make_network(config), "# tiny\n")

    assert list(tmp_path.iterdir()) == []


def test_bundle_without_card_is_not_saved(tmp_path: Path) -> None:
    config = make_config()
    with pytest.raises(BundleError, match="has no card"):
        save_bundle(tmp_path / "tiny", config, make_network(config), " \n")


def test_diverged_network_is_not_saved(tmp_path: Path) -> None:
    config = make_config()
    network = make_network(config)
    torch.nn.init.constant_(network.head.bias, float("nan"))

    with pytest.raises(BundleError, match=r"head\.bias that are no numbers"):
        save_bundle(tmp_path / "tiny", config, network, "# tiny\n")


def test_network_of_another_configuration_is_not_saved(tmp_path: Path) -> None:
    other = make_config(network=encoder(layers=[1, 1, 1, 2]))

    with pytest.raises(BundleError, match=r"has unknown tensors: encoder_e\.layer4\.1"):
        save_bundle(tmp_path / "tiny", make_config(), make_network(other), "# tiny\n")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md"])
def test_incomplete_bundle_is_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()

    with pytest.raises(BundleError, match=f"has no {name}"):
        load_bundle(saved)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_pickle_under_the_name_of_safetensors_is_refused_and_not_run(
    saved: Path, tmp_path: Path, how: str
) -> None:
    path, mark = saved / "model.safetensors", tmp_path / "ran"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save({"head.bias": Payload(mark)}, path)
    renew_sums(saved)

    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(saved)

    assert not mark.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_no_changed_bit_is_loaded(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    draws = np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        content[draws.integers(len(content))] ^= 1 << int(draws.integers(8))
        (saved / name).write_bytes(content)
        with pytest.raises(BundleError, match=r"does not agree with SHA256SUMS: it is damaged"):
            load_bundle(saved)


def test_the_advice_of_the_refusal_is_right(saved: Path) -> None:
    (saved / "config.json").write_text((saved / "config.json").read_text() + "\n")
    with pytest.raises(BundleError) as refused:
        load_bundle(saved)

    _, command = str(refused.value).split("run in it: ")
    subprocess.run(command, shell=True, cwd=saved, check=True)

    assert load_bundle(saved).config.name == "tiny"


def test_a_bundle_made_before_there_were_checksums_is_loaded(saved: Path) -> None:
    (saved / "SHA256SUMS").unlink()
    assert load_bundle(saved).config.name == "tiny"


def test_a_failed_last_rename_leaves_the_old_bundle(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_bundle(saved).fingerprint
    config, rename = make_config(), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if Path(target) == saved and self.name != "tiny.old":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        save_bundle(saved, config, make_network(config), "# new\n", overwrite=True)

    assert load_bundle(saved).fingerprint == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "rgb", "encoder": {"name": "vit", "layers": 10**9}},
        {"kind": "rgb", "encoder": {"name": "vit", "hidden": 10**12}},
        {"kind": "rgb", "encoder": {"name": "small", "layers": [1, 1, 1, 10**9]}},
        {"kind": "rgb", "encoder": {"name": "vit", "token_px": 7}},
    ],
)
def test_a_network_without_end_is_not_built(saved: Path, network: dict[str, Any]) -> None:
    rgb = {"network": network, "mean": [0.5] * 3, "std": [0.5] * 3}
    edit_config(saved, lambda values: values.update(rgb))

    with pytest.raises(BundleError, match=r"less than or equal to|cannot be built"):
        load_bundle(saved)


@pytest.mark.parametrize("mpp", [1e-300, 1e300])
def test_a_resolution_of_no_slide_is_refused(saved: Path, mpp: float) -> None:
    edit_config(saved, lambda values: values.update(mpp=mpp))

    with pytest.raises(BundleError, match="mpp = "):
        load_bundle(saved)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_weights_are_refused(saved: Path, keep: int) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    (saved / "SHA256SUMS").unlink()

    with pytest.raises(BundleError, match="not a safetensors file"):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("head.bias"), r"lacks tensors: head\.bias"),
        (lambda w: w.update(extra=torch.zeros(2)), "has unknown tensors: extra"),
        (
            lambda w: w.update({"head.bias": torch.zeros(4)}),
            r"head\.bias as \(4,\).*calls for \(3,\)",
        ),
        (lambda w: w.update({"head.bias": torch.zeros(3).double()}), r"float64.*float32"),
        (lambda w: w["head.weight"].fill_(float("inf")), r"head\.weight that are no numbers"),
        (
            lambda w: w["encoder_h.bn1.running_var"][:1].fill_(float("nan")),
            r"encoder_h\.bn1\.running_var that are no numbers",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    edit_weights(saved, change)

    with pytest.raises(BundleError, match=message):
        load_bundle(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra = .*: Extra inputs are not permitted"),
        ({"schema_version": 2}, "schema_version"),
        ({"name": "../evil"}, "name = .*: String should match"),
        ({"method": ""}, "method"),
        ({"network": {"kind": "other"}}, "network"),
        ({"network": encoder(layers=[1])}, r"network.*layers"),
        ({"network": encoder(layers=[0, 1, 1, 1])}, r"network.*layers\.0"),
        ({"network": encoder(name="other")}, r"network"),
        ({"class_names": ["one"], "class_colors": ["#000000"]}, "class_names"),
        ({"class_names": ["a", "a", "b"]}, "class_names repeat: a, a, b"),
        ({"class_names": ["a", "", "b"]}, r"class_names\.1"),
        ({"class_colors": ["#000000", "#ffffff"]}, "2 class_colors do not match 3"),
        ({"class_colors": ["#000000", "#ffffff", "red"]}, r"class_colors\.2"),
        ({"mpp": 0}, "mpp"),
        ({"mpp": None}, "mpp"),
        ({"mpp": "0.5"}, "mpp = .*: Input should be a valid number"),
        ({"patch_px": 16}, "patch_px"),
        ({"stain_convention": "macenko-ln"}, "stain_convention"),
        ({"mean": [0.1]}, "mean"),
        ({"mean": [0.1, 0.2, 0.3]}, "3 means and 2 deviations do not match the 2 channels"),
        ({"std": [0.1, 0.0]}, r"std\.1"),
        ({"training": {"loss": "", "data": "x", "seed": 0, "metrics": {}}}, r"training\.loss"),
    ],
)
def test_configuration_outside_the_schema_is_refused(
    saved: Path, change: dict[str, Any], message: str
) -> None:
    edit_config(saved, lambda values: values.update(change))

    with pytest.raises(BundleError, match=message):
        load_bundle(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"mpp": NaN}', "\udcff"])
def test_configuration_that_is_no_json_object_is_refused(saved: Path, text: str) -> None:
    (saved / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    renew_sums(saved)

    with pytest.raises(BundleError, match="does not follow"):
        load_bundle(saved)


def test_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_config().mpp = 1.0  # type: ignore[misc]


def test_schema_file_is_that_of_the_configuration() -> None:
    path = resources.files("wsi_models") / "bundle.schema.json"

    assert path.read_text(encoding="utf-8") == schema_text(), "docs/bundle.md says how to write it"


def test_models_and_pipeline_mean_the_same_stain_convention() -> None:
    assert make_config().stain_convention == STAIN_CONVENTION


def test_demo_bundle_is_embedded_whole_and_small() -> None:
    assert "demo" in available_bundles()
    folder = bundle_path("demo")
    bundle = load_bundle(folder)

    assert bundle.config.name == "demo"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert bundle.config.training.metrics["balanced_accuracy"] >= 0.9
    card = (folder / "README.md").read_text(encoding="utf-8")
    for word in ("synthetic", "Licence", "Limits", "never use it"):
        assert word in card


@pytest.mark.parametrize("name", ["absent", "../bundles/demo", ""])
def test_unknown_embedded_bundle_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match="there are: demo"):
        bundle_path(name)
