"""RGB patches -> milliseconds in which other packages separate one into its stains.

Usage: ``PEERS/bin/python benchmarks/peers_unmix.py PATCHES.npy`` in the environment that
``peers.sh`` made. Prints JSON: the name of each peer and its figure, or why it has none. One
thread, best of some turns. Nothing of this project is imported, and none of the results is rounded
to 8 bits, as the peers leave that to their user.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
Separate = Callable[[RGB], object]

REPEATS = 3


def scikit_image(_: RGB) -> Separate:
    """Separate by the fixed vectors of Ruifrok and Johnston."""
    from skimage.color import rgb2hed

    return rgb2hed  # type: ignore[no-any-return]


def torchstain(backend: str, first: RGB) -> Separate:
    """Normalise, which estimates the matrix of each patch again: it has no call for less."""
    import torch
    from torchstain import normalizers  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    normaliser: Any = normalizers.MacenkoNormalizer(backend=backend)

    def given(rgb: RGB) -> Any:  # noqa: ANN401 - a tensor or an array
        return rgb if backend == "numpy" else torch.from_numpy(rgb).permute(2, 0, 1)

    normaliser.fit(given(first))
    return lambda rgb: normaliser.normalize(given(rgb), stains=True)


def macenko_pca(first: RGB) -> Separate:
    """Separate by a matrix found once, in single precision."""
    from macenko_pca import (  # type: ignore[import-not-found]
        rgb_color_deconvolution,
        rgb_separate_stains_macenko_pca,
    )

    matrix = rgb_separate_stains_macenko_pca(first.astype(np.float32))
    return lambda rgb: rgb_color_deconvolution(rgb.astype(np.float32), matrix)


PEERS: dict[str, Callable[[RGB], Separate]] = {
    "scikit-image, rgb2hed": scikit_image,
    "macenko-pca, matrix known": macenko_pca,
    "torchstain, numpy, estimates each patch": lambda first: torchstain("numpy", first),
    "torchstain, torch, estimates each patch": lambda first: torchstain("torch", first),
}


def ms_per_patch(separate: Separate, patches: RGB) -> float:
    """Measure one peer, best of some turns."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        for patch in patches:
            separate(patch)
        seconds.append(time.perf_counter() - begin)
    return min(seconds) / len(patches) * 1e3


def measure(patches: RGB) -> dict[str, float | str]:
    """Measure every peer that can be imported."""
    found: dict[str, float | str] = {}
    for name, prepare in PEERS.items():
        try:
            separate = prepare(patches[0])
        except ImportError as error:
            found[name] = f"not installed: {error}"
        else:
            found[name] = ms_per_patch(separate, patches)
    return found


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patches", type=Path)
    print(json.dumps(measure(np.load(parser.parse_args().patches))))


if __name__ == "__main__":
    main()
