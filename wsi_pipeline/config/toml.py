"""A TOML file, flags and defaults -> the configuration, and back.

A flag beats the file, which beats the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from wsi_files import UnreadableError
from wsi_files.settings import explain_invalid
from wsi_files.settings import read_toml as read_any_toml
from wsi_pipeline.config.stages import PipelineConfig, StageConfig
from wsi_pipeline.errors import ConfigError


def load_config(
    path: Path | None = None,
    overrides: dict[str, dict[str, Any]] | None = None,
    base: dict[str, dict[str, Any]] | None = None,
) -> PipelineConfig:
    """Read a configuration.

    Parameters
    ----------
    path : Path or None
        TOML file with a table per stage; every key may be left out.
    overrides : dict of dict or None
        Values that beat the file, by stage and key.
    base : dict of dict or None
        Values that the file beats, by stage and key.

    Returns
    -------
    PipelineConfig
        The resolved configuration.

    Raises
    ------
    ConfigError
        If the file is not TOML, or a key or value is not valid.
    """
    file_values = read_toml(path) if path is not None else {}
    merged: dict[str, dict[str, Any]] = {}
    for layer in (base or {}, file_values, overrides or {}):
        for stage, keys in layer.items():
            if not isinstance(keys, dict):
                raise ConfigError(f"{path}: {stage} must be a table of options, got {keys!r}")
            merged.setdefault(stage, {}).update(keys)
    try:
        return PipelineConfig.model_validate(merged)
    except ValidationError as error:
        where = "" if path is None else f"{path}: "
        raise ConfigError(
            f"{where}{explain_invalid(error, 'configuration')}. See 'wsi-pipeline config show' for "
            f"every key."
        ) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    try:
        return read_any_toml(path)
    except UnreadableError as error:
        raise ConfigError(str(error)) from error


def dump_config(config: PipelineConfig) -> str:
    """Write a configuration as TOML, with the help of each option as a comment."""
    lines: list[str] = []
    for stage in PipelineConfig.model_fields:
        part: StageConfig = getattr(config, stage)
        values = part.model_dump(mode="json")
        lines.append(f"[{stage}]")
        for key, field in type(part).model_fields.items():
            lines.append(f"# {field.description}")
            lines += _toml_lines(key, values[key])
        lines.append("")
    return "\n".join(lines)


def _toml_lines(key: str, value: Any) -> list[str]:  # noqa: ANN401 -- any option
    """Write one option; tables as dotted keys, so that the stage's own table goes on after them."""
    if value is None or value == {}:
        return [f"# {key} ="]
    if isinstance(value, dict):
        return [f"{key}.{tomli_w.dumps({name: part}).rstrip()}" for name, part in value.items()]
    return [tomli_w.dumps({key: value}).rstrip()]
