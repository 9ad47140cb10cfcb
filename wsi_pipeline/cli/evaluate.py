"""``wsi-pipeline evaluate``: a trained model and labelled patch stores -> how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json
from wsi_pipeline.cli.training import data_options, training_errors

if TYPE_CHECKING:
    from wsi_models.metrics import Evaluation


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@data_options()
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for evaluation.json, evaluation.md and evaluation.png.",
)
@click.option(
    "--split",
    "split_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="split.json of a run: evaluate one of its parts.  [default: all labelled patches]",
)
@click.option(
    "--part",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Which part of --split.",
)
@click.option(
    "--neighbours",
    is_flag=True,
    help="Judge features instead of outputs: the class of the nearest labelled patch in the "
    "training part of --split.",
)
@click.option(
    "--map",
    "labels",
    multiple=True,
    metavar="LABEL=CLASS",
    help="Class of a stored label that is not called as its class. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def evaluate(model: Path, out: Path, as_json: bool, **values: Any) -> None:
    """Judge a trained model on labelled patches: a bundle, or the folder of a run.

    \b
        wsi-pipeline evaluate runs/first/bundle --data other-hospital/ --out evaluation
        wsi-pipeline evaluate runs/first --data tiles.zarr --split runs/first/split.json \\
            --out evaluation
        wsi-pipeline evaluate runs/clusiam/bundle --data tiles.zarr --neighbours \\
            --split runs/clusiam/split.json --out evaluation

    Without --split every labelled patch counts: give tissue that the model was not trained on.
    """
    with explained_errors(), training_errors():
        evaluation, files = _run(model, out, values)
    if as_json:
        print_json({**evaluation.to_dict(), "files": {k: str(v) for k, v in files.items()}})
        return
    for name, path in files.items():
        click.echo(f"{name:12} {path}")
    for name, value in evaluation.headline().items():
        click.echo(f"{name.replace('_', ' '):18} {value:.4f}")
    if evaluation.absent:
        click.echo(f"without patches, left out of averages: {', '.join(evaluation.absent)}")


def _run(folder: Path, out: Path, values: dict[str, Any]) -> tuple[Evaluation, dict[str, Path]]:
    from wsi_models.devices import launch
    from wsi_models.experiment import evaluate_features, evaluate_model
    from wsi_models.predictor import load_predictor
    from wsi_models.splits import read_part

    from wsi_pipeline.cli.training import load_data

    split_file, neighbours = values["split_file"], values["neighbours"]
    if neighbours and split_file is None:
        raise click.UsageError("--neighbours needs --split, whose training part is compared with")
    model = load_predictor(folder)
    labels = {**model.labels, **dict(_pair(text) for text in values["labels"])}
    # neighbours tell all classes apart that the stores have, not those of the model
    classes = () if neighbours or model.judged_by == "neighbours" else model.class_names
    source = load_data(values["data"], classes, labels, values["memory_gib"])
    fabric = launch(values["device"])
    title = f"{folder.name} on {', '.join(path.name for path in values['data'])}"
    if split_file is None:
        return evaluate_model(model, source, out, fabric, title=title)
    indices = read_part(split_file, source.label, source.group, values["part"])
    if not neighbours:
        return evaluate_model(model, source, out, fabric, indices=indices, title=title)
    known = read_part(split_file, source.label, source.group, "train")
    parts, title = (known, indices), f"{title}, by nearest neighbours"
    return evaluate_features(model, source, out, fabric, parts=parts, title=title)


def _pair(text: str) -> tuple[str, str]:
    label, found, name = text.partition("=")
    if not found or not label or not name:
        raise click.BadParameter(f"{text!r} is not LABEL=CLASS", param_hint="--map")
    return label, name
