"""Train methods with few labels, and append one row per run to ``results.csv``.

    python benchmarks/methods/run.py restained --archives DATA/patches --seeds 0 1 2 3
    python benchmarks/methods/run.py restained --archives DATA/patches --seeds 0 1 --ablations
    python benchmarks/methods/run.py mitoses --archives DATA/patches --labelled-slides 0
    python benchmarks/methods/run.py restained --archives DATA/patches --wrong-labels 0.2

A seed decides slides, stains, split, labels, weights and batches; the methods of a seed are
compared with one another. Runs that are in the file already are not repeated, so that the same
command goes on after an interruption, and more seeds are more rows. Every method gets the same
encoder, steps, optimizer, rate and selection, and none was tuned; in the plan ``equal`` also the
same number of labelled and unlabelled patches per step and, within a tenth, of patches that batch
normalisation sees at once, and in the plan ``published`` each its own. The linear probe alone has
another encoder: EfficientNet-Lite0 as ImageNet left it. With ``--wrong-labels`` so many of the
training labels are wrong, the same for every method. To tune, use the data set
``tuning``, which is other tissue, with ``--rate`` and a ``--results`` of its own.

Sized for one thread of a CPU: a small residual network on patches of 64 px, 800 steps. Rows record
the commit, so run it in a checkout without changes.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from changed import mislabel
from data import ARCHIVES, make_store
from pydantic import TypeAdapter
from rows import RESULTS, Planned, carry_out
from wsi_models.devices import launch
from wsi_models.experiment import Start, run_experiment
from wsi_models.methods import MethodConfig
from wsi_models.recipe import Recipe
from wsi_models.splits import split_by_group

from wsi_pipeline.store import PatchStore
from wsi_pipeline.training_data import LabelMap, TrainingData

ENCODERS: dict[str, dict[str, Any]] = {
    # random weights; a dozen times cheaper than the others, so that there can be many runs
    "small": {"name": "small", "planes": [16, 32, 64, 128]},
    "efficientnet_lite0": {"name": "efficientnet_lite0"},
    "resnet18": {"name": "resnet18"},
}

NOISE_AWARE = "expects a fifth wrong"
"""Variant of what is told that labels may be wrong."""

VARIANTS: dict[tuple[str, str], dict[str, Any]] = {
    ("supervised", ""): {"method": "supervised"},
    ("mixmatch", ""): {"method": "mixmatch"},
    ("class-m", ""): {"method": "class-m"},
    ("fixmatch", ""): {"method": "fixmatch"},
    ("class", ""): {"method": "class-m", "mixup": False},
    ("linear-probe", ""): {
        "method": "supervised",
        "frozen_encoder": True,
        "encoder": {"name": "efficientnet_lite0", "weights": "imagenet"},
    },
    ("supervised", NOISE_AWARE): {"method": "supervised", "label_noise": 0.2},
    ("class-m", NOISE_AWARE): {"method": "class-m", "label_noise": 0.2},
    ("class-m", "no contrast"): {"method": "class-m", "contrastive": False},
    ("class-m", "fixed stains"): {"method": "class-m", "views": {"stain_matrix": "fixed"}},
    ("class-m", "no rgb jitter"): {"method": "class-m", "views": {"rgb_jitter": 0.0}},
    ("class-m", "red and green"): {"method": "class-m", "views": {"channels": "red_green"}},
    ("class-m", "red and blue"): {"method": "class-m", "views": {"channels": "red_blue"}},
    ("s5cl", ""): {"method": "s5cl"},
    ("s5cl", "supcon only"): {"method": "s5cl", "unlabelled_contrast": False},
    ("s5cl", "ce only"): {
        "method": "s5cl",
        "unlabelled_contrast": False,
        "labelled_contrast": False,
    },
    ("tear", ""): {"method": "tear"},
    ("tear", "fixmatch base"): {"method": "tear", "alignment": False, "adapl": False, "iph": False},
}

CHUNKED = {"fixmatch", "tear", "class"}
"""Methods whose step is one forward pass, cut into chunks where all are to see equally many."""

RATE = 3e-4
"""Learning rate of Adam for every method: that of the earlier benchmark. None was tuned."""

STEP = 64
LABELLED = 33


def main() -> None:
    """Run what is asked for and not done yet."""
    options = parse()
    for seed in options.seeds:
        store = make_store(options.dataset, options.archives, options.work, seed)
        source = TrainingData([PatchStore.open(store)], LabelMap())
        for (method, variant), chosen in VARIANTS.items():
            if method not in options.methods or not is_asked_for(options, variant):
                continue
            planned = plan(options, method, variant, seed)
            recipe = build_recipe(options, planned, chosen, len(source.classes))
            work = partial(run, recipe, source, options.device, options.wrong_labels)
            carry_out(planned, work, results=options.results, device=options.device)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=ARCHIVES)
    parser.add_argument("--archives", type=Path, required=True, help="folder with the zips")
    parser.add_argument("--work", type=Path, default=Path("benchmark-stores"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plan", choices=("equal", "published"), default="equal")
    parser.add_argument("--labels-per-class", type=int, default=20)
    parser.add_argument("--labelled-slides", type=int, default=4, help="0: all training slides")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    headline = ["supervised", "mixmatch", "class-m", "fixmatch", "class"]
    parser.add_argument("--methods", nargs="*", default=headline)
    parser.add_argument("--ablations", action="store_true", help="the ablations too")
    variants = sorted({variant for _, variant in VARIANTS if variant})
    parser.add_argument("--variants", nargs="*", choices=variants, default=[], help="these alone")
    parser.add_argument("--encoder", choices=ENCODERS, default="small")
    parser.add_argument("--size", type=int, default=64, help="side of the input, px")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--rate", type=float, help="learning rate, instead of the common one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wrong-labels", type=float, default=0.0, help="share of them")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    return options


def is_asked_for(options: argparse.Namespace, variant: str) -> bool:
    """Tell the ablations from what is compared where labels are wrong, and both from methods."""
    if options.variants:
        return variant in options.variants
    if variant == NOISE_AWARE:
        return options.wrong_labels > 0
    return not variant or options.ablations


def plan(options: argparse.Namespace, method: str, variant: str, seed: int) -> Planned:
    """Say what a run is."""
    rate = f", rate {options.rate:g}" if options.rate else ""
    steps = options.epochs * options.iterations
    wrong = f", {options.wrong_labels:.0%} of labels wrong" if options.wrong_labels else ""
    return Planned(
        dataset=options.dataset + wrong,
        plan=options.plan,
        method=method,
        variant=variant,
        labels_per_class=options.labels_per_class,
        labelled_slides=options.labelled_slides,
        seed=seed,
        setup=f"{options.encoder} {options.size} px, {steps} steps{rate}",
    )


def build_recipe(
    options: argparse.Namespace, planned: Planned, chosen: dict[str, Any], classes: int
) -> Recipe:
    """Build the recipe of one run: what is common to all, then what is chosen."""
    steps = options.epochs * options.iterations
    adapter: TypeAdapter[MethodConfig] = TypeAdapter(MethodConfig)
    own = adapter.validate_python(chosen).optimisation.model_dump(exclude_none=True)
    method: dict[str, Any] = {
        **chosen,
        **(sizes(planned, chosen, classes) if options.plan == "equal" else {}),
        "encoder": chosen.get("encoder", ENCODERS[options.encoder]),
        "views": {"patch_px": options.size, **chosen.get("views", {})},
        # the average spans the same part of every run: 0.95 for 150 steps
        "ema_decay": max(0.0, 1 - 7.5 / steps),
        "optimisation": {**own, "name": "adam", "lr": options.rate or RATE, "schedule": "constant"},
    }
    split: dict[str, Any] = {
        "validation": 0.2,
        "test": 0.3,
        "labels_per_class": options.labels_per_class or None,
        "labelled_groups": options.labelled_slides or None,
        "seed": planned.seed,
    }
    if "mixing" in type(adapter.validate_python(chosen)).model_fields:
        method["mixing"] = {"ramp_epochs": options.epochs / 2}
    train = {"epochs": options.epochs, "iterations": options.iterations, "seed": planned.seed}
    return Recipe.model_validate(
        {"name": planned.method, "split": split, "train": train, "method": method}
    )


def sizes(planned: Planned, chosen: dict[str, Any], classes: int) -> dict[str, int]:
    """Give every method the batches of CLASS-M: 33 labelled and 31 unlabelled for 3 classes."""
    labelled = LABELLED // classes * classes
    found = {"labelled_per_step": labelled}
    if chosen["method"] != "supervised":
        found["unlabelled_per_step"] = STEP - labelled
    if planned.method in CHUNKED:
        found["normalised_together"] = labelled
    return found


def run(
    chosen: Recipe, source: TrainingData, device: str, wrong_labels: float = 0.0
) -> dict[str, Any]:
    """Train, and measure on the test groups."""
    torch.manual_seed(chosen.train.seed)
    split = split_by_group(source.label, source.group, chosen.split, seed=chosen.train.seed)
    learnt = mislabel(source, split.labelled, wrong_labels, chosen.train.seed)
    with tempfile.TemporaryDirectory() as folder:
        split.save(Path(folder) / "split.json")
        start = Start(split_file=Path(folder) / "split.json")
        outcome = run_experiment(chosen, learnt, Path(folder) / "run", launch(device), start)
    if outcome.evaluation is None:
        raise ValueError(f"no patch has a label, so {chosen.name} cannot be judged")
    last = outcome.progress.history[-1]
    return {
        **outcome.evaluation.headline(),
        "validation": outcome.progress.best_accuracy,
        "best_epoch": outcome.progress.best_epoch,
        "steps": chosen.train.epochs * chosen.train.iterations,
        "pseudo_accuracy": last.get("pseudo_accuracy"),
        "pseudo_ece": last.get("pseudo_ece"),
    }


if __name__ == "__main__":
    main()
