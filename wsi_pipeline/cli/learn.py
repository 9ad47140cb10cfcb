"""The command ``wsi-pipeline learn``: results and annotated areas -> a map of every slide."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json, progress_bars
from wsi_pipeline.cli.options import Command, config_options, output_options, resolve_config

if TYPE_CHECKING:
    from wsi_pipeline.config import PredictConfig
    from wsi_pipeline.learn import FolderLearning
    from wsi_pipeline.learn.folder import SlideSource
    from wsi_pipeline.view.folder import ResultsFolder
    from wsi_pipeline.view.slides import Slides


def encoder_option(command: Command) -> Command:
    """Give a command the frozen encoder that labels are learnt with."""
    return click.option(
        "--encoder",
        default="efficientnet-lite0",
        show_default=True,
        metavar="NAME",
        help="Frozen encoder whose features are learnt from: the default, which saw photographs "
        "only, another of 'wsi-pipeline encoders', or the folder of a bundle on RGB patches.",
    )(command)


def folder_learning(
    source: SlideSource, encoder: str, config: PredictConfig, folder: ResultsFolder
) -> FolderLearning:
    """Say how the slides of a folder are learnt from, with the encoder loaded."""
    from wsi_pipeline.learn import FolderLearning
    from wsi_pipeline.models import load_encoder

    return FolderLearning(
        source=source, encoder=load_encoder(encoder), config=config, work=folder.work
    )


@click.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--labels",
    type=click.Path(exists=True, path_type=Path),
    help="Annotation file of the one slide of OUT, or a folder of <slide_id>.geojson, .json or "
    ".xml.  [default: the labels drawn with 'wsi-pipeline view']",
)
@click.option(
    "--classes",
    "class_names",
    help="Names of areas to tell apart, with commas between them.  [default: all names]",
)
@click.option(
    "--slides",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the slides lie now, if they were moved since the run.",
)
@click.option(
    "--training-stores",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the labelled tiles as patch stores for 'wsi-pipeline train --data' into this "
    "folder instead, one per slide that has labels, and learn nothing.",
)
@encoder_option
@config_options("predict")
@output_options
def learn(out: Path, as_json: bool, quiet: bool, **values: Any) -> None:
    """Learn classes from areas drawn on slides, and map every slide of the results.

    \b
        wsi-pipeline preprocess slides/ --out results
        wsi-pipeline learn results --labels areas.geojson
        wsi-pipeline learn results --labels slides/ --classes tumor,stroma

    OUT is the folder of a run whose patches were kept. A frozen encoder looks at every tile once;
    a calibrated linear classifier is fitted to the tiles in the areas and judged on slides or
    regions that were held out. OUT/<slide_id>/learned/ holds predictions.parquet,
    predictions.geojson and heatmap.png, as every model's folder does. 'wsi-pipeline view' does the
    same while you draw. A slide without labels that cannot be read does not stop the others, and
    the exit code is 1.
    """
    with explained_errors():
        stores = values.pop("training_stores")
        if stores is not None:
            written = _write_stores(out, stores, quiet or as_json, values)
            print_json(written) if as_json else click.echo("\n".join(written))
            return
        failed: dict[str, str] = {}
        judged, files = _learn(out, quiet or as_json, values, failed)
    if as_json:
        print_json({**judged, "files": files, "failed": failed})
    else:
        _print_judgement(judged)
        for paths in files.values():
            click.echo(paths["heatmap"])
    for slide_id, reason in failed.items():
        click.echo(f"{slide_id} failed: {reason}", err=True)
    if failed:
        raise SystemExit(1)


@contextmanager
def _opened(out: Path, values: dict[str, Any]) -> Iterator[Slides]:
    """Lend the slides of the results, decoded in processes that may die."""
    from wsi_pipeline.run.apart import SlidesApart
    from wsi_pipeline.view.folder import ResultsFolder
    from wsi_pipeline.view.slides import Slides

    folder = ResultsFolder(out, slides=values.pop("slides"), labels=values.pop("labels"))
    with SlidesApart() as apart, closing(Slides(folder, apart.open)) as slides:
        yield slides


def _learn(
    out: Path, quiet: bool, values: dict[str, Any], failed: dict[str, str]
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Learn, write the maps, and add to ``failed`` why slides have none."""
    from wsi_pipeline.learn import learn_folder
    from wsi_pipeline.view.classes import classes_of
    from wsi_pipeline.view.slides import write_map

    with _opened(out, values) as slides:
        wanted = values.pop("class_names")
        encoder = values.pop("encoder")
        task = folder_learning(slides, encoder, resolve_config(values).predict, slides.folder)
        classes = classes_of(slides, None if wanted is None else wanted.split(","))
        with progress_bars(quiet) as progress:
            learned, maps = learn_folder(
                task, classes, progress, lambda name, error: failed.update({name: str(error)})
            )
            files = {name: write_map(slides, name, predicted) for name, predicted in maps}
    names = [entry.name for entry in classes]
    judged = {
        "judgement": learned.judgement.to_dict(),
        "labelled_tiles": dict(zip(names, learned.counts, strict=True)),
        "temperature": learned.temperature,
    }
    return judged, {
        slide: {kind: str(path) for kind, path in paths.items()} for slide, paths in files.items()
    }


def _write_stores(out: Path, into: Path, quiet: bool, values: dict[str, Any]) -> list[str]:
    from wsi_pipeline.learn import label_by_strokes, write_training_store
    from wsi_pipeline.view.classes import classes_of
    from wsi_pipeline.view.jobs import TRAINING_STORE

    wanted = values["class_names"]
    written = []
    with _opened(out, values) as slides, progress_bars(quiet) as progress:
        names = [c.name for c in classes_of(slides, None if wanted is None else wanted.split(","))]
        for slide_id in slides.slide_ids():
            if not slides.has_labels(slide_id):
                continue
            store = slides.store(slide_id)
            tiles = label_by_strokes(slides.areas(slide_id), names, store.xy, store.extent)
            path = into / slide_id / TRAINING_STORE
            with slides.open(slide_id) as slide:
                write_training_store(path, store, slide, tiles, names, progress)
            written.append(str(path))
    return written


def _print_judgement(judged: dict[str, Any]) -> None:
    """Say how good the map is where it had no labels."""
    judgement = judged["judgement"]
    tiles = ", ".join(f"{name} {count}" for name, count in judged["labelled_tiles"].items())
    click.echo(f"labelled tiles: {tiles}")
    if judgement["accuracy"] is None:
        click.echo("accuracy: not known; draw each class in at least two places that lie apart")
        return
    click.echo(
        f"accuracy where it had no labels: {judgement['accuracy']:.1%} (95 % interval "
        f"{judgement['low']:.1%} to {judgement['high']:.1%}; {judgement['groups']} held-out "
        f"{judgement['by']}s, {judgement['tiles']} tiles)"
    )
    if judgement["unjudged"]:
        click.echo(f"drawn in one place only, so not judged: {', '.join(judgement['unjudged'])}")
