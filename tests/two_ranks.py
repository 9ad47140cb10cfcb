"""Trains every method in one of two processes, and keeps what came of it; run by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from wsi_models.methods import MethodConfig, build_method
from wsi_models.splits import SplitConfig, split_by_group
from wsi_models.task import Task, TrainConfig
from wsi_models.train import train

from tests.contracts.method_contract import CLASSES, NORMALISATION
from tests.test_clustering_methods import TestCluByol, TestCluSiam
from tests.test_methods import TestClass, TestClassM, TestFixMatch, TestMixMatch, TestSupervised
from tests.test_s5cl import TestS5CL
from tests.test_tear import TestTear
from tests.tiny_patches import tiny_batch

# sure of some of their pseudo-labels and not of others, so that ranks differ in what they judge
CONFIGS: tuple[MethodConfig, ...] = (
    TestClassM.config,
    TestClass.config,
    TestSupervised.config,
    TestMixMatch.config,
    TestFixMatch.config.model_copy(update={"threshold": 0.6}),
    TestTear.config.model_copy(update={"threshold": 0.6}),
    TestS5CL.config,
    TestCluSiam.config,
    TestCluByol.config,
)


class Tiny:
    """Tiny patches of known classes, a few of them without a label."""

    classes = ("a", "b", "c")
    patch_px, mpp, stain_convention = 46, 0.5, "macenko-log10-he-v1"
    block: NDArray[np.int64] | None = None

    def __init__(self) -> None:
        self.batch = tiny_batch(CLASSES, 30)
        self.label = self.batch.label.numpy().copy()
        self.label[::7] = -1
        self.group = tuple(f"group {index // 9}" for index in range(len(self.batch)))

    def fetch(self, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        where = torch.from_numpy(np.asarray(indices))
        label = torch.from_numpy(self.label[indices])
        return self.batch.rgb[where], self.batch.unmix[where], label


def main(out: Path) -> None:
    """Train all of them, one after the other."""
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    source, results = Tiny(), []
    split_config = SplitConfig(validation=0.2, test=0.2, labels_per_class=4)
    for number, config in enumerate(CONFIGS):
        torch.manual_seed(0)
        settled = config.settled(2)
        task = Task(
            method=build_method(settled, CLASSES, NORMALISATION),
            source=source,
            split=split_by_group(source.label, source.group, split_config, seed=0),
            config=TrainConfig(epochs=2, iterations=2),
            out=out / str(number),
        )
        progress = train(task, fabric)
        results.append([settled.method, task.method.state_dict(), progress.history])
    torch.save(results, out / f"{fabric.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
