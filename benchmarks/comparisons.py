"""Our own figures and an environment of peers -> tables of both, measured in the same run.

The peers run in their own interpreter (``peers_unmix.py``, ``peers_preprocess.py``), so that their
requirements never meet ours. Without that environment the tables say so and hold no figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from preprocess import preprocess_afresh
from slides import UNIT_PX, repeated_slide
from tables import table

HERE = Path(__file__).parent
WORKERS = 2
NO_PEERS = "Peers were not measured: none are installed (`sh benchmarks/peers.sh FOLDER`).\n"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _run(peers: Path, script: str, *arguments: Path, one_thread: bool = False) -> dict[str, Any]:
    command = [str(peers / "bin" / "python"), str(HERE / script), *map(str, arguments)]
    environment = {**os.environ, **(ONE_THREAD if one_thread else {})}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def unmix_peers(patches: list[NDArray[np.uint8]], ours_ms: float, peers: Path | None) -> str:
    """Compare our time per patch with that of packages that separate stains."""
    if peers is None:
        return NO_PEERS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "patches.npy"
        np.save(path, np.stack(patches))
        found = _run(peers, "peers_unmix.py", path, one_thread=True)
    return table(
        ("peer", "ms per patch", "of ours"),
        (
            (name, ms, "") if isinstance(ms, str) else (name, f"{ms:.3f}", f"{ms / ours_ms:.1f}")
            for name, ms in found.items()
        ),
    )


def writers(folder: Path, side_px: int, peers: Path | None) -> str:
    """Compare preprocessing with other ways to write the patches of the same slide."""
    if peers is None:
        return NO_PEERS
    slide = repeated_slide(folder, side_px)
    path = slide.with_suffix(".writers.zarr")
    preprocess_afresh(repeated_slide(folder, UNIT_PX), path, WORKERS)
    begin = time.perf_counter()
    store = preprocess_afresh(slide, path, WORKERS).store
    seconds = time.perf_counter() - begin
    size = sum(file.stat().st_size for file in (path / "he").iterdir())
    ours = {"patches": len(store), "seconds": seconds, "bytes": size}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        places = Path(scratch) / "places.npy"
        np.save(places, store.grid.level_xy)
        found = _run(peers, "peers_preprocess.py", slide.resolve(), places, Path(scratch).resolve())
    shutil.rmtree(path)
    rate = ours["patches"] / ours["seconds"]
    return table(
        ("writer", "patches", "s", "patches/s", "KiB per patch", "ours is faster"),
        (
            (
                name,
                row["patches"],
                f"{row['seconds']:.2f}",
                f"{row['patches'] / row['seconds']:,.0f}",
                f"{row['bytes'] / row['patches'] / 1024:.1f}",
                f"{rate * row['seconds'] / row['patches']:.1f} times",
            )
            for name, row in {f"ours, H/E in Zarr, {WORKERS} workers": ours, **found}.items()
        ),
    )
