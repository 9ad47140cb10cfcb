"""How far colour alone goes: a linear classifier on six numbers per patch, no network.

    python benchmarks/methods/colour.py lc.zarr --labels-per-class 20

The six numbers are mean and deviation of R, G and B; for the stains there are four. Where they
already tell the classes apart, a data set says little about what a network sees in tissue, and
methods that take colour away from the network, as stain separation does, have less to work with.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from wsi_models.splits import Split, SplitConfig, split_by_group

from wsi_pipeline.store import PatchStore

PENALTY = 0.01


def main() -> None:
    """Print balanced accuracy on the test groups, mean and spread over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--labels-per-class", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    options = parser.parse_args()
    store = PatchStore.open(options.store)
    label = store.label.astype(np.int64)
    pixels = {
        "RGB": np.moveaxis(store.read_rgb(0, len(store)), -1, 1),
        "stains": store.read_he(0, len(store)),
    }
    for name, values in pixels.items():
        moments = describe(values)
        found = []
        for seed in options.seeds:
            config = SplitConfig(
                validation=0.2, test=0.3, labels_per_class=options.labels_per_class, seed=seed
            )
            split = split_by_group(label, tuple(store.group), config, seed=seed)
            found.append(balanced_accuracy(moments, label, split))
        print(f"{name}: {np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}, {len(found)} seeds")


def describe(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return mean and deviation of each channel of each patch, standardised, (N, 2 C)."""
    flat = values.reshape(*values.shape[:2], -1).astype(np.float32)
    moments = np.concatenate([flat.mean(axis=2), flat.std(axis=2)], axis=1)
    return np.asarray((moments - moments.mean(axis=0)) / moments.std(axis=0), dtype=np.float32)


def balanced_accuracy(
    moments: NDArray[np.float32], label: NDArray[np.int64], split: Split
) -> float:
    """Fit softmax regression to the labelled patches and judge it on the test groups."""
    known, truth = torch.from_numpy(moments[split.labelled]), label[split.labelled]
    layer = torch.nn.Linear(moments.shape[1], int(label.max()) + 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200)

    def loss() -> float:
        optimizer.zero_grad()
        error = functional.cross_entropy(layer(known), torch.from_numpy(truth))
        total: torch.Tensor = error + PENALTY * layer.weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        given = layer(torch.from_numpy(moments[split.test])).argmax(dim=1).numpy()
    wanted = label[split.test]
    return float(np.mean([(given[wanted == code] == code).mean() for code in np.unique(wanted)]))


if __name__ == "__main__":
    main()
