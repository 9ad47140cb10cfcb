"""Train without labels where nine patches of ten are normal, and judge what is rare.

    python benchmarks/methods/rare.py lc.zarr --seeds 0 1 2 3 4

The reading that is tested: on mostly normal tissue the invariance of SimSiam and BYOL alone lets
features collapse, and the clusters of CluSiam and CluBYOL prevent it. All normal patches of LC25000
and so many tumours that they are a tenth, other ones with every seed; by prototype. Judged by the
nearest labelled training patch, as ``features.py`` does: ``extra`` has the F1 of the tumours, and
the spread of the features (1 anywhere, 0 all the same direction).
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from changed import Changed, thin_out
from features import recipe
from rows import RESULTS, Planned, carry_out
from wsi_models.devices import launch
from wsi_models.experiment import run_experiment

from wsi_pipeline.store import PatchStore
from wsi_pipeline.training_data import LabelMap, TrainingData

if TYPE_CHECKING:
    from wsi_models.metrics import Evaluation
    from wsi_models.recipe import Recipe

CLASSES = ("normal", "tumor")
LABELS = LabelMap(
    classes=CLASSES,
    names={
        "colon_n": "normal",
        "lung_n": "normal",
        "colon_aca": "tumor",
        "lung_aca": "tumor",
        "lung_scc": "tumor",
    },
)
RARE_SHARE = 0.1
METHODS = ("simsiam", "clusiam", "byol", "clubyol")


def main() -> None:
    """Run what is asked for and not done yet."""
    options = parse()
    torch.set_num_threads(options.threads)
    source = TrainingData([PatchStore.open(options.store)], LABELS)
    steps = f"{options.epochs} x {options.iterations} steps of {options.batch}"
    for seed in options.seeds:
        thinned = thin_out(source, CLASSES.index("tumor"), RARE_SHARE, seed)
        for name in options.methods:
            planned = Planned(
                dataset="lc25000, one tumour in ten",
                method=name,
                seed=seed,
                setup=f"{options.encoder} (random start) {options.size} px, {steps}",
            )
            work = partial(judge, recipe(options, name, seed), thinned)
            carry_out(planned, work, results=options.results)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--batch", type=int, default=64, help="patches of a step")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.set_defaults(encoder="small", pretrained=False, size=64)
    return parser.parse_args()


def judge(chosen: Recipe, source: Changed) -> dict[str, Any]:
    """Train, and judge the test groups."""
    torch.manual_seed(chosen.train.seed)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_experiment(chosen, source, Path(folder) / "run", launch("cpu"))
    if outcome.evaluation is None:
        raise ValueError("no patch has a label to judge by")
    spread = outcome.progress.history[-1]["feature_spread"]
    return {
        **outcome.evaluation.headline(),
        "best_epoch": outcome.progress.best_epoch,
        "steps": chosen.train.epochs * chosen.train.iterations,
        "extra": f"F1 of tumours {rare_f1(outcome.evaluation):.3f}, spread {spread:.3f}",
    }


def rare_f1(evaluation: Evaluation) -> float:
    """F1 of the tumours."""
    confusion = np.array(evaluation.confusion)
    rare = CLASSES.index("tumor")
    right = int(confusion[rare, rare])
    return 2 * right / max(1, int(confusion[rare].sum() + confusion[:, rare].sum()))


if __name__ == "__main__":
    main()
