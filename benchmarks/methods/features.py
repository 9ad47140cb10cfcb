"""Train without labels on a patch store, judge by nearest neighbours, append to ``results.csv``.

    python benchmarks/methods/features.py lc.zarr --dataset lc25000 --seeds 0 1 2 --iterations 150

Every method gets the same encoder, views, batches, steps, optimizer and selection (the epoch with
the best neighbours in the validation groups); a seed decides split, weights and batches. Features
of the test groups are given the class of the nearest labelled training patch, by cosine; "labels
per class" is 0, which stands for all. ``random features`` and ``imagenet features`` are those of
the encoder untrained, the former with batch statistics of the training patches. Runs that are in
the file already are not repeated.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rows import RESULTS, Planned, carry_out
from run import run
from torch import nn
from wsi_models.devices import launch
from wsi_models.judging import class_logits
from wsi_models.methods import Batch, build_method
from wsi_models.metrics import evaluate_logits
from wsi_models.recipe import Recipe
from wsi_models.splits import split_by_group

from wsi_pipeline.store import PatchStore
from wsi_pipeline.training_data import LabelMap, TrainingData

if TYPE_CHECKING:
    from wsi_models.methods import Method
    from wsi_models.sources import Indices

CLUSTERS = 20
"""At most; the 100 of the paper are for steps of 512 patches, and few of them would ever be met."""

ALPHA = 0.5
"""Published for CluSiam. The 0.9 of CluBYOL leaves a tenth of the rate to the invariance, which
takes many more steps than there are here."""

BYOL = {
    "method": "clubyol",
    "alpha": ALPHA,
    "projected": 256,
    "predictor_hidden": 1024,
    "cluster_hidden": 256,
    "clusters": CLUSTERS,
}
SIAM = {
    "method": "clusiam",
    "alpha": ALPHA,
    "projected": 512,
    "predictor_hidden": 128,
    "cluster_hidden": 128,
    "clusters": CLUSTERS,
}

ALONE: dict[str, Any] = {
    "alpha": 0.0,
    "projected": 128,
    "cluster_hidden": 128,
    "clusters": CLUSTERS,
}
"""What is learnt from the invariance alone, by methods whose clusters are only watched."""

VARIANTS: dict[str, dict[str, Any]] = {
    "random features": SIAM,
    "imagenet features": SIAM,
    "simsiam": {**SIAM, "alpha": 0.0},
    "clusiam": SIAM,
    "byol": {**BYOL, "alpha": 0.0},
    "clubyol": BYOL,
    "simclr": {"method": "simclr", **ALONE},
    "barlow": {"method": "barlow", **ALONE, "projected": 512},
    "mocov3": {"method": "mocov3", **ALONE, "projected": 256, "predictor_hidden": 1024},
    "swav": {"method": "swav", **ALONE, "prototypes": 100},
}

RATES = {
    "clusiam": 0.1,
    "clubyol": 0.4,
    "simclr": 0.1,
    "barlow": 0.1,
    "mocov3": 0.1,
    "swav": 0.1,
}
"""Learning rate of each method, per step of 128. The ablations of CluSiam and CluBYOL have half:
there the invariance counts twice as much, so the encoder moves as fast."""


def main() -> None:
    """Run what is asked for and not done yet."""
    options = parse()
    source = TrainingData([PatchStore.open(options.store)], LabelMap())
    start = "ImageNet" if options.pretrained else "random"
    size = (
        f"{options.encoder} ({start} start) {options.size} px, "
        f"{options.epochs} x {options.iterations} steps of {options.batch}"
    )
    for seed in options.seeds:
        for name in options.methods or VARIANTS:
            if name == "imagenet features" and options.encoder == "small":
                continue  # it has no such weights
            planned = Planned(
                dataset=options.dataset,
                method=name,
                seed=seed,
                setup=size,
            )
            settings = recipe(options, name, seed)
            work = partial(judge, settings, name, source, options.device)
            carry_out(planned, work, results=options.results, device=options.device)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--dataset", required=True, help="name of the data in the table")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", choices=list(VARIANTS), help="only these")
    parser.add_argument("--encoder", default="small")
    parser.add_argument("--pretrained", action="store_true", help="start from ImageNet")
    parser.add_argument("--size", type=int, default=64, help="side of the input, px")
    parser.add_argument("--batch", type=int, default=128, help="patches of a step")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def recipe(options: argparse.Namespace, name: str, seed: int) -> Recipe:
    """Build the recipe of one run: what is common to all, then what is chosen."""
    encoder: dict[str, Any] = {"name": options.encoder}
    if options.encoder == "small":
        encoder["planes"] = (16, 32, 64, 128)
    else:
        pretrained = options.pretrained or name == "imagenet features"
        encoder["weights"] = "imagenet" if pretrained else None
    chosen = VARIANTS[name]
    ablated = chosen["method"] in ("clusiam", "clubyol") and not chosen["alpha"]
    share = 1 - ALPHA if ablated else 1.0
    rate = RATES[chosen["method"]] * share * options.batch / 128
    views = {"patch_px": options.size, "blur_px": (0.1, max(0.2, 2.0 * options.size / 224))}
    return Recipe.model_validate(
        {
            "name": name.replace(" ", "-"),
            "split": {"validation": 0.2, "test": 0.3, "seed": seed},
            "train": {"epochs": options.epochs, "iterations": options.iterations, "seed": seed},
            "method": {
                **chosen,
                "encoder": encoder,
                "views": views,
                "unlabelled_per_step": options.batch,
                "optimisation": {"lr": rate, "epochs": options.epochs},
            },
        }
    )


def judge(chosen: Recipe, name: str, source: TrainingData, device: str) -> dict[str, float]:
    """Train, unless the features are to be judged untrained, and judge the test groups."""
    if not name.endswith("features"):
        return run(chosen, source, device)
    fabric = launch(device)
    torch.manual_seed(chosen.train.seed)
    method = build_method(chosen.method, len(source.classes)).to(fabric.device)
    split = split_by_group(source.label, source.group, chosen.split, seed=chosen.train.seed)
    if name == "random features":
        measure_statistics(method, source, split.labelled)
    logits = class_logits(fabric, method, source, (split.labelled, split.test), 128)
    label = torch.from_numpy(source.label[split.test])
    group = [source.group[index] for index in split.test]
    return evaluate_logits(logits, label, group, source.classes).headline()


@torch.no_grad()
def measure_statistics(method: Method, source: TrainingData, indices: Indices) -> None:
    """Let batch normalisation see training patches; untouched, it would be a handicap."""
    device = next(method.parameters()).device
    network = method.export_network().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain average over all batches
    order = np.random.default_rng(0).permutation(indices)
    for rows in np.array_split(order, max(1, len(order) // 128)):
        network.features(method.evaluation_input(Batch(*source.fetch(rows)).to(device)))


if __name__ == "__main__":
    main()
