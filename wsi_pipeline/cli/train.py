"""``wsi-pipeline train``: a recipe and patch stores -> a trained model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.training import data_options, training_errors
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_models.experiment import Outcome
    from wsi_models.recipe import ImagesConfig, Recipe


@click.command()
@click.argument("recipe")
@data_options(required=False)
@click.option(
    "--images",
    type=click.Path(exists=True, path_type=Path),
    help="Instead of --data: a set of labelled images as it is downloaded, a folder or zip, for a "
    "recipe that says how it becomes patches. They are kept as OUT/images.zarr.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run: checkpoints, curves, evaluation and bundle.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option(
    "--split",
    "split_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON with the groups of each part, to use instead of drawing a split.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Beats the recipe's.")
@click.option("--epochs", type=click.IntRange(min=1), help="Beats the recipe's.")
@click.option("--iterations", type=click.IntRange(min=1), help="Beats the recipe's.")
@click.option("--labels-per-class", type=click.IntRange(min=1), help="Beats the recipe's.")
@click.option(
    "--precision",
    type=click.Choice(["32-true", "bf16-mixed", "16-mixed"]),
    help="Beats the recipe's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
def train(recipe: str, out: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Train a model on patch stores as a recipe says, and evaluate it.

    \b
        wsi-pipeline train class_m --data results/ --out runs/first
        wsi-pipeline train class_m --data tiles.zarr --out runs/first --resume
        wsi-pipeline train my_recipe.toml --data results/ --out runs/second
    From a set of images to a model of real tissue, in one command:
        wsi-pipeline train nct_crc --images NCT-CRC-HE-100K-NONORM.zip --out runs/crc
    On several GPUs:
        torchrun --nproc-per-node 4 --no-python wsi-pipeline train class_m --data ...

    RECIPE is a TOML file or one that comes with the package: class_m and class_m_small; nct_crc and
    kather_2016; supervised
    and vit; fixmatch, mixmatch, s5cl and tear; clusiam, clubyol, simclr, barlow, mocov3 and swav.
    'wsi-pipeline config recipe class_m' prints one, to begin your own with.

    Stores need RGB and labels ('ingest', or 'preprocess --keep-rgb' with annotations); clusiam,
    clubyol, simclr, barlow, mocov3 and swav need no labels. Patches are divided by group.
    OUT/curves.png shows how it goes after every epoch, OUT/evaluation.md how good the model is on
    the test groups, OUT/bundle is for 'wsi-pipeline run --model'.
    """
    with explained_errors(), training_errors():
        outcome = _run(recipe, out, values, quiet=quiet)
    figures = {} if outcome.evaluation is None else outcome.evaluation.headline()
    summary = {
        "part": outcome.part,
        "best_epoch": outcome.progress.best_epoch,
        "epochs": outcome.progress.epoch,
        "validation_balanced_accuracy": outcome.progress.best_accuracy,
        **figures,
        "files": {name: str(path) for name, path in outcome.files.items()},
    }
    if as_json:
        print_json(summary)
        return
    for name, path in outcome.files.items():
        click.echo(f"{name:12} {path}")
    click.echo(f"best epoch {outcome.progress.best_epoch} of {outcome.progress.epoch}")
    if figures:
        shown = ", ".join(f"{name.replace('_', ' ')} {v:.4f}" for name, v in figures.items())
        click.echo(f"{outcome.part} part: {shown}")


def _run(name: str, out: Path, values: dict[str, Any], *, quiet: bool) -> Outcome:
    from wsi_models.devices import in_first_process, launch
    from wsi_models.experiment import Start, run_experiment
    from wsi_models.recipe import load_recipe
    from wsi_models.recipes import find_recipe
    from wsi_models.threads import settle_threads

    from wsi_pipeline.cli.epochs import epoch_lines
    from wsi_pipeline.cli.training import load_data, writing_run

    settle_threads()
    recipe = load_recipe(find_recipe(name), _overrides(values))
    images = _images_of(recipe, values)
    fabric = launch(values["device"], recipe.train.precision)
    with writing_run(out):
        stores = values["data"]
        if images is not None:
            stores = [out / "images.zarr"]
            ingest = partial(_ingest, values["images"], stores[0], images, quiet=quiet)
            in_first_process(fabric, ingest)
        source = load_data(
            stores, recipe.classes.names, recipe.classes.labels, values["memory_gib"]
        )
        with epoch_lines(quiet) as listener:
            start = Start(
                resume=values["resume"], split_file=values["split_file"], listener=listener
            )
            return run_experiment(recipe, source, out, fabric, start)


def _images_of(recipe: Recipe, values: dict[str, Any]) -> ImagesConfig | None:
    """Say how the images become patches; None if patch stores are given."""
    images: Path | None = values["images"]
    if (images is None) == (not values["data"]):
        raise ConfigError("give either patch stores (--data) or a set of images (--images)")
    if images is not None and recipe.images is None:
        raise ConfigError(
            f"recipe {recipe.name} does not say how images become patches: add a table [images] "
            f"with about and mpp, or use 'wsi-pipeline ingest {images}' and --data"
        )
    return recipe.images if images is not None else None


def _ingest(images: Path, path: Path, said: ImagesConfig, *, quiet: bool) -> None:
    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.preprocess.image_store import IngestOptions, ingest_images
    from wsi_pipeline.preprocess.labelled_images import TableColumns, find_images

    columns = TableColumns(group=said.group_column)
    found = find_images(images, columns, group_pattern=said.group_pattern)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = IngestOptions(mpp=said.mpp, patch_px=said.patch_px)
    with progress_bars(quiet) as progress:
        ingest_images(found, path, options, PipelineConfig(), progress=progress)


def _overrides(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Gather what flags say of the recipe, by table and key."""
    tables = {
        "train": ("seed", "epochs", "iterations", "precision"),
        "split": ("labels_per_class",),
    }
    return {
        table: {key: values[key] for key in keys if values[key] is not None}
        for table, keys in tables.items()
    }
