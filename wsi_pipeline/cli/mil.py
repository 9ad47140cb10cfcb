"""The commands ``wsi-pipeline mil``: features and labels of slides -> a model of slides, and back.

Files of features meet ``wsi_models`` here; what is learnt from them is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.options import output_options
from wsi_pipeline.cli.runs import FeaturesPath
from wsi_pipeline.cli.training import training_errors, writing_run
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from wsi_models.mil.bags import Bags, Described, LoadFeatures, SlideLabel
    from wsi_models.mil.config import MilRecipe
    from wsi_models.mil.survival.cohort import Cohort

    from wsi_pipeline.store import PatchStore
    from wsi_pipeline.store.features import SlideFeatures
    from wsi_pipeline.types import Progress

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
        type=FeaturesPath(),
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
    metavar="RECIPE",
    help="TOML file of choices, or 'mil', which shows them all; flags beat it.",
)
@click.option(
    "--model",
    type=click.Choice(MODELS),
    help="Which model, with its published choices unless the recipe says others.  [default: abmil]",
)
@click.option(
    "--target",
    type=click.Choice(["classes", "survival"]),
    default="classes",
    show_default=True,
    help="What the table says of slides: a class each, or how long their patients were followed.",
)
@click.option("--time", help="survival: column of the time of follow-up.  [default: time]")
@click.option("--event", help="survival: column that is 1 where the event was seen, else 0.")
@click.option(
    "--bags",
    type=click.Choice(["slide", "patient"]),
    help="Judge each slide, or all slides of a patient together, as survival always does.  "
    "[default: slide]",
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
        wsi-pipeline mil train features --labels slides.csv --recipe mil --out runs/b
        wsi-pipeline mil train features --labels cohort.csv --target survival \\
            --time months --event died --out runs/c

    FEATURES are .h5 or .zarr files or their folder, from 'wsi-pipeline features', CLAM or TRIDENT;
    also s3://bucket/folder.
    OUT/report.md says how good the model is on patients it was not trained on, OUT/model is the
    model trained on all slides, for 'mil predict'.
    """
    from wsi_models.mil.config import load_mil_recipe
    from wsi_models.recipes import find_recipe
    from wsi_models.threads import settle_threads

    settle_threads(1)  # a bag at a time: so little work that threads only wait for one another
    with explained_errors(), training_errors():
        chosen = {
            key: values[key]
            for key in ("model", "positive", "bags", "folds", "epochs", "seed")
            if values[key] is not None
        }
        recipe = load_mil_recipe(
            None if values["recipe"] is None else find_recipe(values["recipe"]), chosen
        )
        device = values["device"]
        with writing_run(out), progress_bars(quiet or as_json) as progress:
            if values["target"] == "survival":
                columns = values["time"] or "time", values["event"] or "event"
                cohort = _load_cohort(features, labels, *columns)
                found, files = _train_survival(recipe, cohort, out, device, progress)
            else:
                _refuse_columns(values)
                found, files = _train_classes(recipe, features, labels, out, device, progress)
    if as_json:
        print_json({**found, "files": {name: str(path) for name, path in files.items()}})
        return
    for name, path in files.items():
        click.echo(f"{name:12} {path}")
    for name, figures in found.items():
        click.echo(f"{name.replace('_', ' '):18} {_figures(figures)}")


def _refuse_columns(values: dict[str, Any]) -> None:
    given = [f"--{name}" for name in ("time", "event") if values[name] is not None]
    if given:
        raise click.UsageError(f"{' and '.join(given)} belong to --target survival")


def _figures(figures: dict[str, Any]) -> str:
    """Show a figure with its spread over folds, or with its interval."""
    if "folds" in figures:
        return f"{figures['mean']:.4f} ± {figures['deviation']:.4f} over {figures['folds']} folds"
    return f"{figures['value']:.4f}, 95 % interval {figures['low']:.4f} to {figures['high']:.4f}"


def _train_classes(
    recipe: MilRecipe,
    features: Sequence[Path],
    labels: Path,
    out: Path,
    device: str,
    progress: Progress,
) -> tuple[dict[str, Any], dict[str, Path]]:
    from wsi_models.devices import launch
    from wsi_models.mil.bags import bags_of_patients, order_classes, read_slide_labels
    from wsi_models.mil.cross_validation import run_mil

    rows = read_slide_labels(labels)
    bags = _load_bags(features, rows, order_classes(rows, recipe.positive))
    if recipe.bags == "patient":
        bags = bags_of_patients(bags)
    outcome = run_mil(recipe, bags, out, launch(device).device, progress)
    found = {name: spread._asdict() for name, spread in outcome.result.summary().items()}
    return found, outcome.files


def _train_survival(
    recipe: MilRecipe, cohort: Cohort, out: Path, device: str, progress: Progress
) -> tuple[dict[str, Any], dict[str, Path]]:
    from wsi_models.devices import launch
    from wsi_models.mil.survival.run import run_survival

    outcome = run_survival(recipe, cohort, out, launch(device).device, progress)
    result = outcome.result
    concordance = {"value": result.concordance, "low": result.low, "high": result.high}
    return {"concordance": concordance}, outcome.files


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
    from wsi_models.devices import launch
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
@click.option(
    "--patients",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with the columns slide_id and patient: judge all slides of a patient together.",
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
        wsi-pipeline mil predict runs/c/model features --patients cohort.csv --out predictions

    OUT/predictions.csv has one row per slide, or per patient. With --stores, OUT/<slide> holds
    attention.parquet, attention.geojson and a picture.
    """
    from wsi_models.devices import launch
    from wsi_models.mil.bundle import load_slide_model
    from wsi_models.mil.predict import judge_slides, write_judgements

    from wsi_pipeline.store.features import find_features, read_features

    with explained_errors(), training_errors():
        loaded = load_slide_model(model)
        loaded.head.to(launch(values["device"]).device)
        placed = _stores_by_slide(values["stores"])
        files, judgements = find_features(features), []
        bags = _patients(values["patients"], files)
        with progress_bars(quiet or as_json) as progress:
            progress.start("predict slides", len(files))
            for name, own in bags.items():
                slides = [read_features(path) for path in own]
                named = name if values["patients"] else slides[0].slide_id
                judgement, shares = judge_slides(
                    loaded, named, [(s.features, s.encoder) for s in slides]
                )
                judgements.append(judgement)
                for slide, attention in zip(slides, shares, strict=True):
                    if slide.slide_id in placed:
                        names = judgement.attention_names
                        _show(placed[slide.slide_id], slide, attention, names, out)
                progress.advance(len(own))
        table = write_judgements(out / "predictions.csv", judgements, loaded.config.class_names)
    if as_json:
        print_json([judgement.to_dict(loaded.config.class_names) for judgement in judgements])
        return
    click.echo(table)


def _load_bags(paths: Sequence[Path], rows: Sequence[SlideLabel], classes: Sequence[str]) -> Bags:
    """Bring files of features and labels together."""
    from wsi_models.mil.bags import make_bags

    described, load = _described(paths, {row.slide_id for row in rows})
    return make_bags(rows, described, load, classes)


def _load_cohort(paths: Sequence[Path], table: Path, time: str, event: str) -> Cohort:
    """Bring files of features and follow-up together."""
    from wsi_models.mil.survival.cohort import make_cohort, read_follow_up

    rows = read_follow_up(table, time, event)
    described, load = _described(paths, {row.slide_id for row in rows})
    return make_cohort(rows, described, load)


def _described(
    paths: Sequence[Path], wanted: set[str]
) -> tuple[dict[str, Described], LoadFeatures]:
    """Tell what is known of the features of slides, and how they are read."""
    from wsi_models.mil.bags import Described

    from wsi_pipeline.store.features import describe_features, find_features, read_features

    files = find_features(paths)
    described = {}
    for name, path in files.items():
        if name in wanted:
            facts = describe_features(path)
            entry = path.stat()
            content = f"{entry.st_size} {entry.st_mtime_ns}"
            described[name] = Described(facts.patches, facts.features, facts.encoder, content)
    return described, lambda name: read_features(files[name]).features


def _stores_by_slide(paths: Sequence[Path]) -> dict[str, PatchStore]:
    from wsi_pipeline.store.find import find_stores

    found: dict[str, PatchStore] = {}
    for store in find_stores(paths):
        first = found.setdefault(store.slide.slide_id, store)
        if first is not store:
            raise ConfigError(
                f"{first.path} and {store.path} are both of slide {store.slide.slide_id}; give one"
            )
    return found


def _patients(table: Path | None, files: Mapping[str, Path]) -> dict[str, list[Path]]:
    """Gather the files that are judged together: those of a patient, or each by itself."""
    from wsi_models.mil.bags import read_patients

    if table is None:
        return {name: [path] for name, path in files.items()}
    bags: dict[str, list[Path]] = {}
    for slide_id, patient in read_patients(table, files).items():
        bags.setdefault(patient, []).append(files[slide_id])
    return bags


def _show(
    store: PatchStore,
    slide: SlideFeatures,
    attention: NDArray[np.float32],
    names: Sequence[str],
    out: Path,
) -> None:
    from wsi_pipeline.results.attention import write_attention

    write_attention(store, slide, attention, names, out / slide.slide_id)
