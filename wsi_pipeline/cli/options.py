"""Click options generated from the configuration models, and the options commands share.

Defaults, help and ranges are read from ``wsi_pipeline.config``; none is written here.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin

import click

from wsi_pipeline.config import PipelineConfig, StageConfig, load_config, read_toml

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Command = TypeVar("Command", bound=Callable[..., Any])

_SEPARATOR = "__"

VERBOSE = "wsi_pipeline.verbose"
"""Key in the context of a command: whether it tells what happens."""


def config_options(*stages: str) -> Callable[[Command], Command]:
    """Give a command one option per single value of the named stages, and ``--config``.

    Parameters
    ----------
    *stages : str
        Fields of :class:`~wsi_pipeline.config.PipelineConfig`.

    Returns
    -------
    callable
        Decorator. The command receives ``config_file`` and one keyword per field, for
        :func:`resolve_config`.
    """

    def decorate(command: Command) -> Command:
        for stage in reversed(stages):
            model = PipelineConfig.model_fields[stage].annotation
            assert isinstance(model, type)
            assert issubclass(model, StageConfig)
            for key, field in reversed(model.model_fields.items()):
                if is_flag(field):
                    command = _option(stage, key, field)(command)
        return click.option(
            "--config",
            "config_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="TOML file of options; flags beat it. 'wsi-pipeline config show' prints one.",
        )(command)

    return decorate


def resolve_config(
    values: dict[str, Any], model_defaults: dict[str, dict[str, Any]] | None = None
) -> PipelineConfig:
    """Build the configuration from what :func:`config_options` collected.

    Parameters
    ----------
    values : dict
        Keywords of the command; the entries of :func:`config_options` are taken out of it.
    model_defaults : dict of dict or None
        Values by stage and key that the trained model suggests; flags and the file beat them.

    Returns
    -------
    PipelineConfig
        Flags beat the file, which beats the model, which beats the defaults.
    """
    config_file = values.pop("config_file")
    overrides: dict[str, dict[str, Any]] = {}
    for name in [name for name in values if _SEPARATOR in name]:
        stage, key = name.split(_SEPARATOR, 1)
        value = values.pop(name)
        if value is not None:
            overrides.setdefault(stage, {})[key] = value
    return load_config(config_file, overrides, base=model_defaults)


def _option(stage: str, key: str, field: FieldInfo) -> Callable[[Command], Command]:
    flag = "--" + key.replace("_", "-")
    name = f"{stage}{_SEPARATOR}{key}"
    kind = _value_type(field)
    shown = field.default.value if isinstance(field.default, StrEnum) else field.default
    description = field.description or ""
    if kind is bool:
        default = "on" if shown else "off"
        return click.option(
            f"{flag}/--no-{flag[2:]}",
            name,
            default=None,
            help=f"{description}  [default: {default}]",
        )
    suffix = "" if shown is None else f"  [default: {shown}]"
    return click.option(
        flag, name, type=_click_type(kind, field), default=None, help=description + suffix
    )


def is_flag(field: FieldInfo) -> bool:
    """Whether a field holds one value; tables and lists are for the TOML file alone."""
    return issubclass(_value_type(field), (bool, int, float, str))


def _value_type(field: FieldInfo) -> type:
    """Return the type of a field without its ``None``, or that of the container it is.

    A number or a word, such as ``auto``, is text here; the configuration tells them apart.
    """
    annotation = field.annotation
    if get_origin(annotation) in (types.UnionType, Union):
        parts = [part for part in get_args(annotation) if part is not types.NoneType]
        annotation = parts[0] if len(parts) == 1 else str
    found = get_origin(annotation) or annotation
    assert isinstance(found, type)
    return found


def _click_type(kind: type, field: FieldInfo) -> click.ParamType[Any] | type:
    if issubclass(kind, StrEnum):
        return click.Choice([member.value for member in kind])
    limits = {
        name: getattr(rule, name)
        for rule in field.metadata
        for name in ("gt", "ge", "le")
        if hasattr(rule, name)
    }
    if not limits or kind not in (int, float):
        return kind
    low = limits.get("gt", limits.get("ge"))
    range_type = click.IntRange if kind is int else click.FloatRange
    return range_type(min=low, max=limits.get("le"), min_open="gt" in limits)


def input_argument(command: Command) -> Command:
    """Give a command its slides."""
    return click.argument("inputs", nargs=-1, required=True, metavar="SLIDE...")(command)


def label_options(command: Command) -> Command:
    """Give a command annotated areas that label its tiles."""
    decorators = [
        click.option(
            "--labels",
            type=click.Path(exists=True, path_type=Path),
            help="Annotation file whose areas give the tiles their classes, or a folder of "
            "<slide_id>.geojson, .json or .xml: QuPath, ASAP, ImageScope, caMicroscope or NCRF.",
        ),
        click.option(
            "--label-map",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="TOML file with a table 'classes' (a class = a list of names of areas) and, as "
            "needed, 'ignored' and 'priority'; it beats [label] of --config.",
        ),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def add_label_map(values: dict[str, Any], label_map: Path | None) -> None:
    """Put the keys of a label map among what :func:`config_options` collected; flags beat them.

    Parameters
    ----------
    values : dict
        Keywords of the command; changed in place.
    label_map : Path or None
        TOML file with keys of the stage ``label``.

    Raises
    ------
    ConfigError
        If the file is not TOML.
    """
    if label_map is None:
        return
    for key, value in read_toml(label_map).items():
        name = f"label{_SEPARATOR}{key}"
        if values.get(name) is None:
            values[name] = value


def output_options(command: Command) -> Command:
    """Give a command ``--json`` and ``--quiet``."""
    for decorate in reversed(_output_options()):
        command = decorate(command)
    return command


def _note_verbose(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[VERBOSE] = value


def _output_options() -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Print the result as JSON; runs over slides tell how they go by a line of JSON "
            "per event on standard error.",
        ),
        click.option("--quiet", is_flag=True, help="No progress."),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_note_verbose,
            help="Tell what happens, with tracebacks.",
        ),
    ]


def model_option(command: Command) -> Command:
    """Give a command its trained model."""
    return click.option(
        "--model",
        "model_name",
        default="demo",
        show_default=True,
        metavar="BUNDLE",
        help="Folder of a trained bundle, the name of an embedded one, or onnx:FILE with a card "
        "beside it. 'demo' was trained on synthetic tissue: it shows how the pipeline works and "
        "says nothing about real tissue.",
    )(command)
