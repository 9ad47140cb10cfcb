"""Train without labels where stains differ, judge the features, then learn on with few labels.

    python benchmarks/methods/pretrained.py --archives DATA/patches --seeds 0 1 2 3 4

The re-stained slides of ``run.py``, with its split of the same seed. A method first sees all
training patches without their labels; its features are judged by the nearest labelled training
patch, as ``features.py`` does. Its bundle is then what supervised learning with few labels starts
from, in all else as ``run.py`` does it: ``from METHOD`` in the table of those labels is the same
run with another start. Bundles are kept in ``--work`` until both rows of a seed are there.
"""

from __future__ import annotations

import argparse
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import features
import run
import torch
from data import make_store
from rows import RESULTS, Planned, carry_out
from wsi_models.devices import launch
from wsi_models.experiment import BUNDLE_FOLDER, run_experiment

from wsi_pipeline.store import PatchStore
from wsi_pipeline.training_data import LabelMap, TrainingData

if TYPE_CHECKING:
    from wsi_models.recipe import Recipe

METHODS = ("byol", "clubyol", "simclr", "barlow", "mocov3", "swav", "simsiam", "clusiam")


def main() -> None:
    """Run what is asked for and not done yet."""
    options = parse()
    for seed in options.seeds:
        store = make_store(options.dataset, options.archives, options.work, seed)
        source = TrainingData([PatchStore.open(store)], LabelMap())
        for name in options.methods:
            folder = options.work / f"pretrained-{name}-{seed}"
            carry_out(
                plan_features(options, name, seed),
                partial(pretrain, features.recipe(options, name, seed), source, folder),
                results=options.results,
            )
            carry_out(
                plan_tuned(options, name, seed),
                partial(tune, options, name, seed, source, folder),
                results=options.results,
            )
            shutil.rmtree(folder, ignore_errors=True)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archives", type=Path, required=True, help="folder with the zips")
    parser.add_argument("--work", type=Path, default=Path("benchmark-stores"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--batch", type=int, default=64, help="patches of a step without labels")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=40, help="steps without labels an epoch")
    parser.add_argument("--tuned-iterations", type=int, default=80, help="steps with labels")
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(dataset="restained", encoder="small", pretrained=False, size=64)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    return options


def plan_features(options: argparse.Namespace, name: str, seed: int) -> Planned:
    """Say what is learnt without labels."""
    steps = f"{options.epochs} x {options.iterations} steps of {options.batch}"
    setup = f"{options.encoder} (random start) {options.size} px, {steps}"
    return Planned(dataset=options.dataset, method=name, seed=seed, setup=setup)


def plan_tuned(options: argparse.Namespace, name: str, seed: int) -> Planned:
    """Say what is learnt on with few labels: a row of the table of ``run.py``."""
    return run.plan(tuning(options), "supervised", f"from {name}", seed)


def tuning(options: argparse.Namespace) -> argparse.Namespace:
    """Give the options that ``run.py`` has by itself."""
    return argparse.Namespace(
        dataset=options.dataset,
        plan="equal",
        labels_per_class=20,
        labelled_slides=4,
        encoder=options.encoder,
        size=options.size,
        epochs=options.epochs,
        iterations=options.tuned_iterations,
        rate=None,
        wrong_labels=0.0,
    )


def pretrain(recipe: Recipe, source: TrainingData, folder: Path) -> dict[str, Any]:
    """Train without labels, keep the bundle, and judge the test slides by nearest neighbours."""
    torch.manual_seed(recipe.train.seed)
    outcome = run_experiment(recipe, source, folder, launch("cpu"))
    if outcome.evaluation is None:
        raise ValueError("no patch has a label to judge by")
    return {
        **outcome.evaluation.headline(),
        "validation": outcome.progress.best_accuracy,
        "best_epoch": outcome.progress.best_epoch,
        "steps": recipe.train.epochs * recipe.train.iterations,
        "extra": f"spread {outcome.progress.history[-1]['feature_spread']:.3f}",
    }


def tune(
    options: argparse.Namespace, name: str, seed: int, source: TrainingData, folder: Path
) -> dict[str, Any]:
    """Learn on with few labels, from the bundle if it is there and else from a new one."""
    if not (folder / BUNDLE_FOLDER).exists():
        pretrain(features.recipe(options, name, seed), source, folder)
    encoder = {**run.ENCODERS[options.encoder], "weights": folder / BUNDLE_FOLDER}
    chosen = {"method": "supervised", "encoder": encoder}
    planned = plan_tuned(options, name, seed)
    recipe = run.build_recipe(tuning(options), planned, chosen, len(source.classes))
    return run.run(recipe, source, "cpu")


if __name__ == "__main__":
    main()
