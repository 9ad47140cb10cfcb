"""Train the embedded model ``demo`` by CLASS-M on synthetic slides, and write its bundle.

    python examples/train_demo_bundle.py --out models/wsi_models/bundles/demo

The whole way that ``wsi-pipeline preprocess --labels`` and ``wsi-pipeline train`` go, in one
script: slides with varied stains are drawn, their areas annotated, tiles cut and labelled, and
``demo.toml`` trained with a few labels of each class. Takes some ten minutes on one
CPU core. On one machine, equal seeds give equal weights.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from wsi_models.bundle import load_bundle, save_bundle
from wsi_models.devices import launch
from wsi_models.experiment import BUNDLE_FOLDER, Start, run_experiment
from wsi_models.recipe import load_recipe

from wsi_pipeline.config import (
    LabelConfig,
    LabelMode,
    LabelTiles,
    PipelineConfig,
    StoreConfig,
    TileConfig,
)
from wsi_pipeline.preprocess.slide_store import preprocess_slide
from wsi_pipeline.slide.job import SlideJob
from wsi_pipeline.synthetic import (
    CLASS_NAMES,
    default_stains,
    write_areas,
    write_synthetic_slide,
)
from wsi_pipeline.training_data import LabelMap, TrainingData
from wsi_pipeline.types import StainMatrix

if TYPE_CHECKING:
    from wsi_models.experiment import Outcome

    from wsi_pipeline.store import PatchStore

RECIPE = Path(__file__).with_name("demo.toml")
CLASSES = CLASS_NAMES[1:]  # the first is bare glass, of which no tile is kept
MPP = 0.5
SLIDE_PX = 3072
SLIDES = {"train": range(1000, 1012), "validation": range(1900, 1902), "test": range(2000, 2004)}
STAIN_ANGLE_SD_DEG = 2.0

CAVEAT = "Model demo knows synthetic tissue alone: on real tissue its labels mean nothing"

CARD = """# demo: tissue classes of synthetic slides

A small CLASS-M network that tells {classes} of the **synthetic** slides that `wsi-pipeline demo`
draws. It proves an installation and shows what a bundle is.
**It knows nothing of real tissue: never use it on patients' slides**, where its labels mean
nothing.

The slides are {size} x {size} px at {mpp} um/px, with stain vectors and glass that vary from slide
to slide; a tile has a class where at least 95 % of it is of that class. No patient data.
`python examples/train_demo_bundle.py --out FOLDER` makes this bundle.

**Limits.** Tiles that hold several classes get one label. The classes are drawn by a program, and
so is what tells them apart.

**Licence.** Apache-2.0, like the code.

{generated}"""


def main() -> None:
    """Parse the options, draw, train, and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--work", type=Path, help="keeps slides, stores and the run here")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums then have one order, whatever the number of cores
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        stores = [make_store(work, seed) for seeds in SLIDES.values() for seed in seeds]
        outcome = train(work, stores)
        publish(work / "run" / BUNDLE_FOLDER, options.out)
    if outcome.evaluation is not None:
        print(outcome.evaluation.headline())


def make_store(work: Path, seed: int) -> PatchStore:
    """Draw a slide with stains of its own, annotate it, and cut and label its tiles."""
    slide, areas = work / f"{seed}.tif", work / f"{seed}.geojson"
    if not areas.is_file():
        size_wh = (SLIDE_PX, SLIDE_PX)
        truth = write_synthetic_slide(slide, size_wh, mpp=MPP, seed=seed, stains=vary_stains(seed))
        write_areas(areas, truth)
    config = PipelineConfig(
        # 256 px and room for any rotation
        tile=TileConfig(mpp=MPP, patch_size=368, stride=192),
        label=LabelConfig(
            classes={name: (name,) for name in CLASSES},
            label_mode=LabelMode.MAJORITY,
            min_label_share=0.95,
            label_tiles=LabelTiles.ALL,
        ),
        store=StoreConfig(keep_rgb=True),
    )
    job = SlideJob(path=slide, slide_id=str(seed), labels=areas, group=str(seed))
    return preprocess_slide(job, work / f"{seed}.zarr", config, workers=2).store


def vary_stains(seed: int) -> StainMatrix:
    """Turn the default stain vectors by a few degrees and change the light of the glass."""
    rng = np.random.default_rng(seed)
    usual = default_stains()
    vectors = usual.vectors + rng.normal(0, np.radians(STAIN_ANGLE_SD_DEG), (2, 3))
    return StainMatrix(
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        max_concentration=usual.max_concentration,
        background=np.full(3, rng.uniform(240.0, 252.0)),
    )


def train(work: Path, stores: list[PatchStore]) -> Outcome:
    """Train the recipe on the training slides; others select the epoch and test."""
    split = work / "split.json"
    groups = {part: [str(seed) for seed in seeds] for part, seeds in SLIDES.items()}
    split.write_text(json.dumps({"groups": groups}), encoding="utf-8")
    recipe = load_recipe(RECIPE)
    source = TrainingData(stores, LabelMap(classes=recipe.classes.names))
    return run_experiment(recipe, source, work / "run", launch("cpu"), Start(split_file=split))


def publish(made: Path, folder: Path) -> None:
    """Write the bundle of the run anew, with words that say what it is good for."""
    bundle = load_bundle(made)
    seeds = SLIDES["train"]
    data = f"synthetic slides, seeds {seeds.start} to {seeds.stop - 1}, with few labels"
    training = bundle.config.training.model_copy(update={"data": data})
    card = CARD.format(
        classes=f"{', '.join(CLASSES[:-1])} and {CLASSES[-1]}",
        size=SLIDE_PX,
        mpp=MPP,
        generated=(made / "README.md").read_text(encoding="utf-8").replace("# demo", "# Training"),
    )
    config = bundle.config.model_copy(update={"training": training, "caveat": CAVEAT})
    save_bundle(folder, config, bundle.network, card, overwrite=True)


if __name__ == "__main__":
    main()
