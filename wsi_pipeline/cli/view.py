"""The command ``wsi-pipeline view``: a results folder -> a page to look, label and learn in."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from threading import Thread
from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.learn import encoder_option
from wsi_pipeline.cli.options import config_options, resolve_config
from wsi_pipeline.errors import ConfigError


@click.command()
@click.argument("out", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--labels",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of <slide_id>.geojson that labels are read from and written to, such as the "
    "slides' own; annotations of the other formats in it are taken over.  [default: the folder of "
    "each slide's results]",
)
@click.option(
    "--slides",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the slides lie now, if they were moved since the run.",
)
@encoder_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Any other than the default is open to other machines, and the "
    "page then asks for the token in the address that is printed.",
)
@click.option("--port", default=8765, show_default=True, help="0 takes a free one.")
@click.option(
    "--name", "names", multiple=True, help="Further name that browsers call this machine by."
)
@click.option("--browser/--no-browser", default=True, help="Open the page.  [default: on]")
@config_options("predict")
def view(out: Path, browser: bool, **values: Any) -> None:
    """Look at results, label tiles and learn from the labels, in a page on this machine.

    \b
        wsi-pipeline view results
        wsi-pipeline view results --labels slides/       # QuPath's annotations, and back to it
        wsi-pipeline view results --host 0.0.0.0         # from another machine, with a token

    OUT is the folder of a run. The page shows slides, heatmaps, tiles and masks; labels drawn in
    it are saved at once as GeoJSON that QuPath opens, and every stroke redraws the map 'learned'.
    Nothing leaves the machine, and no network is needed.
    """
    with explained_errors():
        _serve(out, browser, values)


def _serve(out: Path, browser: bool, values: dict[str, Any]) -> None:
    try:
        from wsi_pipeline.view.app import View, make_app
        from wsi_pipeline.view.serve import ViewOptions, serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the page needs the package {error.name}; run: pip install 'wsi-pipeline[view]'"
        ) from error
    from wsi_pipeline.cli.learn import folder_learning
    from wsi_pipeline.run.apart import SlidesApart
    from wsi_pipeline.view.folder import ResultsFolder

    options = ViewOptions(
        host=values.pop("host"), port=values.pop("port"), names=values.pop("names")
    )
    folder = ResultsFolder(out, slides=values.pop("slides"), labels=values.pop("labels"))
    encoder = values.pop("encoder")
    config = resolve_config(values).predict

    def tell(address: str) -> None:
        click.echo(f"Open {address}\nStop with Ctrl-C.")
        if browser:
            webbrowser.open(address)

    with SlidesApart() as apart:
        shown = View(
            folder, lambda slides: folder_learning(slides, encoder, config, folder), apart.open
        )
        app = make_app(shown)
        Thread(target=shown.slides.warm_up, daemon=True).start()
        serve(app, options, tell)
