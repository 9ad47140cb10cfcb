"""The commands ``wsi-pipeline features``: slides or patch stores -> vectors, and what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json
from wsi_pipeline.cli.display import run_display
from wsi_pipeline.cli.groups import GroupWithDefault
from wsi_pipeline.cli.options import (
    Command,
    config_options,
    output_options,
    resolve_config,
)
from wsi_pipeline.cli.runs import (
    FeaturesPath,
    finish_run,
    give_pseudonyms,
    pseudonym_option,
    run_folder,
    share_of,
    worker_options,
)
from wsi_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from wsi_models.encoders.golden import GoldenVector

    from wsi_pipeline.predict.trained import TrainedEncoder
    from wsi_pipeline.slide.job import SlideJob
    from wsi_pipeline.types import StainMatrix


@click.group(cls=GroupWithDefault)
def features() -> None:
    """Compute features: one vector per patch, from slides or from patch stores.

    \b
        wsi-pipeline features slides/ --encoder uni2-h --weights uni2-h.bin --out features
        wsi-pipeline features results --model my-bundle --out features   # from patch stores
        wsi-pipeline features extract --help                             # every option of these
        wsi-pipeline features verify site-a/ site-b/                     # may they be mixed?
        wsi-pipeline features check uni2-h                               # the same as elsewhere?

    Every file carries a passport: encoder, weights, transform, pooling, precision, resolution,
    software and slide.
    """


def encoder_options(command: Command) -> Command:
    """Give a command its encoder, and what is chosen of it."""
    decorators: list[Callable[[Any], Any]] = [
        click.option(
            "--encoder",
            "--model",
            "name",
            default="demo",
            show_default=True,
            metavar="NAME",
            help="A published encoder ('wsi-pipeline encoders' lists them), a TOML file with a "
            "card of your own, onnx:FILE with a card beside it, or a bundle. 'demo' was trained on "
            "synthetic tissue: it shows how the pipeline works and says nothing about real tissue.",
        ),
        weights_options,
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def weights_options(command: Command) -> Command:
    """Give a command the weights of an encoder, and how it pools and cuts."""
    decorators: list[Callable[[Any], Any]] = [
        click.option(
            "--weights",
            type=click.Path(exists=True, path_type=Path),
            help="File of the encoder's weights, or a folder that holds it.  [default: what the "
            "hub's own cache holds]",
        ),
        click.option(
            "--allow-download",
            is_flag=True,
            help="Fetch weights that are not here from the hub, with your own token. Nothing is "
            "contacted otherwise.",
        ),
        click.option(
            "--pooling",
            type=click.Choice(["class", "mean", "class+mean"]),
            help="Which tokens become the vector.  [default: as published]",
        ),
        click.option(
            "--tile-px",
            type=click.IntRange(min=1),
            help="Cut tiles of so many px and resize them to the encoder's input, as programs do "
            "that cut 256 for an input of 224.  [default: as published]",
        ),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def load_chosen(values: dict[str, Any]) -> TrainedEncoder:
    """Load the encoder that the options of :func:`encoder_options` name; takes them out."""
    from wsi_pipeline.models import EncoderChoices, load_encoder

    name = values.pop("name")
    keys = ("weights", "allow_download", "pooling", "tile_px")
    choices = EncoderChoices(**{key: values.pop(key) for key in keys})
    return load_encoder(name, choices)


@features.command()
@click.argument("inputs", nargs=-1, required=True, metavar="SLIDE_OR_STORE...")
@encoder_options
@click.option(
    "--out",
    required=True,
    metavar="FOLDER",
    help="Folder for the files, one per slide and named after it, or s3://bucket/prefix.",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["h5", "clam", "stamp", "anndata", "zarr"]),
    default="h5",
    show_default=True,
    help="h5: HDF5 as TRIDENT writes it; clam: the same in CLAM's two folders; stamp: HDF5 of "
    "STAMP; anndata: h5ad; zarr.",
)
@click.option(
    "--normalise",
    type=click.Choice(["none", "macenko"]),
    default="none",
    show_default=True,
    help="Give every tile the stains of the target first (Macenko normalisation).",
)
@click.option(
    "--normalise-to",
    type=click.Path(exists=True, path_type=Path),
    help="Patch store of the slide whose stains are the target.  [default: the reference that "
    "came with Macenko's method]",
)
@click.option("--redo", is_flag=True, help="Compute also what is there already.")
@pseudonym_option
@worker_options
@config_options("read", "tissue", "tile", "stain", "predict")
@output_options
def extract(inputs: tuple[str, ...], out: str, layout: str, **values: Any) -> None:
    """Compute the features of slides, or of the patches of stores.

    \b
        wsi-pipeline features slides/ --encoder uni2-h --weights uni2-h.bin --out features
        wsi-pipeline features slides.csv --encoder efficientnet-lite0 --out features
        wsi-pipeline features results --model my-bundle --out features
        wsi-pipeline features slides/ --encoder uni2-h --out features --scheduler tcp://head:8786
        wsi-pipeline features slides/ --encoder uni2-h --out s3://bucket/features
        wsi-pipeline mil train features --labels slides.csv --model abmil --out runs/slides

    A slide is given as for 'run': file, folder, glob or CSV table. Tiles have the resolution and
    size that the encoder asks for. A patches.zarr, or a results folder with such stores, gives the
    patches in it. A file with the same tiles by the same encoder is kept, so that an interrupted
    command goes on where it was. The exit code is 1 when a slide failed; the others are done.
    """
    from wsi_pipeline.models import encoder_defaults
    from wsi_pipeline.results.export.features import Layout
    from wsi_pipeline.run.features import FeatureChoices, find_sources, run_features
    from wsi_pipeline.run.folder import RunOptions

    with explained_errors():
        target = _target(values.pop("normalise"), values.pop("normalise_to"))
        encoder = load_chosen(values)
        click.echo(f"Encoder {encoder.spec.name} was trained on: {encoder.trained_on}.", err=True)
        config = resolve_config(values, encoder_defaults(encoder))
        names = values["pseudonymise"]
        jobs = find_sources(inputs)
        _refuse_named_stores(jobs, names)
        choices = FeatureChoices(layout=Layout(layout), target=target)
        with run_folder(out, values["scratch"], values["scheduler"]) as (folder, bucket):
            options = RunOptions(
                out=folder,
                config=config,
                workers=values["workers"],
                redo=values["redo"],
                scheduler=values["scheduler"],
                share=share_of(values["shard_index"], values["shard_count"]),
                names=names,
                bucket=bucket,
            )
            jobs = give_pseudonyms(jobs, config, names, folder)
            with run_display(values["quiet"] or values["as_json"]) as monitor:
                report = run_features(jobs, options, encoder, choices, monitor)
    finish_run(report, out, as_json=values["as_json"])


def _refuse_named_stores(jobs: Sequence[SlideJob], table: Path | None) -> None:
    from wsi_pipeline.run.features import is_store

    stores = [job.path for job in jobs if is_store(job.path)]
    if table is not None and stores:
        raise ConfigError(
            f"{stores[0]} carries the name of its slide: pseudonyms are given to slides, so give "
            f"the slide, or preprocess it with --pseudonymise and leave the option out here"
        )


def _target(normalise: str, store: Path | None) -> StainMatrix | None:
    from wsi_pipeline.stain import REFERENCE
    from wsi_pipeline.store import PatchStore

    if store is not None:
        return PatchStore.open(store).stain.matrix
    return REFERENCE if normalise == "macenko" else None


@features.command()
@click.argument("name", metavar="ENCODER")
@weights_options
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the vector of another place.  [default: those kept with the package]",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the vector to this file instead of comparing it.",
)
def check(against: Path | None, out: Path | None, **values: Any) -> None:
    """Say whether an encoder gives here what it gave elsewhere.

    \b
        wsi-pipeline features check efficientnet-lite0
        wsi-pipeline features check uni2-h --weights uni2-h.bin --out uni2-h.toml   # one place
        wsi-pipeline features check uni2-h --weights uni2-h.bin --against uni2-h.toml  # another

    One tile that is made by integer arithmetic is encoded on the processor in float32. The exit
    code is 1 if the vector differs.
    """
    from wsi_models.encoders.golden import (
        TOLERANCE,
        GoldenVector,
        golden_tile,
        kept_vectors,
        read_golden,
        write_golden,
    )

    from wsi_pipeline.predict.golden import encode_tile

    with explained_errors():
        encoder = load_chosen(values)
        name = encoder.spec.name
        vector = encode_tile(encoder, golden_tile(encoder.spec.patch_px))
        found = GoldenVector.of(vector, encoder.fingerprint)
        if out is not None:
            out.write_text(write_golden({name: found}), encoding="utf-8")
            click.echo(out)
            return
        kept = kept_vectors() if against is None else _golden_of(against, read_golden)
        if name not in kept:
            raise ConfigError(
                f"no golden vector of {name} is kept in {against or 'the package'}; make one "
                "where its weights are, with --out FILE, and give it with --against FILE"
            )
        difference = found.difference(kept[name])
    same = difference <= TOLERANCE
    click.echo(
        f"{name}: {'the same vector' if same else 'ANOTHER VECTOR'}, largest difference "
        f"{difference:.1e} of the root mean square (allowed {TOLERANCE:g})"
    )
    if kept[name].identity != found.identity:
        click.echo("Weights, transform, pooling or tiles are not those of the kept vector.")
    if not same:
        raise SystemExit(1)


def _golden_of(
    path: Path, read: Callable[[str, str], dict[str, GoldenVector]]
) -> dict[str, GoldenVector]:
    from wsi_models.encoders import EncoderError

    try:
        return read(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, EncoderError) as error:
        raise ConfigError(str(error)) from error


def _files_argument(command: Command) -> Command:
    return click.argument(
        "files",
        nargs=-1,
        required=True,
        metavar="FEATURES...",
        type=FeaturesPath(),
    )(command)


@features.command()
@_files_argument
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def verify(files: Sequence[Path], as_json: bool) -> None:
    """Say whether files of features may be mixed, and why not.

    \b
        wsi-pipeline features verify site-a/ site-b/

    FEATURES are files or their folders, also s3://bucket/folder. They may be mixed if encoder,
    weights, transform, pooling, resolution and stain normalisation agree. Differences by rounding,
    such as of the precision, are told of, but do not forbid it. The exit code is 1 if they may not
    be mixed.
    """
    from wsi_pipeline.store.features import find_features
    from wsi_pipeline.store.verify_features import verify_features

    with explained_errors():
        verdict = verify_features(find_features(files, unique=False))
    if as_json:
        print_json(verdict.to_dict())
    else:
        click.echo(str(verdict))
    if not verdict.may_mix:
        raise SystemExit(1)


@features.command()
@_files_argument
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Table to write, .csv or .parquet.",
)
def mean(files: Sequence[Path], out: Path) -> None:
    """Average the vectors of each slide: a table with one row per slide.

    \b
        wsi-pipeline features mean features --out slides.parquet

    Columns are slide_id, patches and feature_0, feature_1, ... Files that may not be mixed
    ('features verify') are refused.
    """
    from wsi_pipeline.results.export.slide_features import write_slide_means
    from wsi_pipeline.store.features import find_features

    with explained_errors():
        click.echo(write_slide_means(out, find_features(files)))
