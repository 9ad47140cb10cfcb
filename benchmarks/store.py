"""Real H/E patches -> size and speed of a patch store for each codec and chunk size.

Usage: ``python benchmarks/store.py SLIDE [--patches 512] [--rgb]``. Prints a Markdown table. Speeds
are per second of processor time, all threads together, on warm files, best of three runs: they
compare codecs, not disks, and stay comparable when others use the machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from wsi_pipeline.config import load_config
from wsi_pipeline.inputs import SlideJob
from wsi_pipeline.preprocess import preprocess_slide

if TYPE_CHECKING:
    from zarr.abc.codec import BytesBytesCodec

SHARD_PATCHES = 256
REPEATS = 3


def codecs() -> Iterator[tuple[str, tuple[BytesBytesCodec, ...]]]:
    """Yield the candidates by name."""
    yield "none", ()
    for level in (1, 3):
        yield f"zstd {level}", (ZstdCodec(level=level),)
    for shuffle in ("noshuffle", "bitshuffle"):
        for name, level in (("lz4", 1), ("lz4", 5), ("zstd", 1), ("zstd", 3)):
            codec = BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=1)  # type: ignore[arg-type]
            yield f"blosc {name} {level} {shuffle}", (codec,)


def timed(work: Callable[[], object]) -> float:
    """Return the least processor time of some work, seconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(
    patches: NDArray[np.uint8], chunk_patches: int, compressors: tuple[BytesBytesCodec, ...]
) -> tuple[float, float, float, float]:
    """Return KiB per patch, MB/s to write and to read, and ms to read one patch at random."""
    n = len(patches)
    order = np.random.default_rng(0).permutation(n)[:64]
    with tempfile.TemporaryDirectory() as folder:
        array: zarr.Array[Any] = zarr.create_array(
            folder,
            name="he",
            shape=patches.shape,
            dtype=patches.dtype,
            shards=(SHARD_PATCHES, *patches.shape[1:]),
            chunks=(chunk_patches, *patches.shape[1:]),
            compressors=(*compressors, Crc32cCodec()),
        )

        def write() -> None:
            for start in range(0, n, SHARD_PATCHES):
                array[start : start + SHARD_PATCHES] = patches[start : start + SHARD_PATCHES]

        def read() -> None:
            for start in range(0, n, SHARD_PATCHES):
                _ = array[start : start + SHARD_PATCHES]

        def pick() -> None:
            for index in order:
                _ = array[int(index)]

        written = timed(write)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        megabytes = patches.nbytes / 1e6
        return (
            size / n / 1024,
            megabytes / written,
            megabytes / timed(read),
            timed(pick) / len(order) * 1e3,
        )


def load_patches(slide: Path, count: int, *, rgb: bool) -> NDArray[np.uint8]:
    """Cut real patches; those of small slides are repeated in another order."""
    config = load_config(
        None, {"tile": {"mpp": 0.25, "patch_size": 256}, "store": {"keep_rgb": rgb}}
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patches.zarr"
        store = preprocess_slide(SlideJob(path=slide, slide_id=slide.stem), path, config).store
        patches = (store.read_rgb if rgb else store.read_he)(0, len(store))
    return np.asarray(np.resize(patches, (count, *patches.shape[1:])), dtype=np.uint8)


def main() -> None:
    """Measure every codec with chunks of 16, then the chosen codec with other chunks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--rgb", action="store_true")
    options = parser.parse_args()
    patches = load_patches(options.slide, options.patches, rgb=options.rgb)
    print(f"{len(patches)} patches of {patches[0].nbytes / 1024:.0f} KiB")
    print("| codec | chunk | KiB/patch | write MB/s | read MB/s | one patch ms |")
    print("|---|---|---|---|---|---|")
    chosen = (BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=1),)
    cases = [(name, 16, codec) for name, codec in codecs()]
    cases += [("blosc lz4 5 bitshuffle", chunk, chosen) for chunk in (1, 4, 8, 16, 32, 64)]
    for name, chunk, compressors in cases:
        size, write, read, pick = measure(patches, chunk, compressors)
        print(f"| {name} | {chunk} | {size:.1f} | {write:.0f} | {read:.0f} | {pick:.2f} |")


if __name__ == "__main__":
    main()
