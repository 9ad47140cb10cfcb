"""The commands ``wsi-pipeline mil``: features and labels of slides -> a model of slides, and back.

Files of features meet ``wsi_models`` here; what is learnt from them is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.options import output_options
from wsi_pipeline.cli.training import training_errors

if TYPE_CHECKING:
    from wsi_models.mil.bags import Bags, SlideLabel
    from wsi_models.mil.predict import Judgement

    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.store.features import SlideFeatures

Command = TypeVar("Command", bound=Callable[..., Any])

MODELS = ("mean", "max", "abmil", "dsmil", "clam-sb")


@click.group()
def mil() -> None:
    """Classify whole slides from the features of their patches (multiple-instance learning)."""


def _features_argument(command: Command) -> Command:
    return click.argument(
        "features",
        nargs=-1,
        required=True,
        metavar="FEATURES...",
        type=click.Path(exists=True, path_type=Path),
    )(command)


def _common_options(command: Command) -> Command:
    decorators = [
        click.option(
            "--out",
            required=True,
            type=click.Path(file_okay=False, path_type=Path),
            help="Folder for the results.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="cpu, cuda or cuda:1; auto takes a GPU where there is one.",
        ),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def _labels_option(command: Command) -> Command:
    return click.option(
        "--labels",
        required=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="CSV with the columns slide_id, label and patient.",
    )(command)


@mil.command()
@_features_argument
@_labels_option
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file of choices, such as examples/mil.toml; flags beat it.",
)
@click.option(
    "--model",
    type=click.Choice(MODELS),
    help="Which model, with its published choices unless the recipe says others.  [default: abmil]",
)
@click.option("--positive", help="The positive one of two classes.  [default: the last by name]")
@click.option("--folds", type=click.IntRange(min=2), help="Parts by patient.  [default: 10]")
@click.option("--epochs", type=click.IntRange(min=1), help="Epochs at most.  [default: 100]")
@click.option("--seed", type=click.IntRange(min=0), help="Folds, weights, order.  [default: 0]")
@_common_options
@output_options
def train(
    features: tuple[Path, ...], labels: Path, out: Path, as_json: bool, quiet: bool, **values: Any
) -> None:
    """Train a model of slides and judge it by cross-validation, patient by patient.

    \b
        wsi-pipeline mil train features --labels slides.csv --model abmil --folds 10 --out runs/a
        wsi-pipeline mil train features --labels slides.csv --recipe examples/mil.toml --out runs/b

    FEATURES are .h5 or .zarr files or their folder, from 'wsi-pipeline features', CLAM or TRIDENT.
    OUT/report.md says how good the model is on patients it was not trained on, OUT/model is the
    model trained on all slides, for 'mil predict'.
    """
    from wsi_models.experiment import launch
    from wsi_models.mil.bags import order_classes, read_slide_labels
    from wsi_models.mil.config import load_mil_recipe
    from wsi_models.mil.cross_validation import run_mil

    with explained_errors(), training_errors():
        chosen = {
            key: values[key]
            for key in ("model", "positive", "folds", "epochs", "seed")
            if values[key] is not None
        }
        recipe = load_mil_recipe(values["recipe"], chosen)
        rows = read_slide_labels(labels)
        bags = _load_bags(features, rows, order_classes(rows, recipe.positive))
        device = launch(values["device"]).device
        with progress_bars(quiet or as_json) as progress:
            outcome = run_mil(recipe, bags, out, device, progress)
    summary = outcome.result.summary()
    if as_json:
        found = {name: spread._asdict() for name, spread in summary.items()}
        print_json({**found, "files": {name: str(path) for name, path in outcome.files.items()}})
        return
    for name, path in outcome.files.items():
        click.echo(f"{name:12} {path}")
    for name, spread in summary.items():
        click.echo(
            f"{name.replace('_', ' '):18} {spread.mean:.4f} ± {spread.deviation:.4f} "
            f"over {spread.folds} folds"
        )


@mil.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_features_argument
@_labels_option
@_common_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(
    model: Path, features: tuple[Path, ...], labels: Path, out: Path, device: str, as_json: bool
) -> None:
    """Judge a trained model of slides on labelled slides that it was not trained on.

    \b
        wsi-pipeline mil evaluate runs/a/model other-features --labels other.csv --out evaluation

    The threshold is the model's own: nothing is chosen on the slides that are judged.
    """
    from wsi_models.experiment import launch
    from wsi_models.mil.bags import read_slide_labels
    from wsi_models.mil.bundle import load_slide_model
    from wsi_models.mil.cross_validation import evaluate_slide_model

    with explained_errors(), training_errors():
        loaded = load_slide_model(model)
        bags = _load_bags(features, read_slide_labels(labels), loaded.config.class_names)
        loaded.head.to(launch(device).device)
        title = f"{loaded.config.name} on {', '.join(path.name for path in features)}"
        evaluation, files = evaluate_slide_model(loaded, bags, out, title=title)
    if as_json:
        print_json({**evaluation.to_dict(), "files": {k: str(v) for k, v in files.items()}})
        return
    for name, path in files.items():
        click.echo(f"{name:12} {path}")
    for name, value in evaluation.headline().items():
        click.echo(f"{name.replace('_', ' '):18} {value:.4f}")


@mil.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_features_argument
@click.option(
    "--stores",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Patch store of a slide, or a folder of results: draw the attention on these slides. "
    "Repeatable.",
)
@_common_options
@output_options
def predict(
    model: Path, features: tuple[Path, ...], out: Path, as_json: bool, quiet: bool, **values: Any
) -> None:
    """Predict the class of slides, and show where the model looked.

    \b
        wsi-pipeline mil predict runs/a/model features --out predictions
        wsi-pipeline mil predict runs/a/model features --stores results --out predictions

    OUT/predictions.csv has one row per slide. With --stores, OUT/<slide> holds attention.parquet,
    attention.geojson and a picture.
    """
    from wsi_models.experiment import launch
    from wsi_models.mil.bundle import load_slide_model
    from wsi_models.mil.predict import judge_slide, write_judgements

    from wsi_pipeline.store.features import find_features, read_features

    with explained_errors(), training_errors():
        loaded = load_slide_model(model)
        loaded.head.to(launch(values["device"]).device)
        placed = _stores_by_slide(values["stores"])
        files, judgements = find_features(features), []
        with progress_bars(quiet or as_json) as progress:
            progress.start("predict slides", len(files))
            for path in files.values():
                slide = read_features(path)
                encoder = slide.about.get("encoder")
                judgements.append(judge_slide(loaded, slide.slide_id, slide.features, encoder))
                if slide.slide_id in placed:
                    _show(placed[slide.slide_id], slide, judgements[-1], out)
                progress.advance()
        table = write_judgements(out / "predictions.csv", judgements, loaded.config.class_names)
    if as_json:
        print_json([judgement.to_dict(loaded.config.class_names) for judgement in judgements])
        return
    click.echo(table)


def _load_bags(paths: Sequence[Path], rows: Sequence[SlideLabel], classes: Sequence[str]) -> Bags:
    """Bring files of features and labels together."""
    from wsi_models.mil.bags import Described, make_bags

    from wsi_pipeline.store.features import describe_features, find_features, read_features

    files = find_features(paths)
    wanted = {row.slide_id for row in rows}
    described = {}
    for name, path in files.items():
        if name in wanted:
            facts = describe_features(path)
            described[name] = Described(facts.patches, facts.features, facts.about.get("encoder"))
    return make_bags(rows, described, lambda name: read_features(files[name]).features, classes)


def _stores_by_slide(paths: Sequence[Path]) -> dict[str, PatchStore]:
    from wsi_pipeline.store.find import find_stores

    return {store.slide.slide_id: store for store in find_stores(paths)}


def _show(store: PatchStore, slide: SlideFeatures, judgement: Judgement, out: Path) -> None:
    from wsi_pipeline.results.attention import write_attention

    names = judgement.attention_names
    write_attention(store, slide, judgement.attention, names, out / slide.slide_id)
