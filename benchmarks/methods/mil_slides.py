"""Slide labels from features of patches, on a cohort whose truth is known; rows of ``results.csv``.

    python benchmarks/methods/mil_slides.py FOLDER --models dsmil abmil mean max --seeds 0 1 2
    python benchmarks/methods/mil_slides.py FOLDER --bundle clubyol

``FOLDER`` is given (and keeps) synthetic slides of 1.5 by 1.5 mm. Half of them have a focus of
tumour, 200 to 400 um wide, in tissue without any; the others have the same tissue without it, so
a slide is positive because of a few of its hundred tiles. Features are those of a bundle: the
embedded one by default, which was trained with labels of such tissue, or any other. ``clubyol`` is
made where it is missing, without labels, from twelve slides that are not in the cohort.
Cross-validation is by slide; seeds divide into other folds.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rows import RESULTS, Planned, carry_out
from wsi_models.devices import launch
from wsi_models.experiment import BUNDLE_FOLDER, run_experiment
from wsi_models.mil.bags import Bags
from wsi_models.mil.config import MODEL_NAMES, MilRecipe
from wsi_models.mil.cross_validation import cross_validate
from wsi_models.recipe import Recipe

from wsi_pipeline.config import load_config
from wsi_pipeline.models import encoder_defaults, load_encoder
from wsi_pipeline.predict.unstored import encode_directly
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.synthetic import Content, write_synthetic_slide
from wsi_pipeline.training_data import LabelMap, TrainingData
from wsi_pipeline.types import NoProgress

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE_PX, MPP = 3072, 0.5
FOCUS_UM = (200.0, 400.0)

CLUBYOL = "clubyol"
OTHERS = range(100, 112)
"""Slides that features are learnt from, numbered beyond those of the cohort."""

LEARNING: dict[str, Any] = {
    "name": CLUBYOL,
    "split": {"validation": 0.2, "test": 0.0},
    "train": {"epochs": 6, "iterations": 40, "seed": 0},
    "method": {
        "method": CLUBYOL,
        "unlabelled_per_step": 32,
        "alpha": 0.5,
        "clusters": 20,
        "projected": 256,
        "predictor_hidden": 1024,
        "cluster_hidden": 256,
        "encoder": {"name": "small", "planes": (16, 32, 64, 128)},
        "views": {"patch_px": 128},
        "optimisation": {"lr": 0.1},
    },
}
"""Small, for one thread of a processor; what differs from ``clubyol.toml`` is for that."""


def main() -> None:
    """Make what is missing, train, test and print."""
    options = parse()
    if options.bundle == CLUBYOL:
        options.bundle = str(learn_features(options.folder))
    bags = cohort(options.folder, options.slides, options.bundle)
    name = Path(options.bundle).name
    for seed in options.seeds:
        for model in options.models:
            planned = Planned(
                dataset="slides with a focus",
                method=model,
                variant=f"features of {name}",
                seed=seed,
                setup=f"{options.slides} slides, {options.folds} folds, {options.epochs} epochs",
            )
            work = partial(fold_means, options, model, bags, seed)
            carry_out(planned, work, results=options.results)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", default="demo", help="whose encoder makes the features")
    parser.add_argument("--slides", type=int, default=40)
    parser.add_argument("--models", nargs="+", choices=MODEL_NAMES, default=list(MODEL_NAMES))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    return parser.parse_args()


def cohort(folder: Path, count: int, bundle: str) -> Bags:
    """Make the slides and their features, unless they are there."""
    features = {f"slide-{index:02d}": _features(folder, index, bundle) for index in range(count)}
    return Bags(
        slide_ids=tuple(features),
        label=np.arange(count, dtype=np.int64) % 2,
        patient=tuple(features),
        classes=("without", "with focus"),
        feature_count=next(iter(features.values())).shape[1],
        load=features.__getitem__,
    )


def learn_features(folder: Path) -> Path:
    """Train CluBYOL on slides that are not in the cohort, unless that is done; give its bundle."""
    run = folder / "clubyol-run"
    bundle = folder / CLUBYOL
    if not bundle.exists():
        config = load_config(overrides={"store": {"keep_rgb": True}})
        stores = [
            preprocess_slide(
                SlideJob(path=write_slide(folder, index), slide_id=f"{index:02d}"),
                folder / f"colours-{index:02d}.zarr",
                config,
            ).store
            for index in OTHERS
        ]
        source = TrainingData(stores, LabelMap())
        run_experiment(Recipe.model_validate(LEARNING), source, run, launch("cpu"))
        (run / BUNDLE_FOLDER).rename(bundle)
    return bundle


def write_slide(folder: Path, index: int) -> Path:
    """Write a slide of the cohort, every second one with a focus, unless it is there."""
    slide = folder / f"{index:02d}.tif"
    if not slide.exists():
        folder.mkdir(parents=True, exist_ok=True)
        width = float(np.random.default_rng(index).uniform(*FOCUS_UM))
        focus = "tumor" if index % 2 else None
        content = Content(without="tumor", focus=focus, focus_um=width)
        partial = folder / f"partial-{index:02d}.tif"
        write_synthetic_slide(partial, (SIDE_PX, SIDE_PX), MPP, seed=500 + index, content=content)
        partial.rename(slide)
    return slide


def _features(folder: Path, index: int, bundle: str) -> NDArray[np.float32]:
    path = folder / f"features-{Path(bundle).name}" / f"{index:02d}.npy"
    if path.exists():
        return np.asarray(np.load(path), dtype=np.float32)
    slide = write_slide(folder, index)
    encoder = load_encoder(bundle)
    config = load_config(overrides=encoder_defaults(encoder))
    job = SlideJob(path=slide, slide_id=slide.stem)
    found = encode_directly(job, encoder, config).features
    path.parent.mkdir(exist_ok=True)
    np.save(path, found)
    return found


def fold_means(
    options: argparse.Namespace, model: str, bags: Bags, seed: int
) -> dict[str, float | str]:
    """Divide into folds, train on all but one, and average what is measured on that one."""
    train = {"epochs": options.epochs, "folds": options.folds, "validation": 0, "seed": seed}
    recipe = MilRecipe.model_validate({"model": {"model": model}, "train": train})
    judged = cross_validate(recipe, bags, torch.device("cpu"), NoProgress())
    summary: dict[str, float | str] = {
        name: spread.mean for name, spread in judged.result.summary().items()
    }
    print(f"{model}, seed {seed}: {json.dumps(summary)}", flush=True)
    return summary


if __name__ == "__main__":
    main()
