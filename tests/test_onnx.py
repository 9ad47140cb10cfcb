"""Networks of ONNX files: segmenters and encoders, without their code."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from wsi_models.encoders import EncoderError, find_encoder, load_encoder

from tests.onnx_files import (
    PEN,
    SEGMENTER_CARD,
    inked,
    small_encoder,
    train_segmenter,
    write_classifier,
    write_encoder,
    write_network,
)
from wsi_pipeline.cli import main
from wsi_pipeline.config import TissueConfig, load_config
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.models import load_encoder as load_trained_encoder
from wsi_pipeline.models import load_explainer, load_model
from wsi_pipeline.preprocess.given import recipe_of
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.store.features import find_features, read_features
from wsi_pipeline.synthetic import write_synthetic_slide
from wsi_pipeline.tissue import make_segmenter
from wsi_pipeline.tissue.onnx_network import CORE_PX, MARGIN_PX, OnnxSegmenter
from wsi_pipeline.types import Area

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.known import KnownSlide

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def overview_of(path: Path, mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The slide at 8 um/px, and where its tissue is."""
    import tifffile

    whole = tifffile.imread(path)
    size = (whole.shape[1] // 16, whole.shape[0] // 16)
    rgb = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.asarray(rgb, dtype=np.uint8), np.asarray(share > 0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter that was trained, in seconds, on two synthetic slides with pen."""
    folder = tmp_path_factory.mktemp("segmenter")
    rng = np.random.default_rng(0)
    pictures = []
    for seed in (1, 2):
        truth = write_synthetic_slide(folder / f"{seed}.tif", (2048, 2048), mpp=0.5, seed=seed)
        pictures.append(inked(*overview_of(folder / f"{seed}.tif", truth.mask), rng))
    file = folder / "trained.onnx"
    write_network(train_segmenter(pictures), file, torch.zeros(1, 3, 64, 64), any_size=True)
    file.with_suffix(".toml").write_text(SEGMENTER_CARD, encoding="utf-8")
    return file


def test_a_trained_segmenter_finds_tissue_and_pen(trained: Path, known_slide: KnownSlide) -> None:
    clean = overview_of(known_slide.path, known_slide.truth.mask)
    rgb, truth = inked(*clean, np.random.default_rng(5))

    areas = OnnxSegmenter(trained).segment(rgb, 8.0)

    assert areas.dtype == np.uint8
    for area in (Area.TISSUE, Area.PEN):
        found, there = areas == area, truth == (PEN if area is Area.PEN else area)
        assert (found & there).sum() / (found | there).sum() > 0.8, area


def test_it_is_used_by_preprocess_and_known_by_its_content(
    trained: Path, known_slide: KnownSlide, tmp_path: Path
) -> None:
    job = SlideJob(path=known_slide.path, slide_id="known")
    config = load_config(overrides={"tissue": {"segmenter": f"onnx:{trained}"}})

    store = preprocess_slide(job, tmp_path / "p.zarr", config).store

    truth = overview_of(known_slide.path, known_slide.truth.mask)[1]
    assert len(store) > 0
    assert (store.mask.tissue == truth).mean() > 0.9
    elsewhere = tmp_path / "other.onnx"
    for ending in (".onnx", ".toml"):
        elsewhere.with_suffix(ending).write_bytes(trained.with_suffix(ending).read_bytes())
    moved = load_config(overrides={"tissue": {"segmenter": f"onnx:{elsewhere}"}})
    assert recipe_of(job, moved) == recipe_of(job, config)
    elsewhere.with_suffix(".toml").write_text(SEGMENTER_CARD.replace("0.25]", "0.26]"))
    assert recipe_of(job, moved) != recipe_of(job, config)


def test_blocks_of_a_large_overview_meet_without_a_seam(trained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    rough = rng.integers(60, 255, (40, 45, 3), dtype=np.uint8)
    rgb = cv2.resize(rough, (CORE_PX + 200, CORE_PX + 77), interpolation=cv2.INTER_CUBIC)
    segmenter = OnnxSegmenter(trained)
    whole = segmenter.segment(np.asarray(rgb), 8.0)

    crop = segmenter.segment(np.asarray(rgb[300:, 400:]), 8.0)

    edge = MARGIN_PX
    assert np.array_equal(crop[edge:, edge:], whole[300 + edge :, 400 + edge :])


class Bands(nn.Module):
    """Scores of the areas by how red a pixel is: as many bands as areas."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, count, 1)
        middles = (torch.arange(count) + 0.5) / count
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.weight[:, 0, 0, 0] = 2 * middles
            self.layer.bias.copy_(-(middles**2))  # type: ignore[union-attr]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layer(pictures)  # type: ignore[no-any-return]


def write_bands(folder: Path, areas: tuple[str, ...], outputs: int | None = None) -> Path:
    file = folder / "bands.onnx"
    network = Bands(outputs or len(areas))
    write_network(network, file, torch.zeros(1, 3, 8, 8), any_size=True)
    file.with_suffix(".toml").write_text(f"mpp = 8.0\nareas = {list(areas)}\n")
    return file


def test_every_area_can_be_named(tmp_path: Path) -> None:
    names = tuple(area.name.lower() for area in Area)
    file = write_bands(tmp_path, names)
    red = ((np.arange(len(names)) + 0.5) / len(names) * 255).astype(np.uint8)
    rgb = np.stack([red, red * 0, red * 0], axis=-1)[None]

    areas = OnnxSegmenter(file).segment(rgb, 8.0)

    assert areas[0].tolist() == list(Area)


def test_one_output_is_the_logit_of_the_second_area(tmp_path: Path) -> None:
    file = tmp_path / "one.onnx"
    layer = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.bias.fill_(1.5)  # type: ignore[union-attr]
    write_network(layer, file, torch.zeros(1, 3, 8, 8), any_size=True)
    file.with_suffix(".toml").write_text('mpp = 4.0\nareas = ["glass", "tissue"]\n')
    segmenter = OnnxSegmenter(file)
    rgb = np.array([[[255, 255, 255], [10, 10, 10]]], dtype=np.uint8)

    assert segmenter.segment(rgb, 4.0).tolist() == [[Area.GLASS, Area.TISSUE]]
    assert segmenter.mpp == 4.0


def test_wrong_files_are_errors_that_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.onnx cannot be read"):
        make_segmenter(TissueConfig(segmenter=f"onnx:{tmp_path / 'none.onnx'}"))
    file = tmp_path / "damaged.onnx"
    file.write_bytes(b"no network")
    with pytest.raises(ConfigError, match=r"damaged\.toml"):
        OnnxSegmenter(file)
    beside = file.with_suffix(".toml")
    beside.write_text('mpp = 8.0\nareas = ["glass", "fat"]\n')
    with pytest.raises(ConfigError, match=r"damaged\.toml does not say .* areas\.1"):
        OnnxSegmenter(file)
    beside.write_text('mpp = 8.0\nareas = ["glass", "tissue"]\n')
    rgb = np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(ConfigError, match="is no network that ONNX Runtime opens"):
        OnnxSegmenter(file).segment(rgb, 8.0)
    wrong = write_bands(tmp_path, ("glass", "tissue"), outputs=3)
    with pytest.raises(ConfigError, match="correct the list 'areas'"):
        OnnxSegmenter(wrong).segment(rgb, 8.0)


def test_an_encoder_gives_what_its_torch_module_gives(tmp_path: Path) -> None:
    file = write_encoder(tmp_path)
    loaded = load_encoder(find_encoder(f"onnx:{file}"))
    patches = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        expected = small_encoder()(patches)
        found = loaded.module(patches)
        copied = copy.deepcopy(loaded.module)(patches)
        sent = pickle.loads(pickle.dumps(loaded.module))(patches)

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(copied, found)
    assert torch.equal(sent, found)


def test_another_file_is_another_encoder(tmp_path: Path) -> None:
    file = write_encoder(tmp_path)
    first = load_encoder(find_encoder(f"onnx:{file}"))
    network = small_encoder()
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    write_network(network, file, torch.zeros(2, 3, 32, 32), any_size=False)

    assert load_encoder(find_encoder(f"onnx:{file}")).weights_digest != first.weights_digest


def test_slides_are_encoded_by_a_file(known_slide: KnownSlide, tmp_path: Path) -> None:
    file = write_encoder(tmp_path)
    out = tmp_path / "features"
    arguments = ["features", str(known_slide.path), "--encoder", f"onnx:{file}", "--out", str(out)]

    done = CliRunner().invoke(main, [*arguments, "--min-tissue", "0.999", "--quiet"])

    assert done.exit_code == 0, done.output
    (slide,) = (read_features(path) for path in find_features([out]).values())
    assert slide.features.shape[1] == 6
    assert np.isfinite(slide.features).all()
    assert slide.passport is not None
    assert slide.passport.encoder == "colours"


def test_wrong_encoder_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"none\.toml cannot be read"):
        find_encoder(f"onnx:{tmp_path / 'none.onnx'}")
    file = write_encoder(tmp_path)
    file.write_bytes(b"no network")
    with pytest.raises(EncoderError, match="is no network that ONNX Runtime opens"):
        load_encoder(find_encoder(f"onnx:{file}"))
    file.unlink()
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder(find_encoder(f"onnx:{file}"))


def test_a_classifier_predicts_slides(known_slide: KnownSlide, tmp_path: Path) -> None:
    model = f"onnx:{write_classifier(tmp_path)}"
    out = tmp_path / "results"
    arguments = ["run", str(known_slide.path), "--model", model, "--out", str(out), "--quiet"]

    done = CliRunner().invoke(main, [*arguments, "--min-tissue", "0.9"])

    assert done.exit_code == 0, done.output
    assert list(out.rglob("brightness/predictions.parquet"))


def test_a_classifier_gives_no_features_and_no_parts_of_stains(tmp_path: Path) -> None:
    model = f"onnx:{write_classifier(tmp_path)}"

    with pytest.raises(ConfigError, match=r"is a classifier by .*toml.*without its last layer"):
        load_trained_encoder(model)
    with pytest.raises(ConfigError, match=r"cannot be explained.*a bundle of CLASS-M"):
        load_explainer(model)


def test_wrong_classifier_files_are_errors(tmp_path: Path) -> None:
    file = write_classifier(tmp_path)
    card = file.with_suffix(".toml")
    first = load_model(f"onnx:{file}")
    card.write_text(card.read_text().replace("0.25]", "0.2]"))
    assert load_model(f"onnx:{file}").fingerprint != first.fingerprint
    card.write_text(card.read_text().replace('"bright"', '"dark"'))
    with pytest.raises(ConfigError, match="class_names repeat"):
        load_model(f"onnx:{file}")
    with pytest.raises(ConfigError, match=r"none\.toml does not say what none\.onnx is"):
        load_model(f"onnx:{tmp_path / 'none.onnx'}")
    file.write_bytes(b"no network")
    card.write_text(card.read_text().replace('"dark", "dark"', '"dark", "bright"'))
    with pytest.raises(ConfigError, match="is no network that ONNX Runtime opens"):
        load_model(f"onnx:{file}")
