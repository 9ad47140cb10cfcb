"""The encoder that the documentation shows, installed as a package of its own and used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from wsi_models.encoders import EncoderError, available_encoders
from wsi_models.encoders.registry import GROUP

from wsi_pipeline.cli import main
from wsi_pipeline.store.features import find_features, read_features

if TYPE_CHECKING:
    from tests.known import KnownSlide

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


def example() -> str:
    """The module that the documentation shows."""
    section = DOCS.read_text(encoding="utf-8").split("## An encoder of your own")[1]
    (code,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    return str(code)


def install(folder: Path, name: str) -> None:
    about = folder / f"{name}-0.1.dist-info"
    about.mkdir()
    (folder / f"{name}_encoder.py").write_text(example(), encoding="utf-8")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text(
        f"[{GROUP}]\n{name} = {name}_encoder:ColourEncoder\n", encoding="utf-8"
    )


def test_the_documented_example_is_short() -> None:
    assert len(example().splitlines()) < 40


def test_an_installed_encoder_encodes_slides(
    known_slide: KnownSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "colours")
    monkeypatch.syspath_prepend(str(tmp_path))
    out = tmp_path / "features"
    arguments = ["features", str(known_slide.path), "--encoder", "colours", "--out", str(out)]

    done = CliRunner().invoke(main, [*arguments, "--min-tissue", "0.99", "--quiet"])

    assert done.exit_code == 0, done.output
    (slide,) = map(read_features, find_features([out]).values())
    assert slide.features.shape[1] == 6
    assert np.all((slide.features >= 0) & (slide.features <= 1))


def test_two_packages_may_not_give_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "colours")
    install(tmp_path, "hues")  # under another name of entry point, but the card says the same
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(EncoderError, match="two encoders 'colours'"):
        available_encoders()
