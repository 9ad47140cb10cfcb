"""What tests of the page share: results to look at, a server of its own process, a browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import uvicorn
from numpy.typing import NDArray
from torch import nn

from tests.runs import bluer
from wsi_pipeline.config import PredictConfig, load_config
from wsi_pipeline.learn import FolderLearning
from wsi_pipeline.predict.trained import TrainedEncoder
from wsi_pipeline.run.slides import RunOptions, run_slides
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.types import EncoderSpec
from wsi_pipeline.view.app import View, make_app
from wsi_pipeline.view.folder import ResultsFolder
from wsi_pipeline.view.guard import Guard

if TYPE_CHECKING:
    from tests.known import KnownSlide

BROWSER_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

REQUIRED = "WSI_BROWSER_REQUIRED"
"""Set where tests that need a browser must not be skipped."""


def make_results(known: KnownSlide, out: Path, *names: str, patch_px: int = 256) -> Path:
    """Run a model whose answers are known on slides of the known slide's pixels."""
    jobs = [SlideJob(path=known.path, slide_id=name) for name in names or ("known",)]
    config = load_config(base={"tile": {"mpp": 0.5, "patch_size": patch_px}})
    model = bluer()
    model = replace(model, spec=replace(model.spec, patch_px=patch_px))
    run_slides(jobs, RunOptions(out=out, config=config, workers=1), model=model)
    return out


class Colours(nn.Module):
    """An encoder without weights: mean and spread of each colour."""

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        return torch.cat([rgb.mean(dim=(2, 3)), rgb.std(dim=(2, 3))], dim=1)


def colours() -> TrainedEncoder:
    """An encoder that tells classes of the synthetic slide apart in milliseconds."""
    spec = EncoderSpec(
        name="colours",
        mpp=0.5,
        patch_px=64,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        input="rgb",
        features=6,
    )
    return TrainedEncoder(module=Colours(), spec=spec, fingerprint="c" * 64, trained_on="nothing")


def view_of(out: Path, **options: Any) -> View:
    """A folder of results as the page has it, with an encoder that needs no weights."""
    folder = ResultsFolder(out, **options)
    config = PredictConfig(device="cpu")
    return View(
        folder,
        lambda slides: FolderLearning(
            source=slides, encoder=colours(), config=config, work=folder.work
        ),
    )


@contextmanager
def served_here(out: Path, port: int = 0) -> Iterator[str]:
    """Serve the page from a thread of this process, for tests that are not about the command."""
    listening = socket.create_server(("127.0.0.1", port))
    guarded = Guard(make_app(view_of(out)))
    server = uvicorn.Server(
        uvicorn.Config(guarded, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    )
    thread = Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()


@contextmanager
def served(out: Path, *options: str) -> Iterator[str]:
    """Run ``wsi-pipeline view`` as a person does, and yield the address it prints."""
    command = [sys.executable, "-c", "from wsi_pipeline.cli import main; main()", "view", str(out)]
    process = subprocess.Popen(
        [*command, "--no-browser", "--port", "0", *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("Open http://"), line
        yield line.removeprefix("Open ").strip().partition("?")[0]
    finally:
        process.terminate()
        process.wait(timeout=120)  # it ends after the batch that the encoder is at
        process.stdout.close()


def find_browser() -> str:
    """Return Chromium; without one the test is skipped, or fails where it must not be."""
    found = os.environ.get("WSI_BROWSER") or shutil.which("chromium") or shutil.which("chrome")
    if found is None:
        why = "there is no chromium; install it, or name a browser in WSI_BROWSER"
        if os.environ.get(REQUIRED):
            pytest.fail(why)
        pytest.skip(why)
    return found


def pure_tiles(known: KnownSlide, xy: NDArray[np.int64], side: int) -> NDArray[np.str_]:
    """Name the class of each tile that shows little else; empty for the others."""
    truth, step = known.truth.class_map, known.truth.downsample
    names = []
    for x, y in xy.tolist():
        part = truth[int(y / step) : int((y + side) / step), int(x / step) : int((x + side) / step)]
        code = int(np.bincount(part.ravel()).argmax())
        pure = code > 0 and (part == code).mean() > 0.9
        names.append(known.truth.class_names[code] if pure else "")
    return np.array(names)
