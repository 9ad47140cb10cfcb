"""Hematoxylin with a chromogen: known mixtures, real pictures, and what is no such slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.stores import make_header, make_stain, make_store
from wsi_pipeline.config import StainConfig, load_config
from wsi_pipeline.errors import ModelMismatchError, StainEstimationError
from wsi_pipeline.models import load_model, model_defaults
from wsi_pipeline.predict.patches import require_match
from wsi_pipeline.stain import estimate_stain_matrix
from wsi_pipeline.stain.chromogen import PUBLISHED
from wsi_pipeline.store import PatchStore
from wsi_pipeline.types import CONVENTIONS, StainPair, StainVerdict

H_DAB = StainConfig(stains=StainPair.H_DAB)
VECTORS = PUBLISHED[StainPair.H_DAB] / np.linalg.norm(
    PUBLISHED[StainPair.H_DAB], axis=1, keepdims=True
)
HE_VECTORS = np.array([[0.594, 0.731, 0.327], [0.154, 0.738, 0.644]])


def stained(vectors: NDArray[np.float64], count: int = 20_000, seed: int = 0) -> NDArray[np.uint8]:
    """Pixels of one stain, the other, or a little of both, as cells have them."""
    rng = np.random.default_rng(seed)
    amount = rng.uniform(0.3, 1.3, size=(count, 2))
    kind = rng.integers(3, size=count)
    amount[kind == 0, 1] *= rng.uniform(0, 0.05, size=(kind == 0).sum())
    amount[kind == 1, 0] *= rng.uniform(0, 0.05, size=(kind == 1).sum())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    light = 255 * 10 ** -(amount @ unit)
    noisy = np.rint(light + rng.normal(0, 1, light.shape))
    return np.asarray(np.clip(noisy, 0, 255), dtype=np.uint8)


def angles(found: NDArray[np.float64], truth: NDArray[np.float64]) -> list[float]:
    cosines = (found * truth).sum(axis=1)
    return [float(angle) for angle in np.degrees(np.arccos(np.clip(cosines, -1, 1)))]


def turned(degrees: float) -> NDArray[np.float64]:
    """Turn the chromogen away from hematoxylin, in the plane of both."""
    h, d = VECTORS
    side = d - (d @ h) * h
    side /= np.linalg.norm(side)
    angle = np.arccos(d @ h) + np.radians(degrees)
    return np.stack([h, np.cos(angle) * h + np.sin(angle) * side])


@pytest.mark.parametrize("seed", range(4))
def test_known_vectors_are_recovered_in_their_order(seed: int) -> None:
    found = estimate_stain_matrix(stained(VECTORS, seed=seed), H_DAB)

    assert found.verdict is StainVerdict.OK
    assert max(angles(found.matrix.vectors, VECTORS)) < 3
    assert found.names == ("hematoxylin", "DAB")
    assert (np.abs(found.matrix.max_concentration - 1.3) < 0.15).all()


def test_a_chromogen_of_its_own_is_used_and_flagged() -> None:
    found = estimate_stain_matrix(stained(turned(9)), H_DAB)

    assert found.verdict is StainVerdict.FLAGGED
    assert "DAB" in found.reasons[0]
    assert max(angles(found.matrix.vectors, turned(9))) < 3


def test_hematoxylin_and_eosin_are_no_h_dab() -> None:
    found = estimate_stain_matrix(stained(HE_VECTORS), H_DAB)

    assert found.verdict is StainVerdict.FALLBACK
    assert any("degrees from the published vector" in reason for reason in found.reasons)
    np.testing.assert_allclose(found.matrix.vectors, VECTORS)
    with pytest.raises(StainEstimationError, match="hematoxylin and DAB can be estimated"):
        estimate_stain_matrix(
            stained(HE_VECTORS), StainConfig(stains=StainPair.H_DAB, allow_fallback=False)
        )


def test_few_pixels_and_fixed_vectors_are_said() -> None:
    few = estimate_stain_matrix(stained(VECTORS, count=500), H_DAB)
    fixed = estimate_stain_matrix(
        stained(VECTORS), StainConfig(stains=StainPair.H_DAB, adaptive=False)
    )
    none = estimate_stain_matrix(np.full((50, 3), 250, dtype=np.uint8), H_DAB)

    assert "hold stain, fewer than" in few.reasons[0]
    assert fixed.reasons == ("asked for: adaptive = false",)
    assert none.matrix.max_concentration.tolist() == [1, 1]
    assert {few.verdict, fixed.verdict, none.verdict} == {StainVerdict.FALLBACK}


def dab_store(folder: Path) -> PatchStore:
    stain = make_stain(pair=StainPair.H_DAB)
    header: Any = make_header(3)
    return make_store(folder / "p.zarr", type(header)(**{**vars(header), "stain": stain}))


def test_the_pair_is_kept_by_the_store_and_models_of_another_are_refused(tmp_path: Path) -> None:
    store = PatchStore.open(dab_store(tmp_path).path)
    model = load_model("demo")

    assert store.stain.pair is StainPair.H_DAB
    assert store.stain_convention == CONVENTIONS[StainPair.H_DAB]
    with pytest.raises(ModelMismatchError, match="macenko-log10-h-dab-v1"):
        require_match(store, model.spec)


def test_a_model_of_a_pair_has_its_slides_unmixed_so() -> None:
    model = load_model("demo")
    spec = type(model.spec)(
        **{
            **{name: getattr(model.spec, name) for name in model.spec.__dataclass_fields__},
            "stain_convention": CONVENTIONS[StainPair.H_DAB],
        }
    )
    other = type(model)(module=model.module, spec=spec, fingerprint="", trained_on="")

    assert load_config(None, base=model_defaults(other)).stain.stains is StainPair.H_DAB
    assert load_config(None, base=model_defaults(model)).stain.stains is StainPair.HE


@pytest.mark.data
def test_a_real_picture_of_dab_has_its_brown_and_is_flagged_for_its_blue(data_dir: Path) -> None:
    picture = cv2.imread(str(data_dir / "stain" / "skimage_ihc_DAB.png"))
    assert picture is not None
    pixels = cv2.blur(picture[..., ::-1], (3, 3))[::2, ::2].reshape(-1, 3)

    found = estimate_stain_matrix(np.ascontiguousarray(pixels), H_DAB)

    hematoxylin, chromogen = angles(found.matrix.vectors, VECTORS)
    assert chromogen < 5 < hematoxylin < 8
    assert found.verdict is StainVerdict.FLAGGED
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith("hematoxylin")
    assert found.matrix.max_concentration.min() > 0.3
