"""A slide -> seconds that other ways of writing patches take, in their own environment.

Usage: ``PEERS/bin/python benchmarks/peers_preprocess.py SLIDE PLACES.npy FOLDER`` in the
environment that ``peers.sh`` made. Prints JSON: patches, seconds and bytes of each way. Nothing of
this project is imported. The first is the package hs2p as its user starts it, with two workers,
OpenSlide and no previews; the second is the flow of CLAM, which is not on PyPI, in our own words:
OpenSlide reads one patch after the other and HDF5 takes each as it is. The second is given the
places, so finding the tissue costs it nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PATCH_PX = 256
WORKERS = 2


def hs2p(slide: Path, folder: Path) -> dict[str, float]:
    """Run the command of hs2p; its start, about a second, is counted."""
    out = folder / "hs2p"
    table, config = folder / "slides.csv", folder / "hs2p.yaml"
    table.write_text(
        f"sample_id,image_path,spacing_at_level_0\n{slide.stem},{slide},0.5\n", encoding="utf-8"
    )
    config.write_text(
        f"csv: {table}\noutput_dir: {out}\nsave_tiles: true\n"
        "tiling:\n  backend: openslide\n"
        "  preview:\n    save_mask_preview: false\n    save_tiling_preview: false\n"
        f"speed:\n  num_workers: {WORKERS}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "hs2p", "--skip-datetime", str(config)]
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    (tar,) = out.rglob("*.tar")
    with tarfile.open(tar) as tiles:
        patches = len(tiles.getnames())
    return {"patches": patches, "seconds": seconds, "bytes": tar.stat().st_size}


def openslide_hdf5(slide: Path, places: NDArray[np.int64], folder: Path) -> dict[str, float]:
    """Append patches, one by one, to an array of HDF5 that grows."""
    import h5py
    from openslide import OpenSlide

    path = folder / "patches.h5"
    shape = (PATCH_PX, PATCH_PX, 3)
    begin = time.perf_counter()
    with OpenSlide(slide) as opened, h5py.File(path, "w") as file:
        images = file.create_dataset(
            "imgs", (0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype=np.uint8
        )
        for index, (x, y) in enumerate(places.tolist()):
            patch = opened.read_region((x, y), 0, (PATCH_PX, PATCH_PX)).convert("RGB")
            images.resize(index + 1, axis=0)
            images[index] = np.asarray(patch)
    seconds = time.perf_counter() - begin
    return {"patches": len(places), "seconds": seconds, "bytes": path.stat().st_size}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", type=Path)
    parser.add_argument("places", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    found = {
        f"hs2p, tar of JPEG, {WORKERS} workers": hs2p(options.slide, options.folder),
        "OpenSlide and HDF5, the flow of CLAM": openslide_hdf5(
            options.slide, np.load(options.places), options.folder
        ),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
