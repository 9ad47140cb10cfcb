"""The command ``wsi-pipeline info``: what a slide is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from wsi_pipeline.cli.console import explained_errors, print_json
from wsi_pipeline.cli.options import config_options, input_argument, resolve_config
from wsi_pipeline.errors import SlideError, WorkerLostError
from wsi_pipeline.slide.geometry import contradicts_objective

if TYPE_CHECKING:
    from wsi_pipeline.types import SlideInfo


@click.command()
@input_argument
@config_options("read")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def info(inputs: tuple[str, ...], as_json: bool, **values: Any) -> None:
    """Show size, resolution and levels of slides, and where the resolution was found.

    \b
        wsi-pipeline info slide.svs
        wsi-pipeline info 'slides/*.ndpi' --json
    """
    from wsi_pipeline.run.apart import SlidesApart
    from wsi_pipeline.slide.inputs import find_slides

    failed = False
    found: list[dict[str, Any]] = []
    with explained_errors(), SlidesApart(processes=1) as slides:
        config = resolve_config(values)
        for job in find_slides(inputs):
            try:
                with slides.open(job.path, config.read, job.mpp) as slide:
                    found.append({"path": str(job.path), **asdict(slide.info)})
                    if not as_json:
                        click.echo(_describe(slide.info))
            except (SlideError, WorkerLostError) as error:
                failed = True
                found.append({"path": str(job.path), "error": str(error)})
                if not as_json:
                    click.echo(f"Error: {error}", err=True)
    if as_json:
        print_json(found)
    if failed:
        raise SystemExit(1)


def _describe(slide: SlideInfo) -> str:
    width, height = slide.size_wh
    flagged = " (an estimate: check it)" if slide.mpp_source == "objective" else ""
    power = "" if slide.objective_power is None else f", {slide.objective_power:g}x objective"
    contradiction = contradicts_objective(slide)
    doubted = "" if contradiction is None else f"\n  doubt   {contradiction}"
    levels = ", ".join(
        f"{w} x {h} (1/{downsample:.4g})"
        for (w, h), downsample in zip(slide.level_sizes_wh, slide.level_downsamples, strict=True)
    )
    return (
        f"{slide.slide_id}\n"
        f"  size    {width} x {height} px, {width * slide.mpp / 1000:.2f} x "
        f"{height * slide.mpp / 1000:.2f} mm{power}\n"
        f"  mpp     {slide.mpp:.5g} um/px, from {slide.mpp_source}{flagged}\n"
        f"  levels  {levels}\n"
        f"  read by {slide.reader} ({slide.vendor})"
        f"{doubted}"
    )
