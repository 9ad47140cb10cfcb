"""What each stain says of a patch: exact parts, exact maps, on slides whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from wsi_models.bundle import BundleError, bundle_path, load_bundle
from wsi_models.networks.description import (
    RgbClassifierConfig,
    StainPairConfig,
    build_network,
)
from wsi_models.networks.explaining import StainExplainer
from wsi_models.parts.backbone import EfficientNetLite0Config, SmallConfig, ViTConfig

from tests.stores import make_header, make_store
from wsi_pipeline.cli import main
from wsi_pipeline.config import PredictConfig, load_config
from wsi_pipeline.models import load_explainer, load_model, model_defaults
from wsi_pipeline.predict.explained import explain_store, map_patches
from wsi_pipeline.predict.patches import predict_store
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.run.explain import clearest, explain_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.synthetic import write_synthetic_slide
from wsi_pipeline.types import StainExplanations

if TYPE_CHECKING:
    from wsi_models.networks.class_m import ClassMNetwork
    from wsi_models.parts.backbone import EncoderConfig

    from wsi_pipeline.store import PatchStore

ENCODERS: list[EncoderConfig] = [
    SmallConfig(),
    EfficientNetLite0Config(weights=None),
    ViTConfig(token_px=8, hidden=12, layers=1, heads=2),
]


def network_of(encoder: EncoderConfig) -> ClassMNetwork:
    torch.manual_seed(1)
    return build_network(StainPairConfig(encoder=encoder), 3, 64).eval()


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_parts_add_up_to_the_logits_and_maps_average_to_the_parts(encoder: EncoderConfig) -> None:
    network = network_of(encoder).double()
    explainer = StainExplainer(network).eval()
    patches = torch.randn(4, 2, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    with torch.inference_mode():
        parts = explainer(patches).reshape(4, 2, 3)
        maps = explainer.maps(patches)
        logits = network.classify(patches)

    assert maps.shape[:3] == (4, 2, 3)
    assert min(maps.shape[3:]) > 1, "a map of one place says nothing of where"
    torch.testing.assert_close(parts.sum(dim=1), logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(maps.mean(dim=(3, 4)), parts, rtol=0, atol=1e-12)


def test_a_part_depends_on_its_stain_alone() -> None:
    explainer = StainExplainer(network_of(SmallConfig())).eval()
    patches = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(3))
    other = patches.clone()
    other[:, 1] += torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        before, after = (explainer(x).reshape(2, 2, 3) for x in (patches, other))

    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_a_network_of_colours_has_no_parts() -> None:
    bundle = load_bundle(bundle_path("demo"))
    colours = build_network(RgbClassifierConfig(encoder=SmallConfig()), 3, 64)

    with pytest.raises(BundleError, match="sees the colours of a patch"):
        type(bundle)(config=bundle.config, network=colours, fingerprint="").explainer()


def test_lead_is_free_of_what_all_classes_share() -> None:
    parts = np.array([[[1.0, 4.0, 1.0], [2.0, 2.0, 2.0]]], dtype=np.float32)
    found = explanations(parts)

    assert found.label.tolist() == [1]
    assert found.lead.tolist() == [[2.0, 0.0]]
    assert explanations(parts + 5).lead.tolist() == [[2.0, 0.0]]


def test_the_clearest_patches_of_each_class_are_chosen() -> None:
    parts = np.zeros((5, 2, 3), dtype=np.float32)
    parts[[0, 1, 2], 0, 0] = [1, 3, 2]
    parts[[3, 4], 1, 2] = [1, 2]

    assert clearest(explanations(parts), 2) == [1, 2, 4, 3]


def explanations(parts: np.ndarray) -> StainExplanations:
    count = len(parts)
    return StainExplanations(
        parts=parts,
        xy=np.zeros((count, 2), dtype=np.int64),
        rc=np.zeros((count, 2), dtype=np.int32),
        extent=1.0,
        class_names=("a", "b", "c"),
        class_colors=("#111111", "#222222", "#333333"),
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    folder = tmp_path_factory.mktemp("explained")
    write_synthetic_slide(folder / "s.tif", size_wh=(1536, 1024), mpp=0.5, seed=7)
    config = load_config(overrides=model_defaults(load_model("demo")))
    job = SlideJob(path=folder / "s.tif", slide_id="s")
    return preprocess_slide(job, folder / "s" / "patches.zarr", config).store


def test_parts_of_a_slide_give_its_probabilities_and_maps(store: PatchStore) -> None:
    config = load_config(overrides={"predict": {"device": "cpu", "precision": "float32"}}).predict
    model, explainer = load_model("demo"), load_explainer("demo")

    found = explain_store(store, explainer, config)
    predictions = predict_store(store, model.module, model.spec, config)
    maps = map_patches(store, explainer, [0, 3], config)

    exp = np.exp(found.logits - found.logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(exp / exp.sum(axis=1, keepdims=True), predictions.prob, atol=1e-5)
    np.testing.assert_allclose(maps.mean(axis=(3, 4)), found.parts[[0, 3]], atol=1e-4)


def test_the_table_and_the_sheet_are_written(store: PatchStore) -> None:
    done = CliRunner().invoke(
        main, ["explain", str(store.path), "--model", "demo", "--per-class", "1", "--json"]
    )

    assert done.exit_code == 0, done.output
    (files,) = json.loads(done.stdout)
    table = pq.read_table(files["table"])
    assert table.num_rows == len(store)
    names = load_model("demo").spec.class_names
    logits = np.stack(
        [
            table[f"hematoxylin_{name}"].to_numpy() + table[f"eosin_{name}"].to_numpy()
            for name in names
        ],
        axis=1,
    )
    assert [names[i] for i in logits.argmax(axis=1)] == table["label"].to_pylist()
    assert Path(files["sheet"]).read_bytes().startswith(b"\x89PNG")


def test_a_bad_store_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in "ab":
        place = tmp_path / name / "patches.zarr"
        place.mkdir(parents=True)
        (place / "zarr.json").write_text("{}")

    done = CliRunner().invoke(main, ["explain", str(tmp_path), "--model", "demo", "--quiet"])

    assert done.exit_code == 1
    assert all(f"{tmp_path}/{name}/patches.zarr failed: " in done.stderr for name in "ab")


def test_a_slide_without_tiles_has_an_empty_table(tmp_path: Path) -> None:
    header = make_header(0)
    empty = make_store(tmp_path / "slide" / "patches.zarr", header)
    explainer = load_explainer("demo")
    spec = explainer.spec
    fitting = type(explainer)(
        module=explainer.module,
        spec=type(spec)(
            **{
                **{name: getattr(spec, name) for name in spec.__dataclass_fields__},
                "mpp": empty.mpp,
                "patch_px": empty.patch_px,
            }
        ),
        fingerprint="",
        trained_on="",
    )

    files = explain_slide(empty, fitting, PredictConfig(device="cpu"))

    assert pq.read_table(files["table"]).num_rows == 0
    assert files["sheet"].exists()
