"""The command ``wsi-pipeline config``: what a run would use."""

from __future__ import annotations

from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.options import config_options, resolve_config
from wsi_pipeline.config import PipelineConfig, dump_config


@click.group()
def config() -> None:
    """Show the configuration."""


@config.command()
@config_options(*PipelineConfig.model_fields)
def show(**values: Any) -> None:
    """Print the resolved configuration as TOML, with the help of every option.

    \b
    Keep it, change it, use it:
        wsi-pipeline config show > my.toml
        wsi-pipeline run slides/ --out results --config my.toml
    """
    with explained_errors():
        click.echo(dump_config(resolve_config(values)))
