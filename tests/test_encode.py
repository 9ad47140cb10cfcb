"""Patches through encoders: what they see, the same from slide and store, every one end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from wsi_models.encoders import available_encoders, load_encoder

from tests.encoders import shrunk, write_checkpoint
from tests.timm_packages import make_timm_importable
from wsi_pipeline.config import PipelineConfig, Precision, PredictConfig, load_config
from wsi_pipeline.errors import ModelMismatchError
from wsi_pipeline.inference.feeds import encoder_feed
from wsi_pipeline.inference.stages import CentreCrop, Resize, Restain
from wsi_pipeline.models import encoder_spec
from wsi_pipeline.predict.encode import encode_store
from wsi_pipeline.predict.features import (
    EncodeOptions,
    features_of_slide,
    features_of_store,
    slide_vectors,
    store_vectors,
)
from wsi_pipeline.predict.trained import TrainedEncoder
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.stain import REFERENCE, fixed_stain_matrix, optical_density, unmixing_matrix
from wsi_pipeline.types import EncoderSpec, StainMatrix

if TYPE_CHECKING:
    from tests.known import KnownSlide
    from wsi_pipeline.store import PatchStore

EXACT = PredictConfig(device="cpu", batch_size=8, precision=Precision.FLOAT32)


class Moments(nn.Module):
    """Means and maxima of each channel."""

    def forward(self, patches: Tensor) -> Tensor:
        flat = patches.flatten(2)
        return torch.cat([flat.mean(dim=2), flat.amax(dim=2)], dim=1)


def moments(**changes: Any) -> TrainedEncoder:
    spec = EncoderSpec(
        name="moments",
        mpp=0.5,
        patch_px=200,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        input="rgb",
        features=6,
    )
    return TrainedEncoder(
        module=Moments(), spec=replace(spec, **changes), fingerprint="m" * 64, trained_on="nothing"
    )


def stained(**changes: Any) -> TrainedEncoder:
    return moments(input="he", mean=(0.1,) * 2, std=(0.5,) * 2, features=4, **changes)


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    config = load_config(None, {"store": {"keep_rgb": True}, "tile": {"patch_size": 240}})
    return config.model_copy(update={"predict": EXACT})


@pytest.fixture(scope="module")
def job(known_slide: KnownSlide) -> SlideJob:
    return SlideJob(path=known_slide.path, slide_id="known")


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, job: SlideJob, config: PipelineConfig
) -> PatchStore:
    path = tmp_path_factory.mktemp("encode") / "patches.zarr"
    return preprocess_slide(job, path, config, workers=2).store


@pytest.mark.parametrize("target", [None, REFERENCE])
@pytest.mark.parametrize(
    "encoder",
    [
        moments(),
        moments(resize_px=96, input_px=80, interpolation="bicubic"),
        moments(input_px=150),
        stained(),
    ],
    ids=["whole", "resized", "cropped", "stains"],
)
def test_features_of_a_slide_are_those_of_its_store_bit_for_bit(
    encoder: TrainedEncoder,
    target: StainMatrix | None,
    store: PatchStore,
    job: SlideJob,
    config: PipelineConfig,
) -> None:
    if target is not None and encoder.spec.input == "he":
        return
    options = EncodeOptions(encoder=encoder, target=target)

    by_store = features_of_store(store, options, config.predict)
    direct, done = features_of_slide(job, options, config, workers=3)

    assert len(direct.features) > 20
    assert direct.features.std(axis=0).max() > 0.01
    assert np.array_equal(direct.features, by_store.features)
    assert direct.xy is not None
    assert np.array_equal(direct.xy, store.xy)
    assert direct.tiles == by_store.tiles
    assert direct.passport is not None
    assert by_store.passport is not None
    assert direct.passport.decisive() == by_store.passport.decisive()
    assert direct.passport.slide == by_store.passport.slide
    assert direct.passport.made_by() == slide_vectors(job, options, config)
    assert by_store.passport.made_by() == store_vectors(store, options, config.predict)
    assert "patches and features" in done.seconds


def test_no_stains_are_estimated_for_encoders_of_colours(
    job: SlideJob, config: PipelineConfig
) -> None:
    """So that slides in any stain can be encoded, and no time is lost."""
    strict = config.model_copy(
        update={
            "stain": config.stain.model_copy(update={"min_pixels": 10**9, "allow_fallback": False})
        }
    )
    _, done = features_of_slide(job, EncodeOptions(encoder=moments()), strict)
    assert done.patches.stain.reasons == ("asked for: adaptive = false",)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("before", "after"), [(256, 224), (100, 64), (64, 100), (33, 33)])
def test_resizing_is_that_of_published_transforms(
    interpolation: Any, before: int, after: int
) -> None:
    """Published transforms resize pictures with Pillow, which rounds between the two axes.

    Its weights are of 22 bits, ours of 24: counts that lie half way may fall to either side.
    """
    rng = np.random.default_rng(before)
    rgb = rng.integers(0, 256, (before, before, 3), dtype=np.uint8)
    kernel = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    expected = np.asarray(Image.fromarray(rgb).resize((after, after), kernel[interpolation]))

    resized = Resize(after, interpolation)(torch.from_numpy(rgb.transpose(2, 0, 1)[None]))

    given = resized[0].numpy().transpose(1, 2, 0).astype(int)
    difference = np.abs(given - expected.astype(int))
    assert given.shape == (after, after, 3)
    assert difference.max() <= 2
    assert (difference <= 1).mean() > 0.999
    assert (difference == 0).mean() > 0.9


def naive_bilinear(row: NDArray[np.float64], after: int) -> NDArray[np.float64]:
    """Resize one axis by the definition: a triangle as wide as the pixels that it covers."""
    scale = len(row) / after
    reach = max(scale, 1.0)
    out = np.zeros(after)
    for place in range(after):
        centre = (place + 0.5) * scale
        weights = np.array([max(0.0, 1 - abs((x + 0.5 - centre) / reach)) for x in range(len(row))])
        out[place] = (weights * row).sum() / weights.sum()
    return out


@pytest.mark.parametrize("after", [5, 8, 11, 16, 23])
def test_bilinear_resizing_is_that_of_its_definition(after: int) -> None:
    rng = np.random.default_rng(after)
    plane = rng.integers(0, 256, (16, 16)).astype(np.float64)
    along = np.stack([naive_bilinear(row, after) for row in plane])
    expected = np.stack(
        [naive_bilinear(column, after) for column in np.floor(along + 0.5).T], axis=1
    )

    given = Resize(after, "bilinear")(torch.from_numpy(plane.astype(np.uint8))[None, None])

    assert np.abs(given[0, 0].numpy() - expected).max() <= 1 + 1e-3


@pytest.mark.parametrize(("side", "crop"), [(256, 224), (9, 4), (8, 8)])
def test_centres_are_cut_out(side: int, crop: int) -> None:
    values = torch.arange(side * side).reshape(1, 1, side, side)
    start = (side - crop) // 2
    given = CentreCrop(crop)(values)
    assert torch.equal(given[0, 0], values[0, 0, start : start + crop, start : start + crop])


def test_input_is_resized_cropped_and_normalised_in_this_order() -> None:
    spec = moments(resize_px=20, input_px=16, patch_px=40).spec
    rgb = np.random.default_rng(0).integers(0, 256, (3, 44, 44, 3), dtype=np.uint8)
    feed = encoder_feed(3, lambda start, stop: rgb[start:stop], spec)

    # the engine hands on the centre of patch_px
    centre = torch.from_numpy(feed.read(0, 3))[..., 2:42, 2:42]
    given = feed.to_input(centre)

    small = Resize(20, "bilinear")(centre)[..., 2:18, 2:18].numpy()
    expected = (small / 255 - 0.5) / 0.25
    np.testing.assert_allclose(given.numpy(), expected, atol=1e-6)


def naive_restain(
    rgb: NDArray[np.uint8], own: StainMatrix, target: StainMatrix
) -> NDArray[np.float64]:
    """Stain a pixel anew by the equations."""
    density = np.log10(own.background / np.maximum(rgb, 1))
    he = unmixing_matrix(own) @ density
    he = np.maximum(he, 0) * target.max_concentration / own.max_concentration
    return np.asarray(target.background * 10.0 ** -(he @ target.vectors))


def test_stains_are_normalised_by_the_equations() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    own, target = fixed_stain_matrix(), REFERENCE

    given = Restain(own, target)(torch.from_numpy(rgb.transpose(0, 3, 1, 2)))

    for image, restained in zip(rgb, given.numpy().transpose(0, 2, 3, 1), strict=True):
        for row, col in np.ndindex(5, 5):
            expected = naive_restain(image[row, col], own, target).clip(0, 255)
            assert np.abs(restained[row, col] - expected).max() <= 0.51


def test_stains_keep_their_precision_where_products_are_rounded() -> None:
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 9, 9), dtype=np.uint8))
    restain = Restain(fixed_stain_matrix(), REFERENCE)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = restain(rgb)
    assert torch.equal(rounded, restain(rgb))


def test_tissue_gets_the_stains_of_the_target(store: PatchStore) -> None:
    """What is stained anew is measured as the target: concentrations fill its range."""
    own = store.stain.matrix
    rgb = torch.from_numpy(store.read_rgb(0, 20).transpose(0, 3, 1, 2))
    anew = Restain(own, REFERENCE)(rgb).numpy().transpose(0, 2, 3, 1).reshape(-1, 3)
    concentrations = optical_density(anew, REFERENCE.background) @ unmixing_matrix(REFERENCE).T
    before = optical_density(store.read_rgb(0, 20).reshape(-1, 3)) @ unmixing_matrix(own).T
    ratio = np.percentile(concentrations, 99, axis=0) / REFERENCE.max_concentration
    expected = np.percentile(before, 99, axis=0) / own.max_concentration
    np.testing.assert_allclose(ratio, expected, rtol=0.05)


def test_stores_without_colours_are_refused_and_smaller_patches_too(
    tmp_path: Path, job: SlideJob, store: PatchStore, config: PipelineConfig
) -> None:
    with pytest.raises(ModelMismatchError, match="expects at least 400"):
        encode_store(store, moments(patch_px=400), EXACT)
    bare = config.model_copy(
        update={
            "store": config.store.model_copy(update={"keep_rgb": False}),
            "tissue": config.tissue.model_copy(update={"min_tissue_um2": 1e9}),
        }
    )
    empty = preprocess_slide(job, tmp_path / "bare.zarr", bare).store
    with pytest.raises(ModelMismatchError, match="or give the slide itself"):
        encode_store(empty, moments(), EXACT)


make_timm_importable()


@pytest.mark.parametrize("name", sorted(available_encoders()))
def test_every_encoder_runs_from_slide_to_features(
    name: str, tmp_path: Path, known_slide: KnownSlide
) -> None:
    """Of the true architecture, transform and layout of weights; random values, and tiny."""
    pytest.importorskip("timm", reason="timm is not installed; 'make env' puts it apart")
    encoder = shrunk(available_encoders()[name])
    card = encoder.card
    assert card.weights is not None
    if card.weights.layout == "network" and card.weights.hub:
        loaded = load_encoder(encoder, write_checkpoint(encoder, tmp_path))
    else:
        loaded = load_encoder(encoder, initial=True)
    trained = TrainedEncoder(
        module=loaded.module,
        spec=encoder_spec(card),
        fingerprint=loaded.identity,
        trained_on="nothing",
    )
    config = load_config(
        None, {"tile": {"patch_size": card.tile_px, "mpp": card.mpp, "min_tissue": 0.99}}
    ).model_copy(update={"predict": EXACT})
    job = SlideJob(path=known_slide.path, slide_id="known")

    found, _ = features_of_slide(job, EncodeOptions(encoder=trained), config, workers=2)

    assert found.features.shape == (len(found.features), card.features)
    assert len(found.features) > 3
    assert found.features.std(axis=0).max() > 0
    assert found.passport is not None
    assert found.passport.identity == card.identity(loaded.weights_digest)
    assert found.passport.transform["input_px"] == card.transform.input_px
