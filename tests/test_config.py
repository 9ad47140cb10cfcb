"""Configuration: precedence, strictness, round trip, hash."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from wsi_pipeline.config import PipelineConfig, dump_config, load_config
from wsi_pipeline.errors import ConfigError


def test_a_flag_beats_the_file_which_beats_the_model(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[tile]\nmpp = 1.0\npatch_size = 128\n")
    model = {"tile": {"mpp": 2.0, "patch_size": 64, "min_tissue": 0.1}}

    config = load_config(file, {"tile": {"patch_size": 32}}, base=model)

    assert (config.tile.patch_size, config.tile.mpp, config.tile.min_tissue) == (32, 1.0, 0.1)


def test_the_written_configuration_reads_back(tmp_path: Path) -> None:
    config = load_config(None, {"tile": {"stride": 100}, "store": {"keep_rgb": True}})
    file = tmp_path / "run.toml"
    file.write_text(dump_config(config))

    assert load_config(file) == config


def test_every_option_has_help_and_is_shown() -> None:
    text = dump_config(PipelineConfig())
    for stage, field in PipelineConfig.model_fields.items():
        assert f"[{stage}]" in text
        options = field.annotation.model_fields  # type: ignore[union-attr]
        for key, option in options.items():
            assert option.description, f"{stage}.{key} has no help"
            assert option.description in text
    assert set(tomllib.loads(text)) == set(PipelineConfig.model_fields)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[tile]\nmpp = -1\n", "tile.mpp = -1"),
        ("[tile]\nmagnification = 20\n", "tile.magnification"),
        ("[tiles]\nmpp = 1\n", "tiles"),
        ("tile = 3\n", "tile must be a table"),
        ("[tile\n", "cannot be read as TOML"),
        ("[store]\nchunk_patches = 7\nshard_patches = 16\n", "multiple of"),
        ('[store]\nhe_values = "float16"\nhe_bits = 5\n', "choose one of the two"),
        ('[read]\nreader = "magic"\n', "read.reader = 'magic'"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_value(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_config(file)

    assert "wrong.toml" in str(caught.value)
    assert named in str(caught.value)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PipelineConfig().tile.mpp = 1.0  # type: ignore[misc]


def test_prediction_options_do_not_change_what_a_store_holds() -> None:
    quick = load_config(None, {"predict": {"batch_size": 1}})
    other = load_config(None, {"tile": {"mpp": 1.0}})

    assert quick.preprocessing() == PipelineConfig().preprocessing()
    assert other.preprocessing() != PipelineConfig().preprocessing()
