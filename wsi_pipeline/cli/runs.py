"""What ``run`` and ``preprocess`` share: where and how slides are processed, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_report
from wsi_pipeline.cli.display import run_display
from wsi_pipeline.cli.options import Command, output_options
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.run.outcome import Status
from wsi_pipeline.slide.inputs import find_slides
from wsi_pipeline.slide.job import Share

if TYPE_CHECKING:
    from wsi_pipeline.config import PipelineConfig
    from wsi_pipeline.predict.trained import TrainedModel
    from wsi_pipeline.run.outcome import RunReport, SlideOutcome
    from wsi_pipeline.slide.job import SlideJob

BUCKET_SCHEME = "s3://"


def run_options(command: Command) -> Command:
    """Give a command what every run over slides takes."""
    decorators: list[Callable[[Any], Any]] = [
        click.option(
            "--out",
            required=True,
            metavar="FOLDER",
            help="Folder for the results, or s3://bucket/prefix; one folder per slide is made in "
            "it.",
        ),
        click.option(
            "--roi",
            type=click.Path(exists=True, path_type=Path),
            help="Annotation file whose areas bound the tiles, or a folder of <slide_id>.geojson, "
            ".json or .xml.",
        ),
        click.option(
            "--tissue-mask",
            type=click.Path(exists=True, path_type=Path),
            help="Where the tissue is, instead of detecting it: annotation file, or PNG or TIFF of "
            "the whole slide at any size, or a folder of <slide_id>.geojson, .png, .tif. 'export "
            "--to tissue' writes one to begin with.",
        ),
        click.option(
            "--overwrite",
            is_flag=True,
            help="Replace patch stores that were made with other options or are damaged.",
        ),
        redo_options,
        pseudonym_option,
        *_machine_options(),
    ]
    command = output_options(command)
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def pseudonym_option(command: Command) -> Command:
    """Give a command the table of pseudonyms."""
    return click.option(
        "--pseudonymise",
        metavar="TABLE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Give slides and patients random names; this CSV, outside of --out, tells them. "
        "Give the same again to go on.",
    )(command)


def redo_options(command: Command) -> Command:
    """Give a command what says how much is done of what is asked for."""
    only = click.option(
        "--only",
        multiple=True,
        metavar="ID",
        help="Of the slides that are named, do those of this id. Repeatable.",
    )
    redo = click.option(
        "--redo", is_flag=True, help="Do everything anew, also what is finished already."
    )
    return redo(only(command))


def chosen(slide_ids: Sequence[str], only: Sequence[str]) -> list[int]:
    """Return the places of the ids that ``--only`` names; of all if it names none.

    Raises
    ------
    ConfigError
        If it names one that is not there.
    """
    unknown = [name for name in only if name not in slide_ids]
    if unknown:
        raise ConfigError(
            f"--only {unknown[0]}: there is no slide of this id among the {len(slide_ids)} named"
        )
    return [place for place, name in enumerate(slide_ids) if not only or name in only]


def _machine_options() -> list[Callable[[Any], Any]]:
    """Return the options that say which machines do how much at a time."""
    return [
        *_worker_options(),
        _scratch_option(),
        click.option(
            "--slides-at-once",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            help="Slides prepared at a time, each in a process of its own. Pays with "
            "many cores and small slides; prediction runs beside it in any case.",
        ),
    ]


def _scratch_option() -> Callable[[Any], Any]:
    return click.option(
        "--scratch",
        type=click.Path(file_okay=False, path_type=Path),
        help="With --out s3://: local folder where the results of a slide lie until they are "
        "complete and moved; with --scheduler one that all workers see.  [default: a "
        "temporary folder]",
    )


def worker_options(command: Command) -> Command:
    """Give a command what says who does its work: threads, a cluster, a part of the slides."""
    for decorate in reversed([*_worker_options(), _scratch_option()]):
        command = decorate(command)
    return command


def _worker_options() -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            default=None,
            help="Threads per slide that read and unmix.  [default: the cores, shared among the "
            "slides at once]",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Dask scheduler whose workers do it all, such as tcp://head-node:8786. They must "
            "see slides and results under the same names as this machine.",
        ),
        click.option(
            "--shard-index",
            type=click.IntRange(min=0),
            help="Do only this part of the slides, counted from 0: $SLURM_ARRAY_TASK_ID of "
            "sbatch --array=0-9.",
        ),
        click.option(
            "--shard-count",
            type=click.IntRange(min=1),
            help="Number of parts, $SLURM_ARRAY_TASK_COUNT. Every part may write to the same --out "
            "at the same time; one index.html shows them all.",
        ),
    ]


class FeaturesPath(click.Path):
    """A file or folder of features here, or a folder in a bucket, which is copied here first."""

    name = "features"

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """Return the path, of the copy if it was in a bucket; it goes when the command ends."""
        if not str(value).startswith(BUCKET_SCHEME) or ctx is None:
            return super().convert(value, param, ctx)
        from wsi_pipeline.run.bucket import fetch_folder

        with ExitStack() as on_error:
            folder = on_error.enter_context(TemporaryDirectory(prefix="wsi-pipeline-"))
            with explained_errors():
                copied = fetch_folder(str(value), Path(folder))
            ctx.call_on_close(on_error.pop_all().close)
        return copied


def execute_run(
    inputs: Sequence[str],
    config: PipelineConfig,
    values: dict[str, Any],
    model: TrainedModel | None = None,
    *,
    store: bool = True,
) -> None:
    """Process slides as the options of :func:`run_options` say, and finish the command.

    Parameters
    ----------
    inputs : sequence of str
        What names the slides.
    config : PipelineConfig
        The configuration.
    values : dict
        Keywords of the command; ``labels`` among them if it takes annotated areas.
    model : TrainedModel or None
        Predicts too, if given.
    store : bool
        Keep the patches.
    """
    from wsi_pipeline.run.records import Records
    from wsi_pipeline.run.slides import RunOptions, run_slides

    share = share_of(values["shard_index"], values["shard_count"])
    jobs = find_slides(inputs, values["roi"], values.get("labels"), values["tissue_mask"])
    jobs = [jobs[place] for place in chosen([job.slide_id for job in jobs], values["only"])]
    with run_folder(values["out"], values["scratch"], values["scheduler"]) as (out, bucket):
        jobs = give_pseudonyms(jobs, config, values["pseudonymise"], out)
        options = RunOptions(
            out=out,
            config=config,
            workers=values["workers"],
            overwrite=values["overwrite"],
            redo=values["redo"],
            names=values["pseudonymise"],
            store=store,
            slides_at_once=values["slides_at_once"],
            scheduler=values["scheduler"],
            share=share,
            bucket=bucket,
        )
        with run_display(values["quiet"], as_json=values["as_json"]) as monitor:
            report = run_slides(jobs, options, model=model, monitor=monitor)
        log = Records(out).log_file(report.run)
        if options.names is not None:
            log = options.names.with_name(log.name)
    finish_run(report, values["out"], as_json=values["as_json"], log=log)


def give_pseudonyms(
    jobs: list[SlideJob], config: PipelineConfig, table: Path | None, out: Path
) -> list[SlideJob]:
    """Give slides their pseudonyms, if asked for; patients are found in their names before."""
    if table is None:
        return jobs
    from wsi_pipeline.slide.pseudonyms import pseudonymise
    from wsi_pipeline.tiles.classes import find_group

    pattern = config.label.group
    if pattern is not None:
        jobs = [replace(job, group=job.group or find_group(job.slide_id, pattern)) for job in jobs]
    return pseudonymise(jobs, table, out)


def finish_run(report: RunReport, out: str, *, as_json: bool, log: Path | None = None) -> None:
    """Print the report and where the log is, and exit with 1 if a slide failed."""
    if log is not None and log.exists():
        click.echo(f"Log: {log}", err=True)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        print_report(report, out)
    if report.count(Status.FAILED):
        raise SystemExit(1)


def exit_if_failed(outcomes: Sequence[SlideOutcome]) -> None:
    """Print why slides failed, and exit with 1 if one did."""
    failed = [outcome for outcome in outcomes if outcome.status is Status.FAILED]
    for outcome in failed:
        hint = f" ({outcome.hint})" if outcome.hint else ""
        click.echo(f"{outcome.slide_id} failed: {outcome.error}{hint}", err=True)
    if failed:
        raise SystemExit(1)


@contextmanager
def results_folder(out: str, scratch: Path | None = None) -> Iterator[tuple[Path, str | None]]:
    """Lend the local folder that results are written to, and the bucket they go to, if any."""
    if not out.startswith(BUCKET_SCHEME):
        yield Path(out), None
    elif scratch is not None:
        yield scratch, out
    else:
        with TemporaryDirectory(prefix="wsi-pipeline-") as folder:
            yield Path(folder), out


@contextmanager
def run_folder(
    out: str, scratch: Path | None, scheduler: str | None
) -> Iterator[tuple[Path, str | None]]:
    """Lend the folder and bucket of a run, as :func:`results_folder`; a cluster shares it."""
    if out.startswith(BUCKET_SCHEME) and scheduler is not None and scratch is None:
        raise ConfigError(
            f"with --scheduler, results for {out} pass through a folder that all workers see; "
            f"name one with --scratch"
        )
    with results_folder(out, scratch) as place:
        yield place


def share_of(index: int | None, count: int | None) -> Share:
    """Return the part of the slides that a command does; all if neither option is given."""
    if (index is None) != (count is None):
        raise click.UsageError("--shard-index and --shard-count need each other")
    if index is None or count is None:
        return Share(index=0, count=1)
    return Share(index=index, count=count)
