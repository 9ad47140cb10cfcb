"""The command ``wsi-pipeline config``: what a run would use."""

from __future__ import annotations

from typing import Any

import click

from wsi_pipeline.cli.console import explained_errors
from wsi_pipeline.cli.options import config_options, resolve_config
from wsi_pipeline.cli.training import training_errors
from wsi_pipeline.config import PipelineConfig, dump_config


@click.group()
def config() -> None:
    """Show the configuration, and the recipes of training."""


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


@config.command()
@click.argument("name")
def recipe(name: str) -> None:
    """Print a recipe of training that comes with the package.

    \b
    Keep it, change it, use it:
        wsi-pipeline config recipe class_m > my.toml
        wsi-pipeline train my.toml --data results --out runs/mine
    """
    from wsi_models.recipes import find_recipe

    with explained_errors(), training_errors():
        click.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)
