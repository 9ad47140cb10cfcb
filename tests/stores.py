"""Small patch stores and predictions made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_pipeline.config import HeValues, StoreConfig
from wsi_pipeline.store import PatchStore, StoreHeader, StoreWriter
from wsi_pipeline.types import (
    Area,
    MppSource,
    Predictions,
    SlideInfo,
    StainEstimate,
    StainMatrix,
    StainVerdict,
    TileGrid,
    TileReason,
    TissueMask,
)

PATCH_PX = 8
SLIDE = SlideInfo(
    slide_id="slide-1",
    size_wh=(120, 80),
    mpp=0.5,
    mpp_source=MppSource.VENDOR,
    level_sizes_wh=((120, 80), (60, 40)),
    level_downsamples=(1.0, 2.0),
    reader="tiff",
    vendor="aperio",
    objective_power=20.0,
)
CONFIG = StoreConfig(chunk_patches=2, shard_patches=8)


def make_stain(**changes: object) -> StainEstimate:
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    estimate = StainEstimate(
        matrix=StainMatrix(
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            max_concentration=np.array([1.5, 1.0]),
        ),
        verdict=StainVerdict.OK,
        reasons=(),
        pixel_count=12_345,
        angle_deg=40.25,
        condition=3.5,
        theta_deg=(10.5, 50.75),
    )
    return replace(estimate, **changes)  # type: ignore[arg-type]  # fields, by name


def make_grid(n: int) -> TileGrid:
    """Lay 8 x 10 candidates and keep the first n of a shuffled order."""
    order = np.random.default_rng(1).permutation(80)
    reasons = np.full(80, TileReason.LITTLE_TISSUE, dtype=np.uint8)
    reasons[order[:n]] = TileReason.KEPT
    reasons[order[75:]] = np.where(reasons[order[75:]] == 0, 0, TileReason.PEN)
    fraction = np.linspace(0, 1, 80, dtype=np.float32)
    return TileGrid(
        level=0,
        downsample=1.0,
        read_px=PATCH_PX,
        step_px=PATCH_PX,
        patch_px=PATCH_PX,
        mpp=0.5,
        reasons=reasons.reshape(8, 10),
        tissue_fraction=fraction.reshape(8, 10),
    )


def make_header(n: int, **changes: object) -> StoreHeader:
    areas = np.zeros((16, 24), dtype=np.uint8)
    areas[4:12, 6:18] = Area.TISSUE
    areas[13:15, 20:23] = Area.PEN
    header = StoreHeader(
        slide=SLIDE,
        grid=make_grid(n),
        stain=make_stain(),
        mask=TissueMask(areas=areas, downsample=(5.0, 5.0)),
        thumbnail=np.full((16, 24, 3), 230, dtype=np.uint8),
        config={"tile": {"patch_size": PATCH_PX}},
        fingerprint="abc",
    )
    return replace(header, **changes)  # type: ignore[arg-type]  # fields, by name


def make_patches(n: int, config: StoreConfig = CONFIG, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    he = rng.random((n, 2, PATCH_PX, PATCH_PX))
    whole = (he * 255).astype(np.uint8)
    patches: dict[str, NDArray[Any]] = {
        "he": whole if config.he_values is HeValues.UINT8 else he.astype(np.float16)
    }
    if config.keep_rgb:
        patches["rgb"] = rng.integers(0, 256, (n, PATCH_PX, PATCH_PX, 3), dtype=np.uint8)
    return patches


def fill(writer: StoreWriter, patches: dict[str, NDArray[Any]]) -> None:
    for index in writer.pending():
        shard = writer.shards[index]
        writer.write_shard(index, **{k: v[shard.start : shard.stop] for k, v in patches.items()})


def make_store(path: Path, header: StoreHeader, config: StoreConfig = CONFIG) -> PatchStore:
    writer = StoreWriter.create_or_resume(path, header, config)
    fill(writer, make_patches(len(header.grid), config))
    return writer.seal()


def make_predictions(
    shape: tuple[int, int] = (8, 10),
    n: int | None = None,
    *,
    extent: float = 8.0,
    pitch: float = 8.0,
    seed: int = 0,
) -> Predictions:
    """Predict three classes on n random cells of a lattice."""
    rng = np.random.default_rng(seed)
    cells = shape[0] * shape[1]
    kept = np.sort(rng.permutation(cells)[: cells if n is None else n])
    rc = np.stack(np.unravel_index(kept, shape), axis=1).astype(np.int32).reshape(-1, 2)
    return Predictions(
        prob=rng.dirichlet((0.5, 0.5, 0.5), len(kept)).astype(np.float32).reshape(-1, 3),
        xy=np.rint(rc[:, ::-1] * pitch).astype(np.int64),
        rc=rc,
        shape=shape,
        extent=extent,
        pitch=pitch,
        class_names=("tumour", "stroma", "fat, other"),
        class_colors=("#d32f2f", "#388e3c", "#fbc02d"),
    )
