"""A made-up slide -> how near inference comes to its limits: reading, decoding, and the model.

Usage: ``python benchmarks/inference.py [--side 36864] [--device auto] [--folder DIR]``. Prints a
Markdown table. Both sides of a ratio are measured in turns, in one run, and the best of three
rounds counts. What is compared with a model is measured under way, from the first batch to the
last; what is compared with decoding, from opening the slide to the last prediction.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
from decode import compressed_tiles, decode
from slides import repeated_slide
from torch import Tensor, nn
from wsi_models.networks.description import StainPairConfig, build_network
from wsi_models.parts.backbone import ResNet18Config, SmallConfig
from wsi_models.parts.patch_network import Classifier

from wsi_pipeline.config import PipelineConfig, Precision, PredictConfig, load_config
from wsi_pipeline.inference import choose_devices
from wsi_pipeline.inference.batches import LARGEST_BATCH, SMALLEST_BATCH
from wsi_pipeline.inference.devices import arithmetic
from wsi_pipeline.inference.folding import fold_batch_norms
from wsi_pipeline.models import encoder_defaults, load_encoder
from wsi_pipeline.predict.patches import predict_store
from wsi_pipeline.predict.trained import TrainedEncoder
from wsi_pipeline.predict.unstored import encode_directly, predict_directly
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.types import EncoderSpec, ModelSpec, PatchSpec

if TYPE_CHECKING:
    from wsi_pipeline.store import PatchStore

ROUNDS = 3
PROCESSOR_SIDE_PX = 4096
"""Side of the slide for models on a processor, on which CLASS-M takes a minute per 1000 patches."""

SPEC = ModelSpec(
    name="benchmark",
    class_names=("a", "b", "c", "d"),
    class_colors=("#d32f2f", "#388e3c", "#fbc02d", "#1976d2"),
    mpp=0.5,
    patch_px=256,
    mean=(0.1, 0.2),
    std=(0.1, 0.15),
)
RGB = replace(SPEC, input="rgb", mean=(0.7, 0.6, 0.7), std=(0.2, 0.2, 0.2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    what : str
        What ran.
    rate : float
        Patches per second.
    limit : str
        What it is compared with, measured in the same run; empty for a limit itself.
    share : float
        ``rate`` over that limit; NaN for a limit itself.
    cpu_share : float
        The same in seconds of the processor, which others on the machine disturb less; NaN where
        it was not measured.
    """

    what: str
    rate: float
    limit: str = ""
    share: float = float("nan")
    cpu_share: float = float("nan")


class Clock:
    """Notes when patches are done: a progress display that shows nothing."""

    def __init__(self) -> None:
        self.done = 0
        self._first: tuple[float, int] | None = None
        self._last = self._last_cpu = self._first_cpu = 0.0

    def start(self, what: str, total: int) -> None:
        """Begin."""

    def advance(self, steps: int = 1) -> None:
        """Note the time."""
        self.done += steps
        self._last, self._last_cpu = time.perf_counter(), time.process_time()
        if self._first is None:
            self._first = (self._last, self.done)
            self._first_cpu = self._last_cpu

    @property
    def rate(self) -> float:
        """Patches per second after the first batch."""
        assert self._first is not None
        began, before = self._first
        return (self.done - before) / (self._last - began)

    @property
    def cpu_per_patch(self) -> float:
        """Seconds of the processor for a patch after the first batch."""
        assert self._first is not None
        return (self._last_cpu - self._first_cpu) / (self.done - self._first[1])


class Nothing(nn.Module):
    """Gives logits without looking."""

    def forward(self, patches: Tensor) -> Tensor:
        """Give zeros, shape (B, 4)."""
        return patches.new_zeros(len(patches), len(SPEC.class_names))


def networks() -> dict[str, nn.Module]:
    """Build the network of CLASS-M and a small one, with random weights."""
    encoders = {
        "CLASS-M (two ResNet-18)": ResNet18Config(weights=None),
        "small (two of 4 blocks)": SmallConfig(planes=(16, 32, 64, 128)),
    }
    return {
        name: Classifier(build_network(StainPairConfig(encoder=encoder), 4, SPEC.patch_px)).eval()
        for name, encoder in encoders.items()
    }


def measure(folder: Path, side_px: int, device: str = "auto") -> list[Row]:
    """Measure everything on one slide.

    Parameters
    ----------
    folder : Path
        For the slide and its store.
    side_px : int
        Width and height of the slide, a multiple of 256 px.
    device : str
        Torch device.

    Returns
    -------
    list of Row
        Limits, and what was reached.
    """
    config = load_config(None, {"predict": {"device": device}})
    workers = len(os.sched_getaffinity(0))
    on_processor = choose_devices(device)[0].type == "cpu"
    small = make_store(folder, min(side_px, PROCESSOR_SIDE_PX), config, workers)
    large = make_store(folder, side_px, config, workers)
    rows = read_rows(large, workers)
    for name, network in networks().items():
        rows += model_rows(name, network, small if on_processor else large, config.predict)
    slide = repeated_slide(folder, side_px)
    job = SlideJob(path=slide, slide_id=slide.stem)
    few = repeated_slide(folder, min(side_px, PROCESSOR_SIDE_PX)) if on_processor else slide
    return [
        *rows,
        *encoder_rows(SlideJob(path=few, slide_id=few.stem), config, workers),
        *direct_rows(job, config, workers),
    ]


def make_store(folder: Path, side_px: int, config: PipelineConfig, workers: int) -> PatchStore:
    """Preprocess a slide of that size."""
    slide = repeated_slide(folder, side_px)
    job = SlideJob(path=slide, slide_id=slide.stem)
    path = folder / f"{slide.stem}.zarr"
    return preprocess_slide(job, path, config, workers=workers, overwrite=True).store


def read_rows(store: PatchStore, workers: int) -> list[Row]:
    """Measure how fast a store comes to host memory, by one thread and by all."""

    def read(threads: int) -> float:
        step = 64
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            starts = range(0, len(store), step)
            ends = (min(start + step, len(store)) for start in starts)
            for patches in pool.map(store.read_he, starts, ends):
                assert len(patches)
        return len(store) / (time.perf_counter() - began)

    counts = sorted({1, workers})
    return [
        Row(what=f"read the store, threads: {n}", rate=max(read(n) for _ in range(ROUNDS)))
        for n in counts
    ]


def model_rows(
    name: str, network: nn.Module, store: PatchStore, config: PredictConfig
) -> list[Row]:
    """Compare store -> predictions with the same network on input that is on the device."""
    device = choose_devices(config.device)[0]
    size = min(LARGEST_BATCH, len(store)) if device.type == "cuda" else SMALLEST_BATCH
    config = config.model_copy(update={"batch_size": size, "device": str(device)})
    patches = torch.randn(size, 2, SPEC.patch_px, SPEC.patch_px, device=device)
    patches = patches.contiguous(memory_format=torch.channels_last)
    with computing(network, patches, config.precision) as forward:
        alone, through = [], []
        for _ in range(ROUNDS):
            alone.append(1 / per_patch(forward, patches, len(store)).seconds)
            clock = Clock()
            predict_store(store, network, SPEC, config, clock)
            through.append(clock.rate)
    precision = arithmetic(device, config.precision)
    limit = f"{name} alone on {device}, batches of {size}, {precision.value}"
    return [
        Row(what=limit, rate=max(alone)),
        Row(
            what=f"store to predictions, {name}",
            rate=max(through),
            limit="the model alone",
            share=max(through) / max(alone),
        ),
    ]


@contextmanager
def computing(network: nn.Module, example: Tensor, precision: Precision) -> Iterator[nn.Module]:
    """Give the network as inference runs it, on the device of an example of its input."""
    device = example.device
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    half = arithmetic(device, precision) is Precision.BFLOAT16
    with torch.no_grad():
        folded = fold_batch_norms(network, example)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
        yield folded


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by the clock, and of the processor."""

    seconds: float
    cpu: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.cpu + other.cpu)

    def __truediv__(self, other: Spent | float) -> Spent:
        if not isinstance(other, Spent):
            other = Spent(other, other)
        return Spent(self.seconds / other.seconds, self.cpu / other.cpu)


def spent(work: Callable[[], object]) -> Spent:
    """Do it and tell what it took."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - began, time.process_time() - cpu)


def rate(tiles: list[bytes], times: list[Spent]) -> float:
    """Tiles in a second, of the fastest round."""
    return len(tiles) / min(time.seconds for time in times)


def per_patch(network: nn.Module, batch: Tensor, count: int) -> Spent:
    """Measure a network that gets the same batch again and again, for ``count`` patches or more."""
    batches = -(-count // len(batch))

    def compute(times: int) -> None:
        for _ in range(times):
            network(batch)
        if batch.device.type == "cuda":
            torch.cuda.synchronize(batch.device)

    compute(1)
    return spent(lambda: compute(batches)) / (batches * len(batch))


def direct_rows(job: SlideJob, config: PipelineConfig, workers: int) -> list[Row]:
    """Compare slide -> predictions, and features, by models that do next to nothing with decoding.

    Time counts from before the slide is opened to the last prediction: mask, tiles and stains too.
    Each is compared with the decoding just before and just after it, and the median counts.
    """
    model, encoder = Nothing(), colour_encoder()
    xy = predict_directly(job, model, SPEC, config, workers=workers).predictions.xy
    tiles = compressed_tiles(job.path, xy)
    ways: dict[str, Callable[[], object]] = {
        "slide to predictions, no store, a model of stains that does nothing": lambda: (
            predict_directly(job, model, SPEC, config, workers=workers)
        ),
        "slide to predictions, no store, a model of colours that does nothing": lambda: (
            predict_directly(job, model, RGB, config, workers=workers)
        ),
        "slide to features, no store, an encoder of mean colours": lambda: encode_directly(
            job, encoder, config, workers=workers
        ),
        "decode into the cache": lambda: decode(tiles, workers, beside=16),
    }
    limits = [spent(lambda: decode(tiles, workers))]
    found: dict[str, list[Spent]] = {name: [] for name in ways}
    shares: dict[str, list[Spent]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            found[name].append(spent(work))
            limits.append(spent(lambda: decode(tiles, workers)))
            shares[name].append((limits[-2] + limits[-1]) / 2 / found[name][-1])
    return [
        Row(what=f"decode the tiles alone, threads: {workers}", rate=rate(tiles, limits)),
        *(
            Row(
                what=name,
                rate=rate(tiles, times),
                limit="decoding alone",
                share=median(share.seconds for share in shares[name]),
                cpu_share=median(share.cpu for share in shares[name]),
            )
            for name, times in found.items()
        ),
    ]


class MeanColours(nn.Module):
    """The cheapest encoder that looks at every pixel: the mean of each colour."""

    def forward(self, patches: Tensor) -> Tensor:
        """Average by columns first, along which memory runs: half the time of pooling."""
        count, channels, height, width = patches.shape
        rows = patches.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        return rows.mean(dim=1).view(count, width, channels).mean(dim=1)


def colour_encoder() -> TrainedEncoder:
    """Build an encoder that does next to nothing."""
    shared = {field.name: getattr(RGB, field.name) for field in fields(PatchSpec)}
    return TrainedEncoder(
        module=MeanColours(),
        spec=EncoderSpec(**shared, features=3),
        fingerprint="mean colours",
        trained_on="nothing",
    )


def encoder_rows(job: SlideJob, config: PipelineConfig, workers: int) -> list[Row]:
    """Compare slide -> features by EfficientNet-Lite0 with the network on input that is there.

    Reading overlaps with computing; time counts from the first batch to the last. On a processor,
    the threads that compute are those that read.
    """
    encoder = load_encoder("efficientnet-lite0")
    size = SMALLEST_BATCH
    tiles = load_config(None, encoder_defaults(encoder), config.model_dump(mode="json"))
    config = tiles.model_copy(
        update={"predict": config.predict.model_copy(update={"batch_size": size})}
    )
    device = choose_devices(config.predict.device)[0]
    side = encoder.spec.input_px or encoder.spec.patch_px
    example = torch.randn(size, 3, side, side, device=device)
    example = example.contiguous(memory_format=torch.channels_last)
    network = encoder.module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    alone, through, shares = [], [], []
    count = len(encode_directly(job, encoder, config, workers=workers).features)
    # as published, so nothing is folded, as in inference; and in its arithmetic
    with torch.inference_mode():
        for _ in range(ROUNDS):
            limit = per_patch(network, example, count)
            alone.append(1 / limit.seconds)
            clock = Clock()
            encode_directly(job, encoder, config, workers=workers, progress=clock)
            through.append(clock.rate)
            shares.append(limit.cpu / clock.cpu_per_patch)
    return [
        Row(what=f"EfficientNet-Lite0 alone on {device}, batches of {size}", rate=max(alone)),
        Row(
            what="slide to features, no store, EfficientNet-Lite0",
            rate=max(through),
            limit="the model alone",
            share=median(b / a for a, b in zip(alone, through, strict=True)),
            cpu_share=median(shares),
        ),
    ]


def table(rows: list[Row]) -> str:
    """Write rows as Markdown."""
    lines = ["| what | patches/s | of its limit | in CPU seconds |", "|---|---|---|---|"]
    for row in rows:
        share = f"{row.share:.2f} of {row.limit}" if row.limit else ""
        cpu = "" if math.isnan(row.cpu_share) else f"{row.cpu_share:.2f}"
        lines.append(f"| {row.what} | {row.rate:,.0f} | {share} | {cpu} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=36864)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(table(measure(options.folder or Path(scratch), options.side, options.device)))


if __name__ == "__main__":
    main()
