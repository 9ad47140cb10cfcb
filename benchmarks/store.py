"""Real H/E patches -> size and speed of a patch store for each codec and chunk size.

Usage: ``python benchmarks/store.py SLIDE [--patches 512] [--rgb]``. Prints a Markdown table. Codecs
are measured bare, on one thread; what a whole store costs is measured with our own code, with
zarr-python and, where the package ``zarrs`` is installed, with its Rust pipeline. Times are of the
processor, all threads together, on warm files, best of three runs: they compare codecs and code,
not disks, and stay comparable when others use the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import zarr
from numcodecs import blosc, zstd
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from wsi_pipeline.config import load_config
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.store.shards import COMPRESSOR, LEVEL, ShardLayout, write_shard_file

SHARD_PATCHES = 256
REPEATS = 3
CHUNKS = (1, 4, 16, 64)


@dataclass(frozen=True)
class StoreRow:
    """Size of a patch, and milliseconds that it takes to write and read one of many, or one alone.

    ``code`` is what wrote and read it; ``one_ms`` is NaN where only the codec was measured.
    """

    code: str
    codec: str
    chunk_patches: int
    kib: float
    write_ms: float
    read_ms: float
    one_ms: float = float("nan")


Encode = Callable[[NDArray[Any]], bytes]
Decode = Callable[[bytes], object]


def codecs() -> Iterator[tuple[str, Encode, Decode]]:
    """Yield the candidates: name, encoder, decoder."""
    for shuffle, name in ((blosc.NOSHUFFLE, ""), (blosc.BITSHUFFLE, ", bit shuffle")):
        for family, level in (("lz4", 1), ("lz4", 5), ("zstd", 1), ("zstd", 3)):
            yield f"blosc {family} {level}{name}", _blosc(family, level, shuffle), blosc.decompress
    for level in (1, 3):
        yield f"zstd {level}", _zstd(level), zstd.decompress
    yield "PNG per plane", _per_plane(imagecodecs.png_encode), _no_decoding
    yield "JPEG-LS per plane", _per_plane(imagecodecs.jpegls_encode), _no_decoding


def _blosc(family: str, level: int, shuffle: int) -> Encode:
    return lambda patches: blosc.compress(patches, family.encode(), level, shuffle, typesize=1)


def _zstd(level: int) -> Encode:
    return lambda patches: zstd.compress(patches, level)


def _per_plane(encode: Encode) -> Encode:
    return lambda patches: b"".join(
        encode(plane) for plane in patches.reshape(-1, *patches.shape[-2:])
    )


def _no_decoding(_: bytes) -> None:
    """Stand in where only the size matters."""


def timed(work: Callable[[], object]) -> float:
    """Return the least processor time of some work, seconds."""
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure_codec(
    patches: NDArray[np.uint8], name: str, encode: Encode, decode: Decode
) -> StoreRow:
    """Measure a codec on patches one by one."""
    encoded = [encode(patch) for patch in patches]
    n = len(patches)
    return StoreRow(
        code="codec alone",
        codec=name,
        chunk_patches=1,
        kib=sum(map(len, encoded)) / n / 1024,
        write_ms=timed(lambda: [encode(patch) for patch in patches]) / n * 1e3,
        read_ms=timed(lambda: [decode(data) for data in encoded]) / n * 1e3,
    )


def measure_ours(patches: NDArray[np.uint8], chunk_patches: int) -> StoreRow:
    """Measure the shards of a patch store."""
    layout = ShardLayout(patches.shape[1:], patches.dtype, chunk_patches, SHARD_PATCHES)
    runs = [(start, start + SHARD_PATCHES) for start in range(0, len(patches), SHARD_PATCHES)]
    target = np.empty((SHARD_PATCHES, *patches.shape[1:]), dtype=patches.dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def write() -> None:
            for start, stop in runs:
                chunks = layout.encode(patches[start:stop])
                write_shard_file(folder / str(start), chunks, layout.index(chunks))

        def read() -> None:
            for start, stop in runs:
                layout.read(folder / str(start), 0, target[: min(stop, len(patches)) - start])

        def pick() -> None:
            for index in _some(len(patches)):
                start = index - index % SHARD_PATCHES
                layout.read(folder / str(start), index - start, target[:1])

        return _row("ours", chunk_patches, patches, folder, (write, read, pick))


def measure_zarr(patches: NDArray[np.uint8], chunk_patches: int, code: str) -> StoreRow:
    """Measure zarr-python, or zarrs underneath it."""
    codec = BloscCodec(cname=COMPRESSOR, clevel=LEVEL, shuffle="bitshuffle", typesize=1)
    pipeline = {"zarrs": {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}}.get(code, {})
    runs = [slice(start, start + SHARD_PATCHES) for start in range(0, len(patches), SHARD_PATCHES)]
    with tempfile.TemporaryDirectory() as name, zarr.config.set(pipeline):
        array: zarr.Array[Any] = zarr.create_array(
            name,
            name="he",
            shape=patches.shape,
            dtype=patches.dtype,
            shards=(SHARD_PATCHES, *patches.shape[1:]),
            chunks=(chunk_patches, *patches.shape[1:]),
            compressors=(codec, Crc32cCodec()),
        )

        def write() -> None:
            for run in runs:
                array[run] = patches[run]

        def read() -> None:
            for run in runs:
                _ = array[run]

        def pick() -> None:
            for index in _some(len(patches)):
                _ = array[index]

        return _row(code, chunk_patches, patches, Path(name), (write, read, pick))


def _some(count: int) -> list[int]:
    chosen: list[int] = np.random.default_rng(0).permutation(count)[:64].tolist()
    return chosen


def _row(
    code: str,
    chunk_patches: int,
    patches: NDArray[np.uint8],
    folder: Path,
    work: tuple[Callable[[], None], Callable[[], None], Callable[[], None]],
) -> StoreRow:
    n = len(patches)
    write, read, one = (timed(step) for step in work)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return StoreRow(
        code=code,
        codec=f"blosc {COMPRESSOR} {LEVEL}, bit shuffle",
        chunk_patches=chunk_patches,
        kib=size / n / 1024,
        write_ms=write / n * 1e3,
        read_ms=read / n * 1e3,
        one_ms=one / len(_some(n)) * 1e3,
    )


def measure(patches: NDArray[np.uint8]) -> Iterator[StoreRow]:
    """Measure every codec, then the chosen one in every code and chunk size."""
    for name, encode, decode in codecs():
        yield measure_codec(patches, name, encode, decode)
    zarrs = ("zarrs",) if importlib.util.find_spec("zarrs") else ()
    for chunk_patches in CHUNKS:
        yield measure_ours(patches, chunk_patches)
        for code in ("zarr-python", *zarrs):
            yield measure_zarr(patches, chunk_patches, code)


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
    """Print the rows as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--rgb", action="store_true")
    options = parser.parse_args()
    patches = load_patches(options.slide, options.patches, rgb=options.rgb)
    print(f"{len(patches)} patches of {patches[0].nbytes / 1024:.0f} KiB\n")
    print("| code | codec | chunk | KiB | write ms | read ms | one alone ms |")
    print("|---|---|---|---|---|---|---|")
    for row in measure(patches):
        print(
            f"| {row.code} | {row.codec} | {row.chunk_patches} | {row.kib:.1f} "
            f"| {row.write_ms:.3f} | {row.read_ms:.3f} | {row.one_ms:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
