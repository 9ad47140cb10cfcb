"""What tests of whole runs share: a model whose answers can be computed by hand, and slides."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path, PosixPath

import torch
from torch import nn

from wsi_pipeline.predict.trained import TrainedModel
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.types import ModelSpec


class Bluer(nn.Module):
    """Two classes by which stain is stronger: every probability can be computed by hand."""

    def forward(self, he: torch.Tensor) -> torch.Tensor:
        return 10 * he.mean(dim=(2, 3))


def bluer(mpp: float = 0.5, module: nn.Module | None = None) -> TrainedModel:
    """A model that takes the patches of the known slide."""
    spec = ModelSpec(
        name="bluer",
        class_names=("blue", "pink"),
        class_colors=("#0000ff", "#ff00aa"),
        mpp=mpp,
        patch_px=256,
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
    )
    return TrainedModel(
        module=module or Bluer(), spec=spec, fingerprint="none", trained_on="nothing"
    )


class DeadlyPath(PosixPath):
    """A slide that ends the worker process that opens it, as a crash in a decoder does."""

    def __fspath__(self) -> str:
        if "pytest" not in sys.modules:
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().__fspath__()


class BadIsDeadlyPath(PosixPath):
    """A place below which a worker process dies of what is called bad, and of nothing else."""

    def __fspath__(self) -> str:
        place = super().__fspath__()
        if "pytest" not in sys.modules and "bad" in Path(place).parts:
            os.abort()
        return place


def linked(slide: Path, folder: Path, *names: str) -> list[SlideJob]:
    """Make slides of several names out of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = []
    for name in names:
        path = folder / f"{name}.tif"
        path.symlink_to(slide)
        jobs.append(SlideJob(path=path, slide_id=name))
    return jobs


def results(out: Path) -> dict[str, bytes]:
    """Read all files of patches and predictions below a folder, by relative name."""
    kinds = ("*/patches.zarr/**/*", "*/*/predictions.*")
    files = sorted(file for kind in kinds for file in out.glob(kind) if file.is_file())
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}
