"""Train the embedded model ``demo`` on synthetic slides, measure it on others, write its bundle.

    python examples/train_demo_bundle.py --out models/wsi_models/bundles/demo

Slides with varied stains are drawn, preprocessed as any slide is, and the tiles that lie in one
class train a small CLASS-M network with the cross-entropy of their labels alone: a demonstration
of the path from slides to a bundle, not of the method's losses. Takes some minutes on two CPU
cores. On one machine, equal seeds give equal weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from wsi_models.bundle import BundleConfig, TrainingFacts, save_bundle
from wsi_models.networks import StainPairConfig, build_network
from wsi_models.parts.backbone import SmallConfig
from wsi_models.parts.patch_network import Classifier, PatchNetwork

from wsi_pipeline.cli.models import model_spec
from wsi_pipeline.config import PipelineConfig, PredictConfig, TileConfig
from wsi_pipeline.inputs import SlideJob
from wsi_pipeline.predict import predict_store
from wsi_pipeline.preprocess import preprocess_slide
from wsi_pipeline.synthetic import (
    CLASS_COLORS,
    CLASS_NAMES,
    SyntheticTruth,
    default_stains,
    write_synthetic_slide,
)
from wsi_pipeline.types import STAIN_CONVENTION, StainMatrix

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

CLASSES = CLASS_NAMES[1:]  # the first is bare glass, of which no tile is kept
MPP = 0.5
PATCH_PX = 256
STORED_PX = 288  # leaves room for random crops
PURITY = 0.95
SLIDE_PX = 3072
TRAINING_SEEDS = range(1000, 1012)
TEST_SEEDS = range(2000, 2004)
STAIN_ANGLE_SD_DEG = 2.0
EPOCHS = 5
BATCH = 32
PEAK_RATE = 2e-3
MAX_BLUR_PX = 1.5  # standard deviation
MAX_NOISE = 0.06  # standard deviation, of values in [0, 1]

CARD = """# demo: tissue classes of synthetic slides

A small CLASS-M network (two one-channel residual encoders and a head, {parameters:,} parameters)
that tells {classes} of the **synthetic** slides that
`wsi-pipeline demo` draws. It proves an installation and shows what a bundle is.
**It knows nothing of real tissue: never use it on patients' slides**, where its labels mean
nothing.

**Data.** {train_slides} synthetic slides of {slide_px} x {slide_px} px at {mpp} um/px, with stain
vectors and glass that vary from slide to slide; {train_tiles} tiles, overlapping by half, of which
at least {purity:.0%} is of one class. No patient data.

**Training.** Cross-entropy of the labels alone (label smoothing 0.05), without the contrastive and
the unlabelled loss of CLASS-M; per channel independent flips, quarter turns, crops, brightness,
blur and noise. `{command}` makes this bundle (seed {seed}).

**Results** on {test_slides} slides of other seeds, {test_tiles} tiles (overlapping by half) that
lie in one class: accuracy {accuracy:.3f}, balanced accuracy {balanced_accuracy:.3f}. Rows are the
truth, columns the predictions:

{confusion}

**Limits.** Tiles that hold several classes get one label. The classes are drawn by a program, and
so is what tells them apart.

**Licence.** Apache-2.0, like the code.
"""


@dataclass(frozen=True)
class Tiles:
    """Patches that lie in one class: ``he`` (N, 2, P, P) uint8 and ``label`` (N,) int64."""

    he: Tensor
    label: Tensor


def main() -> None:
    """Parse the options, train, measure, and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and augmentation")
    parser.add_argument("--work", type=Path, help="keeps slides and stores here for another run")
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        training = gather([make_slide(work, seed, STORED_PX) for seed in TRAINING_SEEDS])
        print(f"{len(training.label)} tiles, {time.perf_counter() - begin:.0f} s", flush=True)
        values = training.he.float().div_(255)
        mean, std = values.mean(dim=(0, 2, 3)).tolist(), values.std(dim=(0, 2, 3)).tolist()
        del values
        config = describe(mean, std, options.seed)
        network = train(config, training, options.seed)
        print(f"trained, {time.perf_counter() - begin:.0f} s")
        tests = [make_slide(work, seed, PATCH_PX) for seed in TEST_SEEDS]
        confusion = evaluate(network, config, tests)
    finish(options.out, config, network, confusion, train_tiles=len(training.label))
    print(confusion)
    print(f"wrote {options.out} in {time.perf_counter() - begin:.0f} s")


def make_slide(work: Path, seed: int, patch_px: int) -> tuple[PatchStore, SyntheticTruth]:
    """Draw a slide with stains of its own and preprocess it as any slide is."""
    path, truth_path = work / f"{seed}.tif", work / f"{seed}.npz"
    if not truth_path.is_file():
        size_wh = (SLIDE_PX, SLIDE_PX)
        truth = write_synthetic_slide(path, size_wh, mpp=MPP, seed=seed, stains=vary_stains(seed))
        truth.save(truth_path)
    tile = TileConfig(mpp=MPP, patch_size=patch_px, stride=PATCH_PX // 2)
    job = SlideJob(path=path, slide_id=path.stem)
    made = preprocess_slide(job, path.with_suffix(".zarr"), PipelineConfig(tile=tile), workers=2)
    return made.store, SyntheticTruth.load(truth_path)


def vary_stains(seed: int) -> StainMatrix:
    """Turn the default stain vectors by a few degrees and change the light of the glass."""
    rng = np.random.default_rng(seed)
    usual = default_stains()
    vectors = usual.vectors + rng.normal(0, np.radians(STAIN_ANGLE_SD_DEG), (2, 3))
    return StainMatrix(
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        max_concentration=usual.max_concentration,
        background=np.full(3, rng.uniform(240.0, 252.0)),
    )


def judged(store: PatchStore, truth: SyntheticTruth) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Find the tiles that lie in one class, and the class of every tile as a model counts it."""
    label, purity = truth.label_of(store.xy, store.extent)
    return (purity >= PURITY) & (label > 0), label - 1


def gather(slides: list[tuple[PatchStore, SyntheticTruth]]) -> Tiles:
    """Read the tiles of all slides that lie in one class."""
    patches, labels = [], []
    for store, truth in slides:
        pure, label = judged(store, truth)
        patches.append(torch.from_numpy(store.read_he(0, len(store))[pure]))
        labels.append(torch.from_numpy(label[pure]))
    return Tiles(he=torch.cat(patches), label=torch.cat(labels))


def describe(mean: list[float], std: list[float], seed: int) -> BundleConfig:
    """State all of the bundle but its results."""
    return BundleConfig(
        name="demo",
        method="class-m",
        network=StainPairConfig(encoder=SmallConfig(planes=(16, 32, 64, 128))),
        class_names=CLASSES,
        class_colors=CLASS_COLORS[1:],
        mpp=MPP,
        patch_px=PATCH_PX,
        stain_convention=STAIN_CONVENTION,
        mean=(round(mean[0], 4), round(mean[1], 4)),
        std=(round(std[0], 4), round(std[1], 4)),
        training=TrainingFacts(
            loss="cross-entropy of labelled tiles (label smoothing 0.05); no contrastive and no "
            "unlabelled loss",
            data=f"synthetic slides, seeds {TRAINING_SEEDS.start} to {TRAINING_SEEDS.stop - 1}; "
            f"measured on seeds {TEST_SEEDS.start} to {TEST_SEEDS.stop - 1}",
            seed=seed,
            metrics={},
        ),
    )


def train(config: BundleConfig, tiles: Tiles, seed: int) -> PatchNetwork:
    """Minimise the cross-entropy of batches drawn evenly from the classes."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # sums then have one order, whatever the number of cores
    torch.use_deterministic_algorithms(True)
    network = build_network(config.network, len(CLASSES), PATCH_PX)
    weight = (1 / torch.bincount(tiles.label).double())[tiles.label]
    steps = EPOCHS * len(tiles.label) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    network.train()
    running = 0.0
    for step in range(1, steps + 1):
        chosen = torch.multinomial(weight, BATCH, replacement=True)
        logits = network.classify(augment(tiles.he[chosen], config))
        loss = nn.functional.cross_entropy(logits, tiles.label[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        running += loss.item()
        if step % 50 == 0:
            print(f"step {step} of {steps}: loss {running / 50:.3f}", flush=True)
            running = 0.0
    return network.eval()


def augment(he: Tensor, config: BundleConfig) -> Tensor:
    """Crop, turn, brighten, blur and disturb each channel of each patch, then normalise."""
    views = [[view(channel) for channel in patch] for patch in he.float().div_(255)]
    batch = torch.stack([torch.stack(channels) for channels in views])
    mean, std = (torch.tensor(v).view(1, 2, 1, 1) for v in (config.mean, config.std))
    return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)


def view(channel: Tensor) -> Tensor:
    """Take a random view of one channel, (S, S) -> (PATCH_PX, PATCH_PX), values in [0, 1]."""
    margin = channel.shape[-1] - PATCH_PX + 1
    top, left, turns, flip = (int(torch.randint(high, ())) for high in (margin, margin, 4, 2))
    crop = channel[top : top + PATCH_PX, left : left + PATCH_PX].rot90(turns)
    brightness = 0.9 + 0.2 * torch.rand(())
    turned = (crop.flip(1) if flip else crop).mul(brightness)
    noise = MAX_NOISE * torch.rand(()) * torch.randn_like(turned)
    return blurred(turned, MAX_BLUR_PX * float(torch.rand(()))).add(noise).clamp(0, 1)


def blurred(channel: Tensor, sigma: float) -> Tensor:
    """Blur one channel, (P, P): compression and optics take away what a model should not need."""
    taps = torch.arange(-4, 5)
    kernel = torch.exp(-0.5 * (taps / max(sigma, 0.1)) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    padded = nn.functional.pad(channel[None, None], (4, 4, 4, 4), mode="reflect")
    rows = nn.functional.conv2d(padded, kernel)
    return nn.functional.conv2d(rows, kernel.transpose(2, 3))[0, 0]


def evaluate(
    network: PatchNetwork, config: BundleConfig, slides: list[tuple[PatchStore, SyntheticTruth]]
) -> NDArray[np.int64]:
    """Count predictions on tiles that lie in one class, [truth, prediction]."""
    spec = model_spec(config)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), dtype=np.int64)
    for store, truth in slides:
        predictions = predict_store(store, Classifier(network), spec, PredictConfig())
        pure, label = judged(store, truth)
        np.add.at(confusion, (label[pure], predictions.label[pure]), 1)
    return confusion


def finish(
    folder: Path,
    config: BundleConfig,
    network: PatchNetwork,
    confusion: NDArray[np.int64],
    *,
    train_tiles: int,
) -> None:
    """Put the results into the configuration and the card, and write the bundle."""
    metrics = {
        "accuracy": round(float(confusion.trace() / confusion.sum()), 4),
        "balanced_accuracy": round(float((confusion.diagonal() / confusion.sum(axis=1)).mean()), 4),
    }
    training = config.training.model_copy(update={"metrics": metrics})
    rows = [f"| | {' | '.join(CLASSES)} |", "|---" * (len(CLASSES) + 1) + "|"]
    rows += [
        f"| **{name}** | {' | '.join(map(str, counts))} |"
        for name, counts in zip(CLASSES, confusion.tolist(), strict=True)
    ]
    card = CARD.format(
        parameters=sum(p.numel() for p in network.parameters()),
        classes=f"{', '.join(CLASSES[:-1])} and {CLASSES[-1]}",
        train_slides=len(TRAINING_SEEDS),
        slide_px=SLIDE_PX,
        mpp=MPP,
        train_tiles=train_tiles,
        purity=PURITY,
        command="python examples/train_demo_bundle.py --out FOLDER",
        seed=training.seed,
        test_slides=len(TEST_SEEDS),
        test_tiles=int(confusion.sum()),
        confusion="\n".join(rows),
        **metrics,
    )
    config = config.model_copy(update={"training": training})
    save_bundle(folder, config, network, card, overwrite=True)


if __name__ == "__main__":
    main()
