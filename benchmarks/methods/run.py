"""Train methods on a patch store with few labels, and append one row per run to ``results.csv``.

    wsi-pipeline ingest lc25000.zip --out lc.zarr --mpp 0.5 --group-column prototype \
        --patch-size 96 --fit resize
    python benchmarks/methods/run.py lc.zarr --dataset lc25000 --labels-per-class 20 --seeds 0 1 2

Every method gets the same encoder, batch sizes, steps, optimizer and selection; a seed decides
split, labels, weights and batches. Runs that are in the file already are not repeated. Sized for a
CPU by default: EfficientNet-Lite0 with ImageNet weights on patches of 64 px. On a GPU:
``--encoder resnet18 --size 256 --batch 33 --epochs 100 --iterations 200``.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from wsi_models.experiment import launch, run_experiment
from wsi_models.recipe import Recipe

from wsi_pipeline.store import PatchStore
from wsi_pipeline.training_data import LabelMap, TrainingData

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RESULTS = Path(__file__).with_name("results.csv")

ENCODERS: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {"name": "efficientnet_lite0"},
    "resnet18": {"name": "resnet18"},
    # random weights; a dozen times cheaper than the others, so that runs can be longer
    "small": {"name": "small", "planes": [16, 32, 64, 128]},
}

VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("supervised", ""): {"method": "supervised"},
    ("fixmatch", ""): {"method": "fixmatch"},
    ("mixmatch", ""): {"method": "mixmatch"},
    ("s5cl", ""): {"method": "s5cl"},
    ("s5cl", "supcon only"): {"method": "s5cl", "unlabelled_contrast": False},
    ("s5cl", "ce only"): {
        "method": "s5cl",
        "unlabelled_contrast": False,
        "labelled_contrast": False,
    },
    ("tear", ""): {"method": "tear"},
    ("tear", "fixmatch base"): {"method": "tear", "alignment": False, "adapl": False, "iph": False},
    ("class", ""): {"method": "class-m", "mixup": False},
    ("class-m", ""): {"method": "class-m"},
    ("class-m", "no contrast"): {"method": "class-m", "contrastive": False},
    ("class-m", "no rgb jitter"): {"method": "class-m", "views": {"rgb_jitter": 0.0}},
    ("class-m", "fixed stains"): {"method": "class-m", "views": {"stain_matrix": "fixed"}},
    ("class-m", "red and green"): {"method": "class-m", "views": {"channels": "red_green"}},
    ("class-m", "red and blue"): {"method": "class-m", "views": {"channels": "red_blue"}},
}

UNLABELLED = {"s5cl": 4}
"""Unlabelled patches per labelled one, where it is not 1: as published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run, before it is known what comes of it."""

    dataset: str
    method: str
    variant: str
    labels_per_class: int
    seed: int
    size: str
    device: str

    def key(self) -> tuple[str, ...]:
        """Return what makes a run a repetition of another."""
        return tuple(str(getattr(self, name)) for name in KEY)


KEY = ("dataset", "method", "variant", "labels_per_class", "seed", "size")
FIGURES = ("balanced_accuracy", "macro_f1", "auc")
COLUMNS = (*KEY, *FIGURES, "minutes", "device")


def main() -> None:
    """Run what is asked for and not done yet."""
    options = parse()
    store = PatchStore.open(options.store)
    source = TrainingData([store], LabelMap())
    size = f"{options.encoder} {options.size} px, {options.epochs} x {options.iterations} steps"
    for seed in options.seeds:
        for (method, variant), chosen in VARIANTS.items():
            if options.methods and method not in options.methods:
                continue
            if variant and not options.ablations:
                continue
            planned = Planned(
                dataset=options.dataset,
                method=method,
                variant=variant,
                labels_per_class=options.labels_per_class,
                seed=seed,
                size=size,
                device=options.device,
            )
            settings = recipe(options, method, chosen, seed)
            carry_out(planned, partial(run, settings, source, options.device))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--dataset", required=True, help="name of the data in the table")
    parser.add_argument("--labels-per-class", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", help="only these")
    parser.add_argument("--ablations", action="store_true", help="the ablations too")
    parser.add_argument("--encoder", choices=ENCODERS, default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=64, help="side of the input, px")
    parser.add_argument("--batch", type=int, default=10, help="labelled patches of a step")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def recipe(options: argparse.Namespace, name: str, chosen: dict[str, Any], seed: int) -> Recipe:
    """Build the recipe of one run: what is common to all, then what is chosen."""
    method: dict[str, Any] = {
        **chosen,
        "encoder": ENCODERS[options.encoder],
        "views": {"patch_px": options.size, **chosen.get("views", {})},
        "labelled_per_step": options.batch,
        # the average spans the same part of every run: 0.95 for 150 steps
        "ema_decay": max(0.0, 1 - 7.5 / (options.epochs * options.iterations)),
        "optimisation": {"name": "adam", "lr": 3e-4, "schedule": "constant"},
    }
    if chosen["method"] != "supervised":
        method["unlabelled_per_step"] = options.batch * UNLABELLED.get(chosen["method"], 1)
    if chosen["method"] == "mixmatch" or (name == "class-m"):
        method["mixing"] = {"ramp_epochs": max(1, options.epochs // 2)}
    return Recipe.model_validate(
        {
            "name": name,
            "split": {
                "validation": 0.2,
                "test": 0.3,
                "labels_per_class": options.labels_per_class,
                "seed": seed,
            },
            "train": {"epochs": options.epochs, "iterations": options.iterations, "seed": seed},
            "method": method,
        }
    )


def run(chosen: Recipe, source: TrainingData, device: str) -> dict[str, float]:
    """Train, and measure on the test groups."""
    torch.manual_seed(chosen.train.seed)
    with tempfile.TemporaryDirectory() as folder:
        evaluation = run_experiment(chosen, source, Path(folder) / "run", launch(device)).evaluation
    if evaluation is None:
        raise ValueError(f"no patch has a label, so {chosen.name} cannot be judged")
    return evaluation.headline()


def carry_out(planned: Planned, work: Callable[[], Mapping[str, float]]) -> None:
    """Do a run, unless it is in the file already, and add its figures to the file as a row."""
    if planned.key() in done():
        return
    begin = time.perf_counter()
    figures = work()
    minutes = round((time.perf_counter() - begin) / 60, 2)
    row = {**asdict(planned), "minutes": minutes, **{n: round(figures[n], 4) for n in FIGURES}}
    append(row)
    print(row, flush=True)


def done() -> set[tuple[str, ...]]:
    """Return the runs that are in the file."""
    if not RESULTS.exists():
        return set()
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return {tuple(line[name] for name in KEY) for line in csv.DictReader(file)}


def append(row: dict[str, Any]) -> None:
    """Add a row; one write, so that runs side by side do not mix their lines."""
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
