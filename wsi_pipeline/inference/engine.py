"""A feed of patches, a network and devices -> what it gives of all patches, in order.

Reads ahead in threads, copies while a device computes, and halves batches that do not fit. What
the numbers mean, and what becomes of them, is not known here.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsi_files.cores import asked_threads, usable_cores
from wsi_pipeline.config import Precision, PredictConfig
from wsi_pipeline.errors import ConfigError, ModelMismatchError
from wsi_pipeline.inference.batches import automatic_batch_size
from wsi_pipeline.inference.devices import arithmetic
from wsi_pipeline.inference.folding import fold_batch_norms
from wsi_pipeline.inference.read_ahead import read_ahead

if TYPE_CHECKING:
    from wsi_pipeline.inference.feeds import Feed
    from wsi_pipeline.types import Progress

READ_PATCHES = 32
"""Fewest patches read at once; more where a batch is larger."""

BATCHES_AHEAD = 2
"""Batches that wait for a GPU while it computes another; more would only take its memory."""

HALF = {Precision.FLOAT16: torch.float16, Precision.BFLOAT16: torch.bfloat16}
"""Types that matrix products and convolutions are autocast to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a network gives of a patch.

    Attributes
    ----------
    model : str
        Its name, for messages.
    count : int
        Numbers per patch.
    what : str
        What they are, in words.
    published_with : str
        Arithmetic it was published with; empty if that does not matter.
    """

    model: str
    count: int
    what: str = "classes"
    published_with: str = ""


def run_network(
    model: nn.Module,
    feed: Feed,
    outputs: Outputs,
    devices: Sequence[torch.device],
    config: PredictConfig,
    progress: Progress,
) -> Tensor:
    """Compute the outputs of all patches, such as logits or features.

    Parameters
    ----------
    model : Module
        Maps (B, C, p, p) float32 input to (B, K). It is moved to the first device and run in
        evaluation mode; its training flags are put back.
    feed : Feed
        The patches.
    outputs : Outputs
        Whose they are and how many, K.
    devices : sequence of torch.device
        Where to compute. Each takes the next block of patches when it is done with its last.
    config : PredictConfig
        Batch size and precision.
    progress : Progress
        Told of every batch.

    Returns
    -------
    Tensor of shape (N, K), float32
        On the host, in the order of the feed.

    Raises
    ------
    ModelMismatchError
        If the model gives another number of outputs than it says.
    ConfigError
        If not even one patch fits into the memory of a device.
    """
    if not feed.count:
        return torch.empty((0, outputs.count))
    _settle_threads()
    with _evaluating(model):
        replicas = _replicate(model, feed, outputs, devices, config)
        size = min(replica.batch_size for replica in replicas)
        blocks = read_ahead(
            feed.read,
            feed.count,
            size * -(-READ_PATCHES // size),
            crop_px=feed.patch_px,
            readers=feed.readers or _default_readers(devices),
            pin=any(device.type == "cuda" for device in devices),
        )
        shared = _SharedBlocks(blocks, progress)
        first, *others = replicas
        with ThreadPoolExecutor(len(replicas), "predict") as pool, closing(shared):
            consumed = [pool.submit(replica.consume, shared) for replica in others]
            # in the thread that has computed before: a second one, with an OpenMP team of its own,
            # is slower by a third on a processor (docs/adr/0010)
            first.consume(shared)
            for future in consumed:
                future.result()
        total, *parts = (replica.given.cpu() for replica in replicas)
        for part in parts:  # every row was written by one replica and is zero in the others
            total += part
        return total


def _settle_threads() -> None:
    """Compute with no more threads than there are cores for this process."""
    torch.set_num_threads(asked_threads() or min(torch.get_num_threads(), usable_cores()))


def _default_readers(devices: Sequence[torch.device]) -> int:
    """Count the readers: a network fills a processor, but starves on a GPU that one core feeds."""
    on_processor = all(device.type == "cpu" for device in devices)
    cores = usable_cores()
    return 1 if on_processor else min(cores, 4 * len(devices))


def _replicate(
    model: nn.Module,
    feed: Feed,
    outputs: Outputs,
    devices: Sequence[torch.device],
    config: PredictConfig,
) -> list[_Replica]:
    """Put a network, input stage and all, on every device and find the size of its batches."""
    model.to(device=devices[0], memory_format=torch.channels_last)  # type: ignore[call-overload]
    patches = _example(feed).to(devices[0])
    to_input = feed.to_input.to(devices[0])
    if config.precision is not Precision.FLOAT32 and not outputs.published_with:
        with torch.no_grad():
            model = fold_batch_norms(model, to_input(patches))
    network = nn.Sequential(to_input, model)
    networks = [network, *(copy.deepcopy(network).to(device) for device in devices[1:])]
    replicas = []
    for device, copied in zip(devices, networks, strict=True):
        precision = arithmetic(device, config.precision, outputs.published_with)
        replica = _Replica(copied, device, outputs, feed.count, precision)
        with replica.running():
            replica.batch_size = (
                automatic_batch_size(copied, patches.to(device), feed.count)
                if config.batch_size == "auto"
                else config.batch_size
            )
        replicas.append(replica)
    return replicas


def _example(feed: Feed) -> Tensor:
    """Make up two patches as the feed gives them."""
    noise = torch.Generator().manual_seed(0)
    shape = (2, feed.channels, feed.patch_px, feed.patch_px)
    return torch.randint(0, 256, shape, generator=noise, dtype=torch.uint8)


class _SharedBlocks:
    """Hands the blocks of one stream to several threads and counts the patches done."""

    def __init__(
        self, blocks: Generator[tuple[int, Tensor], None, None], progress: Progress
    ) -> None:
        self._blocks = blocks
        self._progress = progress
        self._taking, self._counting = Lock(), Lock()

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return self

    def __next__(self) -> tuple[int, Tensor]:
        with self._taking:
            return next(self._blocks)

    def done(self, patches: int) -> None:
        """Count patches that a device has been given."""
        with self._counting:
            self._progress.advance(patches)

    def close(self) -> None:
        """End the stream for every thread."""
        with self._taking:
            self._blocks.close()


class _Replica:
    """A network on one device, which takes block after block and keeps what it gives there."""

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        outputs: Outputs,
        count: int,
        precision: Precision,
    ) -> None:
        self.batch_size = 1
        self.given = torch.zeros((count, outputs.count), device=device)
        self._network = network
        self._device = device
        self._outputs = outputs
        self._half = HALF.get(precision)
        self._lane = _CudaLane(device) if device.type == "cuda" else _Lane(device)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Set what torch keeps per thread."""
        with (
            torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext(),
            torch.inference_mode(),
            nullcontext()
            if self._half is None
            else torch.autocast(self._device.type, dtype=self._half),
        ):
            yield

    def consume(self, blocks: _SharedBlocks) -> None:
        """Compute the outputs of blocks until there are none; an error ends the stream for all."""
        with closing(blocks), self.running():
            for start, patches in blocks:
                at = 0
                while at < len(patches):
                    batch = patches[at : at + self.batch_size]
                    try:
                        self._compute(start + at, batch)
                    except torch.OutOfMemoryError as error:
                        self._halve(batch, error)
                        continue
                    at += len(batch)
                    blocks.done(len(batch))

    def _compute(self, start: int, batch: Tensor) -> None:
        given = self._network(self._lane.carry(batch))
        expected = (len(batch), self._outputs.count)
        if tuple(given.shape) != expected:
            raise ModelMismatchError(
                f"model {self._outputs.model} gave an output of shape {tuple(given.shape)} for "
                f"{len(batch)} patches and {expected[1]} {self._outputs.what}, expected "
                f"{expected}; check its description"
            )
        self.given[start : start + len(batch)] = given
        self._lane.launched()

    def _halve(self, tried: Tensor, error: torch.OutOfMemoryError) -> None:
        if len(tried) == 1:
            raise ConfigError(
                f"{self._device} has no memory for a single patch of {tried.shape[-1]} px: "
                f"{str(error).splitlines()[0]}; use --device cpu, or free its memory"
            ) from error
        self.batch_size = len(tried) // 2


class _Lane:
    """Carries batches to a device that shares the host's memory, or copies while it waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def carry(self, batch: Tensor) -> Tensor:
        """Return the batch on the device."""
        return batch.to(self._device)

    def launched(self) -> None:
        """Note that all work on the last batch has been asked for."""


class _CudaLane(_Lane):
    """Copies pinned batches in a stream of their own, a bounded number ahead of the computation."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._in_flight: deque[torch.cuda.Event] = deque()

    def carry(self, batch: Tensor) -> Tensor:
        with torch.cuda.stream(self._copies):
            carried = batch.to(self._device, non_blocking=True)
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copies)
        carried.record_stream(computing)  # its memory is free once the computation is past it
        return carried

    def launched(self) -> None:
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._in_flight.append(event)
        if len(self._in_flight) > BATCHES_AHEAD:
            self._in_flight.popleft().synchronize()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and every module's own flag back afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
