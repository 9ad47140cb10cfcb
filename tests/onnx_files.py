"""Small networks written as ONNX files, with what is said of them beside."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

GLASS, TISSUE, PEN = 0, 1, 2
INKS = ((20, 20, 30), (30, 60, 170), (20, 120, 60))


def write_network(network: nn.Module, file: Path, example: Tensor, *, any_size: bool) -> None:
    """Export a network for any number of pictures."""
    free = {0: "count", **({2: "height", 3: "width"} if any_size else {})}
    with warnings.catch_warnings():
        # the newer way to export needs one package more
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(),
            (example,),
            str(file),
            input_names=["pictures"],
            output_names=["found"],
            dynamic_axes={"pictures": free, "found": free if any_size else {0: "count"}},
            dynamo=False,
        )


def inked(
    rgb: NDArray[np.uint8], tissue: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw strokes of a pen over an overview; returns it and what each pixel shows."""
    shown, truth = rgb.copy(), np.where(tissue, TISSUE, GLASS).astype(np.uint8)
    side = min(truth.shape)
    for ink in INKS:
        course = rng.integers(0, side, (3, 2)).astype(np.int32)
        cv2.polylines(shown, [course], False, ink, 5)
        cv2.polylines(truth, [course], False, (PEN,), 5)
    return shown, truth


def train_segmenter(pictures: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> nn.Module:
    """Train a network of three layers to name the areas of pictures of one size."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 12, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(12, 3, 1),
    )
    shown = np.stack([picture for picture, _ in pictures])
    inputs = (torch.from_numpy(shown).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    targets = torch.from_numpy(np.stack([truth for _, truth in pictures])).long()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(120):
        loss = nn.functional.cross_entropy(network(inputs), targets)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network


SEGMENTER_CARD = """\
mpp = 8.0
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
areas = ["glass", "tissue", "pen"]
"""

ENCODER_CARD = """\
[colours]
title = "Mean colours, trained on nothing"
mpp = 0.5
tile_px = 32
pooling = "own"
features = 6
licence = "none"
[colours.transform]
input_px = 32
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def small_encoder() -> nn.Module:
    """Build an encoder of six features from one seed."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, stride=3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()


def write_encoder(folder: Path) -> Path:
    """Write :func:`small_encoder` as ONNX with its card; returns the network's file."""
    file = folder / "colours.onnx"
    write_network(small_encoder(), file, torch.zeros(2, 3, 32, 32), any_size=False)
    file.with_suffix(".toml").write_text(ENCODER_CARD, encoding="utf-8")
    return file


CLASSIFIER_CARD = """\
name = "brightness"
class_names = ["dark", "bright"]
class_colors = ["#000000", "#eeeeee"]
mpp = 0.5
patch_px = 256
mean = [0.7, 0.6, 0.7]
std = [0.25, 0.25, 0.25]
trained_on = "nothing"
"""


def write_classifier(folder: Path) -> Path:
    """Write a classifier of two classes with its card; returns the network's file."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    file = folder / "brightness.onnx"
    write_network(network, file, torch.zeros(2, 3, 256, 256), any_size=False)
    file.with_suffix(".toml").write_text(CLASSIFIER_CARD, encoding="utf-8")
    return file
