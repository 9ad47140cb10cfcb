"""A slide of a given size -> the time and the most memory that each export takes.

Usage: ``python benchmarks/exports.py FOLDER [--side 80000] [--tiles 317]``. Tissue and classes are
made up: half of the square is tissue, in ragged pieces. Each export has a process of its own; its
time begins with the open result. ``ome-zarr`` needs stored patches: a store of as many tiles of
``--patch`` px is written first, once.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
from tables import table

from wsi_pipeline.config import StoreConfig
from wsi_pipeline.results.export.registry import EXPORTS
from wsi_pipeline.results.slide_result import SlideResult
from wsi_pipeline.store import PatchStore, StoreHeader, StoreWriter, has_store
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

MPP = 0.25
MASK_MPP = 8.0
NAMES = ("tumor", "stroma", "necrosis", "fat")
COLORS = ("#0072b2", "#e69f00", "#009e73", "#d55e00")
EXPORTED = (
    "geojson", "regions", "tissue", "areas", "csv", "ome-tiff", "ome-tiff-float", "anndata",
    "dicom", "ome-zarr",
)  # fmt: skip


@dataclass(frozen=True)
class ExportRow:
    """One export: its time on the clock, what it holds at most, and what it writes."""

    export: str
    tiles: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    written_mib: float


def make_header(side: int, across: int, patch_px: int) -> StoreHeader:
    """Describe a square slide with ``across`` x ``across`` tiles, all kept."""
    rng = np.random.default_rng(0)
    mask_px = round(side * MPP / MASK_MPP)
    noise = cv2.GaussianBlur(rng.random((mask_px, mask_px), dtype=np.float32), (0, 0), 20)
    tissue = noise > np.median(noise)
    step = side // across
    vectors = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    return StoreHeader(
        slide=SlideInfo(
            slide_id="square",
            size_wh=(side, side),
            mpp=MPP,
            mpp_source=MppSource.VENDOR,
            level_sizes_wh=((side, side),),
            level_downsamples=(1.0,),
            reader="tiff",
            vendor="aperio",
        ),
        grid=TileGrid(
            level=0,
            downsample=1.0,
            read_px=step,
            step_px=step,
            patch_px=patch_px,
            mpp=MPP * step / patch_px,
            reasons=np.full((across, across), TileReason.KEPT, dtype=np.uint8),
            tissue_fraction=np.ones((across, across), dtype=np.float32),
        ),
        stain=StainEstimate(
            matrix=StainMatrix(
                vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
                max_concentration=np.array([1.5, 1.0]),
            ),
            verdict=StainVerdict.OK,
            reasons=(),
            pixel_count=1,
            angle_deg=40.0,
            condition=3.0,
            theta_deg=(10.0, 50.0),
        ),
        mask=TissueMask(
            areas=np.where(tissue, Area.TISSUE, Area.GLASS).astype(np.uint8),
            downsample=(side / mask_px, side / mask_px),
        ),
        thumbnail=np.full((1024, 1024, 3), 230, dtype=np.uint8),
        config={"benchmark": across},
        fingerprint=f"{side}",
    )


def open_store(folder: Path, side: int, across: int, patch_px: int) -> PatchStore:
    """Open the store of such a slide; one that is not there is written, the same patches anew."""
    path = folder / f"square-{side}-{across}-{patch_px}.zarr"
    header = make_header(side, across, patch_px)
    if has_store(path, recipe=header.config, fingerprint=header.fingerprint):
        return PatchStore.open(path)
    writer = StoreWriter.create_or_resume(path, header, StoreConfig())
    drawn = np.random.default_rng(1).integers(0, 60, (256, 2, patch_px, patch_px)).astype(np.uint8)
    drawn = np.stack([cv2.GaussianBlur(p.transpose(1, 2, 0), (0, 0), 3) for p in drawn])
    planes = np.ascontiguousarray(drawn.transpose(0, 3, 1, 2))
    for index in writer.pending():
        shard = writer.shards[index]
        writer.write_shard(index, he=planes[: shard.stop - shard.start])
    return writer.seal()


def predict(store: PatchStore) -> Predictions:
    """Make up probabilities that change over some tiles, as those of tissue do."""
    rng = np.random.default_rng(2)
    fields = [
        cv2.GaussianBlur(rng.random(store.grid_shape, dtype=np.float32), (0, 0), 3) for _ in NAMES
    ]
    logits = np.stack(fields, axis=-1)[tuple(store.rc.T)] * 60
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return Predictions(
        prob=(weights / weights.sum(axis=1, keepdims=True)).astype(np.float32),
        xy=store.xy,
        rc=store.rc,
        shape=store.grid_shape,
        extent=store.extent,
        pitch=store.pitch,
        class_names=NAMES,
        class_colors=COLORS,
    )


def _one(folder: Path, name: str, side: int, across: int, patch_px: int) -> ExportRow:
    """Run one export in this process."""
    store = open_store(folder, side, across, patch_px)
    result = SlideResult(records=store, found=predict(store))
    path = folder / EXPORTS.get(name).file.format(slide_id="square")
    begin, cpu = time.perf_counter(), time.process_time()
    EXPORTS.get(name).write(path, result)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return ExportRow(
        export=name,
        tiles=len(store),
        seconds=round(seconds, 2),
        cpu_seconds=round(cpu, 2),
        peak_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        written_mib=round(sum(file.stat().st_size for file in files) / 2**20, 1),
    )


def measure(folder: Path, side: int, across: int, patch_px: int) -> list[ExportRow]:
    """Run every export, each in a new process."""
    open_store(folder, side, across, patch_px)
    rows = []
    for name in EXPORTED:
        arguments = [str(folder), "--side", str(side), "--tiles", str(across)]
        command = [sys.executable, __file__, *arguments, "--patch", str(patch_px), "--one", name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(ExportRow(**json.loads(done.stdout.splitlines()[-1])))
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=80_000)
    parser.add_argument("--tiles", type=int, default=317)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--one", choices=EXPORTED)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.one is not None:
        row = _one(options.folder, options.one, options.side, options.tiles, options.patch)
        print(json.dumps(asdict(row)))
        return
    rows = measure(options.folder, options.side, options.tiles, options.patch)
    columns = [field.name.replace("_", " ") for field in fields(ExportRow)]
    print(table(columns, [list(asdict(row).values()) for row in rows]))


if __name__ == "__main__":
    main()
