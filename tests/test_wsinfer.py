"""Bundles as WSInfer and QuPath's WSInfer extension load them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from wsi_models.bundle import BundleError, bundle_path, load_bundle, save_bundle
from wsi_models.networks.description import RgbClassifierConfig, build_network
from wsi_models.parts.backbone import SmallConfig
from wsi_models.wsinfer import WSInferConfig, write_wsinfer

from tests.test_bundle import make_config
from wsi_pipeline.cli import main


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    config = make_config(
        network=RgbClassifierConfig(encoder=SmallConfig(planes=(4, 4, 8, 8))).model_dump(
            mode="json"
        ),
        mean=[0.6, 0.5, 0.4],
        std=[0.2, 0.3, 0.4],
    )
    save_bundle(tmp_path / "bundle", config, build_network(config.network, 3, 64).eval(), "# a\n")
    return tmp_path / "bundle"


def test_the_command_writes_a_model_that_gives_the_same_logits(bundle: Path) -> None:
    done = CliRunner().invoke(main, ["export", str(bundle), "--to", "wsinfer"])

    folder = bundle.with_name("bundle-wsinfer")
    assert done.output.strip() == str(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = torch.jit.load(folder / "torchscript_model.pt")  # type: ignore[no-untyped-call]  # of torch
    patches = torch.rand(5, 3, 64, 64)
    loaded = load_bundle(bundle)
    with torch.no_grad():
        assert torch.allclose(network(patches), loaded.classifier()(patches), atol=1e-6)
    about = json.loads((folder / "config.json").read_text())
    assert about == {
        "spec_version": "1.0",
        "architecture": "small",
        "num_classes": 3,
        "class_names": list(loaded.config.class_names),
        "patch_size_pixels": 64,
        "spacing_um_px": loaded.config.mpp,
        "transform": [
            {"name": "Resize", "arguments": {"size": 64}},
            {"name": "ToTensor", "arguments": {}},
            {"name": "Normalize", "arguments": {"mean": [0.6, 0.5, 0.4], "std": [0.2, 0.3, 0.4]}},
        ],
    }
    assert loaded.config.training.data in (folder / "README.md").read_text()


def test_a_model_on_stains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="demo takes hematoxylin and eosin, but WSInfer gives"):
        write_wsinfer(load_bundle(bundle_path("demo")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_configuration_follows_the_schema() -> None:
    right = {
        "architecture": "resnet18",
        "num_classes": 2,
        "class_names": ["a", "b"],
        "patch_size_pixels": 224,
        "spacing_um_px": 0.5,
        "transform": [{"name": "ToTensor"}],
    }
    assert WSInferConfig.model_validate(right).spec_version == "1.0"
    for wrong in (
        {"class_names": "a"},
        {"num_classes": 0},
        {"spacing_um_px": 0},
        {"spec_version": "2.0"},
        {"transform": [{"name": "Crop"}]},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            WSInferConfig.model_validate({**right, **wrong})
    with pytest.raises(ValueError, match="3 classes need as many different names"):
        WSInferConfig.model_validate({**right, "num_classes": 3})
